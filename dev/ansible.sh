#!/usr/bin/env bash
# usage: ansible.sh lint | ansible.sh test
# lint: syntax and rules of ansible/, with what .venv-ansible has (make ansible-lint).
# test: site.yml, reload.yml, rollback.yml and n8n-error-workflow.yml on a throw-away Debian with systemd and nginx, under
# load (make ansible-test). Needs root, and the folder that INFRA_TOOLS names (default: ../shared/infra) with
# ansible-target.sh, which starts such a machine with podman; exit code 75 where that cannot be. KEEP=1 leaves it running.
set -euo pipefail
cd "$(dirname "$0")/.."
unset CDPATH
export ANSIBLE_CONFIG=$PWD/ansible/ansible.cfg ANSIBLE_NOCOLOR=1 ANSIBLE_LOCALHOST_WARNING=false
books=(site reload rollback n8n-error-workflow)

fail() { echo "ansible.sh: $*" >&2; exit 1; }
cannot() { echo "ansible.sh: not run: $*" >&2; exit 75; }
say() { printf -- '-- %4d s  %s\n' "$SECONDS" "$*"; }

lint() {
    export PATH=$PWD/.venv-ansible/bin:$PATH ANSIBLE_HOME=$PWD/var/ansible-home
    for book in "${books[@]}"; do
        ansible-playbook -i ansible/inventory.example.ini --syntax-check "ansible/$book.yml" >/dev/null
    done
    (cd ansible && ansible-lint --offline --nocolor -q)
}

# -- what is brought along, for the target has no network

# What the lock asks of the target's Python: pip would judge the markers by this machine's.
bring_wheels() {
    local version
    version=$(target exec python3 -c 'import platform; print(platform.python_version())')
    podman exec --interactive "$TARGET_NAME" python3 -c '
import re, sys
from packaging.requirements import Requirement
for entry in re.sub(r"\\\n", " ", sys.stdin.read()).splitlines():
    if entry.strip() and not entry.lstrip().startswith("#"):
        text, *hashes = entry.split(" --hash=")
        wanted = Requirement(text.strip())
        if wanted.marker is None or wanted.marker.evaluate():
            wanted.marker = None
            print(wanted, *(f"--hash={one.strip()}" for one in hashes))' <requirements.lock >"$work/wanted.txt"
    ! cmp -s "$work/wanted.txt" "$cache/wheels/.complete" || return 0
    rm -rf "$cache/wheels"
    mkdir -p "$cache/wheels"
    python3 -m venv "$work/pip"
    "$work/pip/bin/pip" download -q --disable-pip-version-check --no-deps --require-hashes --only-binary=:all: \
        --python-version "$version" --dest "$cache/wheels" --requirement "$work/wanted.txt"
    cp "$work/wanted.txt" "$cache/wheels/.complete"
}

bring_packages() { # those of nginx that the target has not, with an index
    local deb lists=("$cache/debs/"*.deb)
    if [ ! -e "${lists[0]}" ]; then
        mkdir -p "$cache/debs/partial"
        target exec cat /var/lib/dpkg/status >"$work/status"
        apt-get update -qq
        apt-get install -qq --yes --download-only --no-install-recommends -o APT::Sandbox::User=root \
            -o Dir::State::status="$work/status" -o Dir::Cache::archives="$cache/debs/" nginx >/dev/null
    fi
    for deb in "$cache/debs/"*.deb; do
        dpkg-deb --field "$deb"
        printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n\n' "${deb##*/}" "$(stat --format %s "$deb")" \
            "$(sha256sum "$deb" | cut -d' ' -f1)"
    done >"$cache/debs/Packages"
}

# -- the target

target() { "$tools/ansible-target.sh" "$@"; }

# A sandbox cannot be set up by a systemd that may not mount, and it goes on without: the unit would be tested without
# what hardens it. So the target may do what a machine may do.
let_target_mount() {
    "$containers/setup.sh" >/dev/null
    sed '/^\[containers\]/a \
default_capabilities = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_ADMIN", "SYS_CHROOT", "SYS_PTRACE"]\
seccomp_profile = "unconfined"' /etc/containers/containers.conf.d/50-host.conf >"$work/containers.conf"
    export CONTAINERS_CONF=$work/containers.conf
}

