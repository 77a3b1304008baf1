"""What gunicorn serves: ``gunicorn -c gunicorn.conf.py wsgi:app``; and what ``flask`` takes its commands from."""

import click

from app import cli
from app.errors import ConfigError
from app.factory import create_app

try:
    app = create_app()
except ConfigError as exc:
    if click.get_current_context(silent=True) is None:
        raise  # a server does not start with wrong settings
    app = cli.misconfigured(exc.detail)
