"""The WebSocket handshake: simple_websocket's, without its reader, its buffers and its extensions."""

from __future__ import annotations

from typing import Any

from gevent.event import Event as Wakeup
from simple_websocket import Server
from wsproto.utilities import RemoteProtocolError

from app.errors import CallerError

# All that the handshake looks at. Extensions are not among them, so compression is never agreed on: a small deflated
# frame could otherwise unpack to hundreds of megabytes.
_HEADERS = ("HTTP_HOST", "HTTP_UPGRADE", "HTTP_CONNECTION", "HTTP_SEC_WEBSOCKET_KEY", "HTTP_SEC_WEBSOCKET_VERSION")


def shake_hands(environ: dict[str, Any]) -> bool:
    """Answer with 101; tells whether the client was still there.

    :raises CallerError: this is no WebSocket handshake; nothing was sent.
    """
    slim = {key: environ[key] for key in (*_HEADERS, "gunicorn.socket") if key in environ}
    return not _Handshake(slim).lost


class _NoThread:
    """Stands where the library would start its reader."""

    name = ""

    def __init__(self, target: Any) -> None:
        """``target`` is not kept; it would tie the socket into a cycle."""

    def start(self) -> None:
        """Nothing runs."""


class _Handshake(Server):  # type: ignore[misc]  # the library has no types
    lost = False

    def __init__(self, environ: dict[str, Any]) -> None:
        super().__init__(environ, thread_class=_NoThread, event_class=Wakeup)

    def handshake(self) -> None:
        try:
            super().handshake()
        except OSError:
            # The client left while it was being let in. The library wants ``connected`` now.
            self.connected = self.lost = True
        except (RemoteProtocolError, UnicodeError) as exc:
            raise CallerError("This is not a WebSocket handshake of version 13.") from exc