begin() {
    let_target_mount
    target up "$cache"
    bring_wheels
    bring_packages
    target exec sh -c 'echo "deb [trusted=yes] file:/opt/wheels/debs ./" >/etc/apt/sources.list && apt-get update -qq'
    target exec openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=bridge.test \
        -keyout /etc/ssl/private/bridge.pem -out /etc/ssl/bridge.pem 2>/dev/null
    podman cp tests/fakes/n8n.py "$TARGET_NAME:/opt/n8n.py"
    podman exec --detach "$TARGET_NAME" python3 /opt/n8n.py --port 5678 >/dev/null

    # What is installed is HEAD as it is now: a commit made meanwhile would be another release.
    git clone -q . "$work/here"

    umask 077
    printf '[bridge]\ntarget ansible_connection=containers.podman.podman ansible_host=%s %s\n' "$TARGET_NAME" \
        "ansible_python_interpreter=/usr/bin/python3 ansible_become=false" >"$work/inventory.ini"
    access=access-$(openssl rand -hex 20) callback=callback-$(openssl rand -hex 20)
    cat >"$work/vars.yml" <<END
bridge_repository: $work/here
bridge_wheel_dir: /opt/wheels/wheels
bridge_settings:
  AGENT: offline
  ALLOW_ANONYMOUS: false
  N8N_API_URL: http://127.0.0.1:5678
  N8N_CALLBACK_URL: http://127.0.0.1:3000
  WEB_CONCURRENCY: 2
bridge_secrets:
  ACCESS_TOKEN: $access
  N8N_CALLBACK_SECRET: $callback
  N8N_API_KEY: n8n-key-for-tests
  REDIS_URL: "off"
bridge_nginx_enabled: true
bridge_nginx_server_name: bridge.test
bridge_nginx_tls_certificate: /etc/ssl/bridge.pem
bridge_nginx_tls_certificate_key: /etc/ssl/private/bridge.pem
END
    umask 022
}

end() {
    local code=$?
    trap - EXIT
    [ -z "${KEEP:-}" ] || { echo "ansible.sh: $TARGET_NAME and $work are left" >&2; exit "$code"; }
    if [ "$code" != 0 ]; then
        tail -n 40 "$work"/*.log >&2 2>/dev/null || :
        target exec journalctl --unit=bridge --no-pager --lines=20 --output=cat >&2 || :
    fi
    target down >/dev/null 2>&1 || :
    rm -rf "$work"
    exit "$code"
}

play() { # NAME OPTIONS...: what it says is in NAME.log
    local name=$1 book=ansible/${1%%.*}.yml
    shift
    ansible-playbook -i "$work/inventory.ini" -e "@$work/vars.yml" "$book" "$@" >"$work/$name.log" 2>&1 &&
        say "$name: $(tail -n 2 "$work/$name.log" | tr -s ' ' | sed -n 's/.*: \(ok=.*\) unreachable.*/\1/p')"
}

# -- what must hold

equal() { [ "$2" = "$3" ] || fail "$1: $3, and not $2"; }

