# Every target has a line of help behind `##`; `make help` prints them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
UV_VERSION := 0.13.9
VENV := .venv
PY := $(VENV)/bin/python
export PATH := $(CURDIR)/build/bin:$(PATH)

-include tests/cluster/cluster.mk

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-zA-Z_-]+:.*?## ' $(MAKEFILE_LIST) | sort | awk 'BEGIN {FS = ":.*?## "}; {printf "  \033[36m%-16s\033[0m %s\n", $$1, $$2}'

$(VENV)/.ready: requirements/dev.lock pyproject.toml sdk/python/pyproject.toml
	test -x $(PY) || python3 -m venv $(VENV)
	$(VENV)/bin/pip install -q uv==$(UV_VERSION)
	$(VENV)/bin/uv pip sync -q --require-hashes requirements/dev.lock
	$(VENV)/bin/uv pip install -q --no-deps -e . -e sdk/python
	@touch $@

.PHONY: setup
setup: $(VENV)/.ready ## Make the virtual environment with the locked dependencies

.PHONY: lock
lock: ## Resolve the dependencies anew into requirements/*.lock
	$(VENV)/bin/uv pip compile -q --generate-hashes --no-header --no-annotate --python-version 3.11 pyproject.toml sdk/python/pyproject.toml -o requirements/runtime.lock
	$(VENV)/bin/uv pip compile -q --generate-hashes --no-header --no-annotate --python-version 3.11 pyproject.toml sdk/python/pyproject.toml --group dev --group bench -c requirements/runtime.lock -o requirements/dev.lock

.PHONY: format
format: setup ## Format the code
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

.PHONY: lint
lint: setup ## Format, lint, types, import layers, rendered CRDs
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-cache
	$(VENV)/bin/maestro crds --check

.PHONY: test
test: setup ## Every test: unit, integration, end to end on a real node
	$(PY) -m pytest
