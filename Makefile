# Everything a developer runs. `make` alone lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/ksm-operator
UV_VERSION := 0.13.9
UV := $(CACHE)/uv-$(UV_VERSION)/bin/uv
ifneq ($(wildcard /etc/ssl/certs/ca-certificates.crt),)
# Where a company's proxy signs, only the machine's own authorities know it; uv has its own else.
export UV_SYSTEM_CERTS ?= 1
endif
# `setup` has just brought .venv in line with uv.lock.
RUN := $(UV) run --no-sync
# The cluster and the image need nothing but the system's Python, so they use it.
PYTHON := $(firstword $(wildcard /usr/bin/python3) python3)
LOCAL_CLUSTER := $(PYTHON) hack/local-cluster
PYTEST_ARGS ?=
# What `bench-agent`, `bench-controller` and `bench-governor` measure, see python -m benchmarks.agent --help
BENCH_ARGS ?=
# Nodes with other kernels that `cluster-up` adds, or that `cluster-down` takes away: vm:7,vm:6.12
NODES ?=
# Where `make demo` runs: `local`, or `current` for the cluster that kubectl points to.
CLUSTER ?= local

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Development

.PHONY: setup
setup: $(UV) ## Install the locked development environment into .venv
	@$(UV) sync --locked --all-extras --quiet

$(UV):
	@hack/install-uv $(UV_VERSION) $(CACHE)/uv-$(UV_VERSION)

.PHONY: generate
generate: setup ## Generate crds/ and the chart's CRDs from the pydantic models
	@$(RUN) python -m ksm_operator.api.generate

.PHONY: lint
lint: setup ## ruff, mypy, the import contracts and helm lint
	@# Without its cache: that one remembers files as good whose imports are sorted by folders of then.
	$(RUN) ruff check --no-cache
	$(RUN) ruff format --no-cache --check
	$(RUN) mypy
	MYPYPATH=hack/image:hack/demo $(RUN) mypy -p local_cluster -p demo -m builder -m __main__
	MYPYPATH=.:tests $(RUN) mypy -p benchmarks
	MYPYPATH=.:tests:hack/image:hack/demo $(RUN) mypy tests
	$(RUN) lint-imports
	helm=$$($(LOCAL_CLUSTER) build helm) && $$helm/helm lint --quiet --set image.repository=localhost/ksm-operator helm/ksm-operator

##@ Tests

.PHONY: test
test: lint needs ## lint, then the unit, kernel, cluster and vm tiers (root)
	$(RUN) pytest tests/unit tests/kernel tests/cluster tests/vm $(PYTEST_ARGS)

.PHONY: test-unit
test-unit: setup ## The unit tier: needs nothing
	$(RUN) pytest tests/unit $(PYTEST_ARGS)

.PHONY: test-kernel
test-kernel: setup needs ## The kernel tier: root and a kernel with KSM
	$(RUN) pytest tests/kernel $(PYTEST_ARGS)

.PHONY: needs
needs:
	@$(LOCAL_CLUSTER) needs

.PHONY: test-cluster
test-cluster: setup ## The cluster tier, on the local cluster
	$(RUN) pytest tests/cluster $(PYTEST_ARGS)

.PHONY: test-vm
test-vm: setup ## The vm tier: the kernel tier on other kernels, in QEMU
	$(RUN) pytest tests/vm $(PYTEST_ARGS)

.PHONY: soak
soak: setup needs ## The long forms: 10,000 visits, 1,000 dead agents, a long outage (root; two hours)
	$(RUN) pytest -m soak -s tests/kernel tests/cluster $(PYTEST_ARGS)

##@ Benchmarks

.PHONY: bench-kernel
bench-kernel: setup ## Measure the kernel layer: stops, stalls, rates (root, gcc, gdb)
	@PYTHONPATH=.:tests $(RUN) python -m benchmarks.kernel

.PHONY: bench-agent
bench-agent: setup needs ## Measure the agent: new containers, edits, at rest (root, gcc)
	@PYTHONPATH=.:tests:hack/local-cluster:hack/vm $(RUN) python -m benchmarks.agent $(BENCH_ARGS)

.PHONY: bench-controller
bench-controller: setup needs ## Measure the controller with 5,000 nodes on a real API server (root; half an hour)
	@# A cluster of its own, beside the one of cluster-up and the one that tests take down (9).
	@PYTHONPATH=.:tests:hack/local-cluster:hack/vm KSM_LOCAL_CLUSTER=$(or $(KSM_LOCAL_CLUSTER),8) \
		$(RUN) python -m benchmarks.controller $(BENCH_ARGS)

.PHONY: bench-governor
bench-governor: setup needs ## Measure what ksmd's tuning is worth, beside other projects' (root; an hour)
	@PYTHONPATH=.:tests $(RUN) python -m benchmarks.governor $(BENCH_ARGS)

##@ Image and local cluster

.PHONY: image
image: ## Build localhost/ksm-operator:dev and load it into the local cluster if it is up
	@$(PYTHON) hack/image >/dev/null

.PHONY: cluster-up
cluster-up: ## Bring up a real Kubernetes on this machine (first time: about 14 min); NODES=vm:7 adds a node
	@$(LOCAL_CLUSTER) up $(if $(NODES),--nodes "$(NODES)")

.PHONY: cluster-down
cluster-down: ## Take it down and leave nothing but the cache
	@$(LOCAL_CLUSTER) down $(if $(NODES),--nodes "$(NODES)")

.PHONY: cluster-status
cluster-status: ## Say what of it runs
	@$(LOCAL_CLUSTER) status

.PHONY: cluster-env
cluster-env: ## KUBECONFIG and PATH for your shell: eval "$(make -s cluster-env)"
	@$(LOCAL_CLUSTER) env

.PHONY: cluster-load
cluster-load: ## Load an image archive into it: make cluster-load ARCHIVE=file.tar
	@test -n "$(ARCHIVE)" || { echo 'error: say which archive: make cluster-load ARCHIVE=file.tar' >&2; exit 2; }
	@$(LOCAL_CLUSTER) load "$(ARCHIVE)"

##@ Demo

.PHONY: demo
demo: ## See it give memory back: on the local cluster, or CLUSTER=current for your own
	@CLUSTER="$(CLUSTER)" hack/demo/run

.PHONY: demo-clean
demo-clean: ## Undo the demo
	@CLUSTER="$(CLUSTER)" hack/demo/run clean
