# The Kubernetes of tests and demo; see docs/cluster.md. Backend: MAESTRO_CLUSTER_BACKEND=native|kind|existing.
CLUSTER := $(PY) -m tests.cluster

.PHONY: cluster
cluster: setup ## Bring the test cluster up (kubeconfig: build/kubeconfig)
	$(CLUSTER) up

.PHONY: cluster-down
cluster-down: setup ## Take the test cluster down and leave nothing of it behind
	$(CLUSTER) down

.PHONY: cluster-status
cluster-status: setup ## Say how the test cluster is
	$(CLUSTER) status

.PHONY: cluster-build
cluster-build: setup ## Build what the test cluster needs into the cache, without starting it
	$(CLUSTER) build

.PHONY: cluster-load
cluster-load: setup ## Build and load images: make cluster-load IMAGES="maestro rabbitmq"
	$(CLUSTER) load $(IMAGES)
