# Everything a person or CI does with this project; `make` alone lists it.
PYTHON ?= python3
BIN := .venv/bin
# Most tests wait for servers; a file stays in one process, for its servers are shared by its tests. The order is that of
# tests/conftest.py.
TEST_PROCESSES ?= 4
.DEFAULT_GOAL := help
.PHONY: help install run test screenshots fuzz consistency bench lint fmt check lock docs audit sbom clean python n8n down test-n8n image image-test terraform-test ansible-lint ansible-test programs

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1 \2/p' $(MAKEFILE_LIST) | awk '{ printf "  %s %-14s", $$1, $$2; $$1 = $$2 = ""; print }'

install: .venv/.run ## make .venv with what the bridge runs with

run: .venv/.run ## start the bridge here, on http://127.0.0.1:3000 unless BIND says otherwise
	@mkdir -p var
	@$(BIN)/python -m app.settings --summary
	@exec $(BIN)/gunicorn -c gunicorn.conf.py wsgi:app

# Bytecode is written whatever the environment says: pytest's own of 300 files saves each process 8 s at the next run.
test: .venv/.dev programs ## run all tests
	@N8N_E2E= IMAGE_TEST= PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -q -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

screenshots: .venv/.dev programs ## the console's main states, anew, into docs/images
	@$(BIN)/python -m tests.console.screenshots

fuzz: .venv/.dev ## random input for FUZZ_SECONDS (60); what it finds is in var/fuzz
	@$(BIN)/python -m tests.fuzz

consistency: .venv/.dev programs ## random runs with kills and pauses, checked, for SECONDS (60); SEED replays one
	@$(BIN)/python -m tests.consistency --seconds $(or $(SECONDS),60) $(if $(SEED),--seed $(SEED)) $(if $(BACKEND),--backend $(BACKEND))

# The folder of the reference's server, with its driver in ../load.
REFERENCE ?= ../shared/bench/peer-node

bench: .venv/.dev ## speed beside the reference in REFERENCE, some five minutes; needs Node.js
	@$(BIN)/python -m benchmarks.compare $(REFERENCE)

n8n: .venv/.run ## install and start a real n8n here, and connect the bridge to it by .env
	@$(BIN)/python -m dev.local_n8n up

down: .venv/.run ## stop that n8n; its data in var/n8n stays
	@$(BIN)/python -m dev.local_n8n down

test-n8n: .venv/.dev ## the tests on a real n8n; installs it where needed
	@$(BIN)/python -m dev.local_n8n install
	@N8N_E2E=1 $(BIN)/python -m pytest tests/real_n8n

image: ## build the image bridge-server with docker or podman (CONTAINER=... says which)
	@dev/image.sh build

image-test: image .venv/.dev ## the tests of that image, in real containers
	@IMAGE_TEST=1 $(BIN)/python -m pytest tests/image

terraform-test: .venv-terraform/.done ## terraform/: format, validate, tests, simulated apply, policy scan; needs terraform
	@dev/terraform_test.sh

ansible-lint: .venv-ansible/.done ## syntax and rules of ansible/
	@dev/ansible.sh lint

ansible-test: ## its playbooks on a throw-away Debian with systemd, under load; root, ten minutes
	@dev/ansible.sh test

lint: .venv/.dev ## ruff's rules
	@$(BIN)/ruff check .

fmt: .venv/.dev ## format, and repair what ruff can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

check: .venv/.dev ## rules, format and types; changes nothing
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

lock: .venv/.dev ## write the locks anew from requirements*.txt
	@for name in requirements requirements-dev requirements-terraform requirements-ansible; do \
		$(BIN)/uv pip compile --quiet --generate-hashes --universal --python-version 3.11 \
			--no-emit-index-url $$name.txt -o $$name.lock || exit 1; \
	done

docs: .venv/.dev ## write what is made from the code and the locks: docs/configuration.md, docs/licences.md
	@$(BIN)/python -m app.setting_docs > docs/configuration.md
	@$(BIN)/python -m dev.licences > docs/licences.md

audit: .venv/.dev ## known weaknesses of what is locked, and of our code; error 3: not all could be checked
	@$(BIN)/python -m dev.audit

sbom: .venv/.dev ## what is shipped, as CycloneDX: var/sbom.cdx.json
	@$(BIN)/python -m dev.sbom

clean: ## remove .venv and caches; var/ with the journal stays
	@rm -rf .venv .venv-terraform .venv-ansible .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

python:
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 or newer is needed; '$(PYTHON)' is not there (make PYTHON=...)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; '$(PYTHON)' is $$($(PYTHON) -V 2>&1) (make PYTHON=...)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Python's venv module is needed (on Debian: apt-get install python3-venv)" >&2; exit 1; }

# The tests start their own, on a free port. Where it is missing and can be installed, it is.
programs: # that tests start beside the bridge
	@{ { command -v redis-server || command -v valkey-server; } && command -v haproxy && command -v chromium; } >/dev/null || { \
		test "$$(id -u)" = 0 && command -v apt-get >/dev/null && echo "installing redis-server, haproxy and chromium ..." && \
		apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends redis-server haproxy chromium; } || \
		{ echo "The tests need redis-server 7 or newer, haproxy and chromium (on Debian: apt-get install redis-server haproxy chromium)" >&2; exit 1; }

# Stamps: a second run has nothing to do.
.venv/.run: requirements.lock | python
	@echo "installing into .venv ..."
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	@touch $@

.venv/.dev: requirements-dev.lock .venv/.run
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements-dev.lock
	@touch $@

.venv-terraform/.done .venv-ansible/.done: .venv-%/.done: requirements-%.lock | python
	@echo "installing into .venv-$* ..."
	@test -x .venv-$*/bin/pip || $(PYTHON) -m venv .venv-$*
	@.venv-$*/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement $<
	@touch $@
