# The bridge as an image: `make image` builds it as bridge-server, docs/operations.md says how to run it.

# -- packages: wheels only, checked against the lock's hashes, compiled; its tools stay here
FROM python:3.13-slim-trixie AS packages
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN ["python", "-m", "venv", "--without-pip", "/opt/venv"]
COPY requirements.lock /tmp/
RUN pip --python /opt/venv/bin/python install --no-compile --only-binary :all: --require-hashes -r /tmp/requirements.lock \
    && /opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/venv/lib
# The Claude program is most of the image, and seldom another one. With a fixed date it is the same layer until then.
RUN bundled=$(echo /opt/venv/lib/python3.*/site-packages/claude_agent_sdk/_bundled) \
    && mkdir /opt/claude \
    && mv "$bundled/claude" /opt/claude/claude \
    && ln -s /opt/claude/claude "$bundled/claude" \
    && touch --date=@0 /opt/claude/claude /opt/claude

# -- code: what runs, compiled; a file that is mounted over one of these is still seen (checked-hash)
FROM packages AS code
COPY gunicorn.conf.py wsgi.py /srv/bridge/
COPY app /srv/bridge/app
RUN ["/opt/venv/bin/python", "-m", "compileall", "-q", "--invalidation-mode", "checked-hash", "/srv/bridge/app", "/srv/bridge/wsgi.py"]

# -- what is shipped: the rarely changed first
FROM python:3.13-slim-trixie
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log \
    && pip uninstall --yes --quiet --root-user-action ignore pip \
    && groupadd --gid 10001 bridge \
    && useradd --uid 10001 --gid bridge --home-dir /data --no-create-home --shell /usr/sbin/nologin bridge \
    && install --directory --owner=bridge --group=bridge --mode=0700 /data
COPY --from=packages /opt/claude /opt/claude
COPY --from=packages /opt/venv /opt/venv
COPY --from=code /srv/bridge /srv/bridge

LABEL org.opencontainers.image.title="bridge-server" \
    org.opencontainers.image.description="Self-healing bridge between n8n and an agent"
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    FLASK_APP=wsgi \
    BIND=0.0.0.0:3000 \
    JOURNAL_PATH=/data/journal.db
WORKDIR /srv/bridge
USER 10001:10001
VOLUME ["/data"]
EXPOSE 3000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-IS", "app/ops/probe.py"]
ENTRYPOINT ["tini", "--"]
# A stop that comes in the first second waits until gunicorn can obey it; gunicorn.conf.py lets the signals through.
CMD ["env", "--block-signal=TERM,INT,HUP", "gunicorn", "-c", "gunicorn.conf.py", "wsgi:app"]
