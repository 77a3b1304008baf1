"""gunicorn's configuration: settings from a child, JSON logs, reloads that are checked, and workers that drain.

The master imports nothing of ``app``: it lives through reloads, and would keep old code. What it needs it asks a child,
``python -m app.settings``; its own parts, ``app/server``, it loads under another name, and the hooks that run in a
worker import there.
"""

from gevent import config as gevent_config
from gevent import events, monkey

events.notify_and_call_entry_points = events.notify  # each event would look through all that is installed for plugins
monkey.patch_all()  # before anything else is imported
gevent_config.track_greenlet_tree = False  # who spawned it, with the stack: 2 KiB of each greenlet, for debuggers

import gc
import os
import shutil
import signal
import sys
import tempfile
import types
from pathlib import Path

HERE = Path(__file__).resolve().parent
WORKER_METRICS_BYTES = 1024**2  # three files, and a fold's two

# What outlives a reload; this file is executed anew by each.
kept = sys.modules.setdefault("bridge_master", types.ModuleType("bridge_master"))


def load_anew(name, folder):
    """Have the modules of ``app/folder`` under this name, and anew: a worker imports ``app`` for itself."""
    for known in [known for known in sys.modules if known.partition(".")[0] == name]:
        del sys.modules[known]
    package = sys.modules[name] = types.ModuleType(name)
    package.__path__ = [str(HERE / "app" / folder)]


load_anew("bridge_telemetry", "telemetry")
load_anew("bridge_server", "server")

from bridge_server.stages import EARLY_SIGNALS
from bridge_server.start import CHECKING

if not CHECKING and not hasattr(kept, "lock_fd"):
    # At the start: what comes before the master's handlers stand waits for them (when_ready).
    signal.pthread_sigmask(signal.SIG_BLOCK, EARLY_SIGNALS)
if not hasattr(kept, "lock_fd"):
    kept.lock_fd = os.memfd_create("log-lock")
    kept.served_fd = os.memfd_create("served")  # shared with all workers; not empty: one of them has come up

from bridge_telemetry import master as logs

if not CHECKING:
    logs.begin(kept.lock_fd)

from bridge_server.access_log import JsonLogger
from bridge_server.master import Master
from bridge_server.metrics_folder import make_metrics_folder
from bridge_server.service_manager import take_socket
from bridge_server.start import checked_settings
from bridge_server.worker import DrainWorker as Worker

if not hasattr(kept, "notify_socket"):
    kept.notify_socket = take_socket()

# gunicorn puts it in front only where it is not on the path yet: a release that comes back would stay behind the one
# before it. And of that one nothing is left on it.
sys.path[:] = [str(HERE), *(path for path in sys.path if path not in (str(HERE), getattr(kept, "folder", "")))]
kept.folder = str(HERE)

os.chdir(HERE)
settings = checked_settings(kept)
if CHECKING:
    # A reload's check inherits the running server's, whose files it must not touch.
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
    os.environ.pop("prometheus_multiproc_dir", None)
else:
    if not hasattr(kept, "metrics_folder"):
        kept.metrics_folder = make_metrics_folder(kept)
        kept.dropped_fd = os.open(kept.metrics_folder / "master-dropped", os.O_RDWR | os.O_CREAT, 0o600)
    # Before any worker imports prometheus-client, which looks at it once.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(kept.metrics_folder)


class DrainWorker(Worker):
    # gunicorn makes its workers itself, so what they are given stands in their class; it looks at worker_class anew
    # at each reload. Master and JsonLogger are made once: their code is that of the start.
    head_timeout_s = settings["head_timeout"]
    served_fd = kept.served_fd


# -- hooks ------------------------------------------------------------------------------------------


def on_reload(server):
    server.log.info("configured", extra={"summary": settings["summary"]})


def when_ready(server):
    on_reload(server)
    Master.take_over(server, kept=kept)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, EARLY_SIGNALS)


def post_fork(server, worker):
    gc.disable()  # while the application is loaded; nothing of that is garbage

    from app.telemetry import context
    from app.telemetry.logs import configure

    configure(level=settings["log_level"], context=context.current, lock_fd=kept.lock_fd)
    try:
        kept.metrics_folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # somebody may have cleaned up
        with tempfile.TemporaryFile(dir=kept.metrics_folder) as tried:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(tried.fileno(), 0, WORKER_METRICS_BYTES)
    except OSError as exc:
        # Writing to a file that is mapped there would kill the worker. It serves all the same, and counts for itself.
        del os.environ["PROMETHEUS_MULTIPROC_DIR"]
        server.log.error("metrics cannot be kept with the other workers'", extra={"reason": repr(exc)})
        return
    from app.telemetry import metric_files

    try:
        metric_files.tidy(kept.metrics_folder)
    except (OSError, ValueError, metric_files.FolderBusyError) as exc:
        server.log.warning("metrics of earlier workers were not folded", extra={"reason": repr(exc)})


def post_worker_init(worker):
    gc.freeze()  # what is loaded stays to the end: no collection has to look through it
    gc.enable()
    if worker.bridge:
        worker.bridge.start()
    # What the start has made stays: 80 000 objects that each full collection would walk, while the loop stands still
    # (26 ms). Now it leaves them out.
    gc.collect()
    gc.freeze()


def child_exit(server, worker):
    # What prometheus-client's mark_process_dead does; the master imports nothing of it.
    for path in kept.metrics_folder.glob(f"gauge_live*_{worker.pid}.db"):
        path.unlink(missing_ok=True)


def on_exit(server):
    if hasattr(kept, "own_metrics_folder"):
        shutil.rmtree(kept.own_metrics_folder, ignore_errors=True)


def worker_exit(server, worker):
    if "app.telemetry.logs" in sys.modules:
        sys.modules["app.telemetry.logs"].flush()


# -- gunicorn's settings ----------------------------------------------------------------------------

chdir = str(HERE)
bind = settings["bind"]
workers = settings["workers"]
worker_class = DrainWorker
worker_connections = 10_000  # WebSockets count; the application refuses sessions far below
timeout = 30  # a blocked loop, not a long request
graceful_timeout = settings["graceful_timeout"]
keepalive = 130  # above any proxy's idle timeout, or the proxy meets closed connections
max_requests = 0  # would throw out every session
preload_app = False  # a reload must load new code
control_socket_disable = True
forwarder_headers = ""  # SCRIPT_NAME from whoever is on this machine would make a path of ours out of another
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
logger_class = JsonLogger
accesslog = "-"
loglevel = settings["log_level"]
logconfig_dict = {} if CHECKING else logs.config(settings["log_level"], kept.lock_fd, kept.dropped_fd)