served() { # VERSION, by everybody
    equal version "$1" "$(get http://127.0.0.1:3000/health | sed -n 's/.*"version":"\([^"]*\)".*/\1/p')"
}

get() { # URL: the body, or "HTTP CODE" where it is no 200
    target exec python3 -c '
import ssl, sys, urllib.error, urllib.request as r
context = ssl._create_unverified_context() if sys.argv[1].startswith("https") else None
try:
    print(r.urlopen(r.Request(sys.argv[1], headers={"Host": "bridge.test"}), context=context).read().decode())
except urllib.error.HTTPError as exc:
    print("HTTP", exc.code)' "$1"
}

under_load() { # RELOADS COMMAND...: no request may fail meanwhile, and each chat come back as often
    local load said reloads=$1
    shift
    target exec rm -f /run/load-begun /run/load-stop
    LOAD="{\"accessToken\": \"$access\", \"callbackSecret\": \"$callback\", \"reloads\": $reloads,
        \"begun\": \"/run/load-begun\", \"stop\": \"/run/load-stop\"}" \
        podman exec --interactive --env LOAD "$TARGET_NAME" /opt/bridge/current/.venv/bin/python - \
        <dev/ansible_load.py >"$work/load.json" 2>"$work/load.log" &
    load=$!
    for _ in $(seq 300); do
        ! target exec test -e /run/load-begun || break
        kill -0 "$load" 2>/dev/null || fail "the load did not begin"
        sleep 0.1
    done
    said=0
    "$@" || said=$?
    target exec touch /run/load-stop
    wait "$load" || fail "under load: $(cat "$work/load.json")"
    echo "   $(cat "$work/load.json")"
    return "$said"
}

check_service() {
    local pid status
    pid=$(target exec systemctl show --property=MainPID --value bridge)
    status=$(target exec cat "/proc/$pid/status")
    grep -qE '^CapEff:\s+0+$' <<<"$status" || fail "it has capabilities"
    grep -qE '^NoNewPrivs:\s+1$' <<<"$status" || fail "it may gain privileges"
    grep -qE '^Seccomp:\s+2$' <<<"$status" || fail "its system calls are not filtered"
    target exec grep -qE '^[^ ]+ / [^ ]+ ro[, ]' "/proc/$pid/mounts" || fail "it may write to the system"
    say "$(target exec systemd-analyze security --no-pager bridge | tail -n 1)"
    equal "mode of a secret" "640 root bridge" "$(target exec stat --format '%a %U %G' /etc/bridge/secrets/ACCESS_TOKEN)"
    equal "mode of the settings" "640 root bridge" "$(target exec stat --format '%a %U %G' /etc/bridge/bridge.env)"
    equal "/metrics by nginx" "HTTP 403" "$(get https://127.0.0.1/metrics)"
    equal "/metrics/ by nginx" "HTTP 403" "$(get https://127.0.0.1/metrics/)"
    get http://127.0.0.1:3000/healthz | grep -q ok || fail "no answer"
}

no_secret_was_shown() {
    local secret
    for secret in "$access" "$callback" n8n-key-for-tests rotated-; do
        ! grep -lF -- "$secret" "$work"/*.log || fail "a secret was shown"
        ! target exec sh -c "journalctl --no-pager --output=cat; cat /proc/[0-9]*/cmdline" | grep -aqF -- "$secret" ||
            fail "a secret is in the log or in a command line"
    done
}

next_release() { # VERSION: a repository like this one, with it as the next commit
    git clone -q "$work/here" "$work/next" 2>/dev/null || :
    sed -i "s/^VERSION = .*/VERSION = \"$1\"/" "$work/next/app/version.py"
    git -C "$work/next" -c user.name=test -c user.email=test@localhost commit -qam "Version $1"
}

run_tests() {
    local version current
    version=$(sed -n 's/^VERSION = "\(.*\)"/\1/p' app/version.py)

    begin
    say "the target is up"
    target play ansible/site.yml "$work/inventory.ini" -e "@$work/vars.yml" >"$work/first.log" 2>&1 || fail "site.yml"
    say "site.yml, and again: the second run changed nothing"
    served "$version"
    check_service

    under_load 1 play reload || fail "reload.yml"

    sed -i "s/^  ACCESS_TOKEN: .*/&,rotated-$(openssl rand -hex 20)/" "$work/vars.yml"
    under_load 1 play site.rotated --diff -vvv || fail "site.yml with another secret"

    next_release 9.9.9
    under_load 1 play site.next -e "bridge_repository=$work/next" || fail "site.yml with another release"
    served 9.9.9
    under_load 1 play rollback || fail "rollback.yml"
    served "$version"

    current=$(target exec readlink /opt/bridge/current)
    echo 'import a_module_that_is_not_there' >>"$work/next/wsgi.py"
    next_release 10.0.0
    ! under_load 0 play site.broken -e "bridge_repository=$work/next" || fail "a broken release was installed"
    ! under_load 0 play site.wrong -e '{"bridge_settings": {"LEASE_SECONDS": "never"}}' || fail "a wrong setting was written"
    grep -q "LEASE_SECONDS must be\|LEASE_SECONDS: must be" "$work/site.wrong.log" || fail "the wrong setting was not named"
    grep -q "a_module_that_is_not_there" "$work/site.broken.log" || fail "it was not said what is broken"
    equal "the release" "$current" "$(target exec readlink /opt/bridge/current)"
    say "a broken release and a wrong setting were refused, the bridge serves on"

    play n8n-error-workflow || fail "n8n-error-workflow.yml"
    play n8n-error-workflow.again || fail "n8n-error-workflow.yml, again"
    grep -q 'changed=0 ' "$work/n8n-error-workflow.again.log" || fail "the second n8n-error-workflow.yml changed something"

    target exec systemctl stop bridge
    equal "the end" "success 0" "$(target exec systemctl show --property=Result --value bridge) $(target exec systemctl \
        show --property=ExecMainStatus --value bridge)"
    no_secret_was_shown
    say "no secret was shown; all is well"
}

case ${1:-} in
lint) lint ;;
test)
    tools=${INFRA_TOOLS-../shared/infra} containers=${CONTAINER_TOOLS-../shared/container}
    [ -x "$tools/ansible-target.sh" ] || cannot "$tools/ansible-target.sh is not there (INFRA_TOOLS names its folder)"
    [ -x "$containers/setup.sh" ] || cannot "$containers/setup.sh is not there (CONTAINER_TOOLS names its folder)"
    [ "$(id -u)" = 0 ] || cannot "root is needed"
    TARGET_SUITE=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    cache=$PWD/var/ansible-test work=$(mktemp -d)
    export TARGET_SUITE TARGET_NAME=bridge-target-$$ INFRA_ANSIBLE_HOME=${INFRA_ANSIBLE_HOME:-/tmp/infra-ansible}
    export PATH=$PATH:$INFRA_ANSIBLE_HOME/venv/bin ANSIBLE_HOME=$INFRA_ANSIBLE_HOME/ansible
    mkdir -p "$cache"
    trap end EXIT
    run_tests
    ;;
*) sed -n '2,6p' "$0" | sed 's/^# \{0,1\}//'; exit 2 ;;
esac
