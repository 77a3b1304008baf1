"""A ``wsgi.py`` with routes that fail on purpose: ``/fail/<code>`` answers what the bridge makes of that failure."""

from app import create_app, errors

FAILURES = {
    "bug": ZeroDivisionError("/secret/path.py"),
    "limit": errors.RateLimitError(retry_after_s=3),
    "busy": errors.BusyError(),
    "draining": errors.DrainingError(),
    "journal": errors.JournalUnavailableError(),
    "n8n": errors.N8nError(),
    "agent": errors.ClaudeExecutionError(),
}
app = create_app()


@app.route("/fail/<name>", methods=["GET", "POST", "DELETE"])
def fail(name: str) -> str:
    raise FAILURES[name]


@app.get("/headers")
def header() -> tuple[str, dict[str, str]]:
    return "", {"X-Bad": "a\0b"}
