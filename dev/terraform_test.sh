#!/usr/bin/env bash
# usage: terraform_test.sh [PART...]    all parts, or those named, such as modules/waf, envs/prod or checkov
# Checks terraform/ (make terraform-test): format, validate and test of every module and root; a policy scan; and each
# root's example applied in a simulation, after which a second plan must find nothing to do and the figures that were
# agreed must be there (terraform_figures.py).
#
# Where the folder that INFRA_TOOLS names (default: ../shared/infra) has tf-offline.sh, a stand-in serves the provider's
# real schema and nothing is fetched. Else terraform fetches the providers; then there is no simulation, and no plan of
# the roots, which would need an account. Either way nothing is created and no credentials are read.
# JOBS: how many parts at once (default: the processors).
set -euo pipefail
cd "$(dirname "$0")/.."
unset CDPATH
needed=1.11.0
export CHECKPOINT_DISABLE=1 TF_IN_AUTOMATION=1 TF_INPUT=0
export TF_CLI_ARGS_init=-no-color TF_CLI_ARGS_validate=-no-color TF_CLI_ARGS_test=-no-color

fail() { echo "terraform_test.sh: $*" >&2; exit 1; }

# Values like real ones, new each time: placeholders are refused.
made_up_secrets() {
    python3 -c 'import json, secrets
names = "ACCESS_TOKEN ANTHROPIC_API_KEY METRICS_TOKEN N8N_API_KEY N8N_CALLBACK_SECRET NOTIFY_SECRET".split()
print(json.dumps({name: "sk-ant-" * (name == "ANTHROPIC_API_KEY") + secrets.token_hex(32) for name in names}))'
}

# -- one part, in a process of its own

part() { # NAME, in the copy; what it says goes to a log
    case $1 in
    checkov) "$CHECKOV" --config-file "$COPY/terraform/.checkov.yaml" --directory "$COPY/terraform" ;;
    format) terraform fmt -check -recursive -diff "$COPY/terraform" ;;
    *)
        local folder=$COPY/terraform/$1
        [ -d "$folder" ] || fail "there is no terraform/$1"
        validate "$folder"
        # No file, no tests; terraform would call that a success as well.
        [ -z "$(find "$folder" -name '*.tftest.hcl')" ] || test_part "$folder"
        [ ! -f "$folder/example.tfvars" ] || simulate "$folder"
        ;;
    esac
}

validate() {
    if [ -n "$OFFLINE" ]; then
        TFOFFLINE_SKIP_FMT=1 "$OFFLINE" validate "$1"
    else
        terraform -chdir="$1" init -backend=false
        terraform -chdir="$1" validate
    fi
}

test_part() {
    if [ -n "$OFFLINE" ]; then "$OFFLINE" test "$1"; else terraform -chdir="$1" test; fi
}

simulate() {
    [ -n "$OFFLINE" ] || return 0
    "$OFFLINE" apply "$1" -var-file=example.tfvars -state="$1.tfstate"
    python3 "$FIGURES" "$1.tfstate" && echo "the figures are those that were agreed"
}

if [ "${1:-}" = --part ]; then # called by this script
    began=$SECONDS
    log=$COPY/${2//\//-}.log
    (part "$2") >"$log" 2>&1 </dev/null && rc=0 || rc=$?
    if [ "$rc" = 0 ]; then
        printf 'ok   %4d s  %s\n' $((SECONDS - began)) "$2"
    else
        printf 'FAIL %4d s  %s\n' $((SECONDS - began)) "$2"
        sed 's/^/    /' "$log"
    fi
    exit "$rc"
fi

# -- all of them

command -v terraform >/dev/null ||
    fail "terraform $needed or newer is needed on the PATH, and cannot be installed from here (its documentation: Install Terraform)"
version=$(terraform version -json 2>/dev/null | python3 -c 'import json, sys; print(json.load(sys.stdin)["terraform_version"])')
[ "$(printf '%s\n' "$needed" "$version" | sort -V | head -n 1)" = "$needed" ] || fail "terraform $needed or newer is needed; $(command -v terraform) is $version"
export CHECKOV=$PWD/.venv-terraform/bin/checkov FIGURES=$PWD/dev/terraform_figures.py
[ -x "$CHECKOV" ] || fail "run make terraform-test, which installs the scanner"

# terraform writes beside what it reads, so it reads a copy; a test compares a figure with gunicorn's configuration.
COPY=$(mktemp -d)
trap 'rm -rf "$COPY"' EXIT
export COPY TFOFFLINE_ROOT=$COPY
tar -cf - --exclude=.terraform --exclude='*.tfstate*' terraform gunicorn.conf.py | tar -C "$COPY" -xf -
TF_VAR_secrets=$(made_up_secrets)
export TF_VAR_secrets

tools=${INFRA_TOOLS-../shared/infra}
OFFLINE=
if [ -n "$tools" ] && [ -x "$tools/tf-offline.sh" ]; then
    OFFLINE=$(cd "$tools" && pwd)/tf-offline.sh
    echo "with the schema of $tools: nothing is fetched"
    "$OFFLINE" setup
else
    echo "with the providers themselves: terraform fetches them"
    mkdir -p var/terraform-plugins
    export TF_PLUGIN_CACHE_DIR=$PWD/var/terraform-plugins TF_PLUGIN_CACHE_MAY_BREAK_DEPENDENCY_LOCK_FILE=1
    # All that is needed, once: the cache cannot be filled by several at a time.
    terraform -chdir="$COPY/terraform/envs/prod" init -backend=false >"$COPY/init.log" 2>&1 ||
        { cat "$COPY/init.log" >&2; fail "the providers could not be fetched"; }
fi
export OFFLINE

parts=("$@")
if [ ${#parts[@]} = 0 ]; then # the longest first
    parts=(envs/prod envs/dev modules/waf)
    for folder in terraform/modules/*/; do
        name=modules/$(basename "$folder")
        [ "$name" = modules/waf ] || parts+=("$name")
    done
    parts+=(checkov format)
fi
printf '%s\n' "${parts[@]}" | xargs -P "${JOBS:-$(nproc)}" -I {} "$0" --part {} || fail "not all is well, see above"
echo "all ${#parts[@]} parts of terraform/ are well, after $SECONDS s"
