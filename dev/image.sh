#!/bin/sh
# usage: image.sh engine | image.sh build [TAG [CONTEXT]]
# Finds a container engine that runs here and prints its name, or builds the image with it.
#
# CONTAINER names the engine (docker, podman). Otherwise: podman as CONTAINER_TOOLS (default: ../shared/container) sets
# it up, where that folder is there, with a local stand-in for the base image, for machines that reach no registry;
# else docker or podman, whichever runs. Exit code 75: there is none.
set -eu
cd "$(dirname "$0")/.."

fail() {
    echo "image.sh: $1" >&2
    exit 75
}

tools=${CONTAINER_TOOLS-../shared/container}
[ -z "${CONTAINER:-}" ] && [ -x "$tools/setup.sh" ] || tools=
if [ -n "$tools" ]; then
    "$tools/setup.sh" >&2 || fail "$tools/setup.sh failed, see above"
    engine=podman
else
    engine=
    for name in ${CONTAINER:-docker podman}; do
        if "$name" info >/dev/null 2>&1; then engine=$name && break; fi
    done
    [ -n "$engine" ] || fail "no container engine runs here (${CONTAINER:-docker, podman}); CONTAINER=... names another"
fi

case ${1:-} in
engine)
    echo "$engine"
    ;;
build)
    began=$(date +%s)
    tag=${2:-bridge-server} context=${3:-.}
    revision=$(git rev-parse HEAD 2>/dev/null || :)
    label=org.opencontainers.image.revision=$revision
    if [ -n "$tools" ]; then
        base=$(sed -n 's/^FROM \(python:[^ ]*\).*/\1/p' Dockerfile | tail -n 1)
        "$tools/base-image.sh" "$base" || fail "$base could not be made, see above"
        "$tools/build.sh" "$context" "$tag" --label "$label"
    else
        # podman's own format has no HEALTHCHECK.
        case $("$engine" --version) in podman*) set -- --format=docker ;; *) set -- ;; esac
        "$engine" build "$@" --label "$label" --tag "$tag" "$context"
    fi
    echo "$tag was built in $(($(date +%s) - began)) s"
    ;;
*)
    echo "usage: image.sh engine | image.sh build [TAG [CONTEXT]]" >&2
    exit 2
    ;;
esac
