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
	$(VENV)/bin/uv --version 2>/dev/null | grep -q '^uv $(UV_VERSION)' || $(VENV)/bin/pip install -q uv==$(UV_VERSION)
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
	$(PY) -m pytest tests/unit tests/integration tests/cluster tests/performance -n 2 --dist loadfile
	$(PY) -m pytest tests/e2e

.PHONY: scale-downs
scale-downs: setup ## Twenty scale-downs under load on the node: no Run may lose an attempt
	MAESTRO_SCALE_DOWNS=20 $(PY) -m pytest tests/e2e/test_scaling.py -k under_load -s

.PHONY: generate
generate: setup build/bin/helm ## Render what is rendered: CRDs, the chart's copy of them, manifests/install.yaml
	$(VENV)/bin/maestro crds
	scripts/render-chart

.PHONY: check-generated
check-generated: generate ## Fail when something rendered differs from what is committed
	git diff --exit-code -- crds charts manifests docs

.PHONY: chart-lint
chart-lint: build/bin/helm ## Helm's own lint, with each set of values that the tests use
	helm lint --strict charts/maestro
	helm lint --strict charts/maestro -f tests/e2e/values/postgresql.yaml

build/bin/helm: | setup
	$(PY) -m tests.cluster build helm kubectl

.PHONY: install
install: cluster ## Build and load the images, install or upgrade Maestro on the cluster
	$(PY) -m tests.e2e.installation

.PHONY: demo
demo: install ## On a real cluster: films in, pictures out, one worker pod killed; then a wrong price list, replayed in order
	KUBECONFIG=$(CURDIR)/build/kubeconfig $(PY) manifests/examples/video/demo.py
	KUBECONFIG=$(CURDIR)/build/kubeconfig $(PY) manifests/examples/reprocessing/demo.py

.PHONY: chaos
chaos: setup ## Everything killed, cut off and frozen at random under 10,000 Runs on PostgreSQL and 3,000 on SQLite (an hour)
	$(PY) -m tests.chaos --store sqlite --runs 3000
	$(PY) -m tests.chaos --store postgresql --runs 10000

.PHONY: bench
bench: setup ## Ratios against raw clients and peers, side by side in one run
	$(PY) -m tests.performance.bench_dispatch
	$(PY) -m tests.performance.bench_worker
	$(PY) -m tests.performance.bench_scale history
	$(PY) -m tests.performance.bench_scale keys
	$(PY) -m tests.performance.bench_scale accept
	$(PY) -m tests.performance.bench_schedules
	$(PY) -m tests.performance.bench_replay --runs 1000000 --repeats 1
