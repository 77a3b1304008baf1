"""The access log: which requests are told, and what of them."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from gunicorn.glogging import Logger

if TYPE_CHECKING:
    from app.telemetry.sampling import Sampler

QUIET_PATHS = {"/healthz", "/readyz", "/health", "/metrics"}  # asked all day; only what goes wrong there is told


class JsonLogger(Logger):  # type: ignore[misc]  # gunicorn has no types
    """Access lines with few, fixed fields: no query string, no headers, nothing of a probe that went well.

    Of what is refused by a rate limit, and of probes that fail, one a minute is told, with the number of the others.
    """

    sampler: Sampler | None = None

    def access(self, resp: Any, req: Any, environ: dict[str, Any], request_time: timedelta) -> None:
        path, status = environ.get("PATH_INFO", ""), getattr(resp, "status_code", 0)
        quiet = path in QUIET_PATHS
        suppressed: int | None = 0
        if quiet and status < 400:
            return
        if quiet or status == 429:
            suppressed = self.sampled(path, status)
            if suppressed is None:
                return
        fields = {
            "method": environ.get("REQUEST_METHOD", ""),
            "path": path[:512],
            "status": status,
            "bytes": resp.sent,
            "durationMs": round(request_time.total_seconds() * 1000, 1),
            "peer": environ.get("REMOTE_ADDR", ""),
        }
        if "bridge.request_id" in environ:
            fields["requestId"] = environ["bridge.request_id"]
        if "bridge.error_code" in environ:
            fields["code"] = environ["bridge.error_code"]
        if suppressed:
            fields["suppressed"] = suppressed
        self.access_log.info("access", extra=fields)

    @classmethod
    def sampled(cls, *kind: object) -> int | None:
        """How many of this kind were left out since the last that was told; ``None``: so is this one."""
        from app.telemetry.sampling import Sampler

        if cls.sampler is None:
            cls.sampler = Sampler()  # in the worker, for each its own
        return cls.sampler.take(kind)
