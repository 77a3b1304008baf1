"""The server around the application: what gunicorn's master and workers do otherwise than gunicorn's own.

``gunicorn.conf.py`` loads these modules as ``bridge_server``, anew at each reload. The master may not import ``app``:
it lives on, would keep old code, and its workers would inherit that. So these modules import each other by relative
names, and of ``app`` nothing, but for methods that run in a worker, as they run.
"""
