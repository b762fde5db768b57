# The commands of a developer. `make` alone lists them.
#
# Nothing is built inside the clone: FLIGHTCLUSTER_CACHE holds the Cargo target folder, the Python
# environment, the tools of the end-to-end node and the logs of the last run.

export FLIGHTCLUSTER_CACHE ?= $(HOME)/.cache/flightcluster
export CARGO_TARGET_DIR ?= $(FLIGHTCLUSTER_CACHE)/target

# dev shares everything with the tests; images and benchmarks are made with release binaries (20
# minutes on two cores).
PROFILE ?= $(if $(filter image bench,$(MAKECMDGOALS)),release,dev)
IMAGE ?= $(FLIGHTCLUSTER_CACHE)/flightcluster-image.tar
binaries := $(CARGO_TARGET_DIR)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))

.PHONY: help
help: ## list these commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

.PHONY: run
run: binaries ## standalone server on 127.0.0.1:17001 with a small real data set
	@FLIGHTCLUSTER_BIN=$(binaries)/flightcluster bash examples/quickstart.sh

.PHONY: test
test: ## everything CI runs; STAGES="format clippy" runs only those
	@python3 .ci/stages.py $(STAGES)

.PHONY: check
check: ## the quick half of the tests: format, lints, API documentation, licences
	@python3 .ci/stages.py setup format python clippy docs licences

# The whole workspace at once: another selection of packages would be another set of features, and
# a second compilation of DataFusion.
.PHONY: binaries
binaries:
	cargo build --locked --workspace --bins --profile $(PROFILE)

.PHONY: build
build: binaries ## both binaries; PROFILE=release for the ones that ship
	@echo $(binaries)/flightcluster
	@echo $(binaries)/flightcluster-operator

# What the Python programs need; installed when nothing is there yet.
.PHONY: python-packages
python-packages:
	@test -x $(FLIGHTCLUSTER_CACHE)/venv/bin/python || python3 .ci/stages.py setup

# Processes are killed, paused and cut off while clients write and read; SEED repeats a run.
.PHONY: chaos
chaos: binaries python-packages ## the history checker; SEED=N SEEDS=COUNT SECONDS=S TOPOLOGY=standalone|cluster|postgres|both OLDER=BINARY
	@FLIGHTCLUSTER_BIN=$(binaries)/flightcluster FLIGHTCLUSTER_OLDER_BIN=$(OLDER) \
		VERSITYGW=$(FLIGHTCLUSTER_CACHE)/tools/bin/versitygw $(FLIGHTCLUSTER_CACHE)/venv/bin/python -B \
		e2e/chaos/chaos.py $(if $(SEED),--seed $(SEED)) --seeds $(or $(SEEDS),10) \
		--seconds $(or $(SECONDS),10) --topology $(or $(TOPOLOGY),both)

# The same promises inside one process with simulated disks and networks: many seeds a second. Each seed is two
# histories, one of rows and one of keys that are overwritten and deleted.
.PHONY: histories
histories: ## the history checker in one process; SEED=N SEEDS=COUNT, BROKEN=NAME shows that it bites
	@SEED=$(or $(SEED),0) SEEDS=$(or $(SEEDS),1000) cargo test --locked --workspace --test histories -- \
		--test-threads 1 no_history_breaks_a_promise the_later_write_to_a_key_is_read_in_every_history

.PHONY: bench
bench: binaries python-packages ## release builds against pyarrow's C++ Flight server and DataFusion, in pairs
	@FLIGHTCLUSTER_BIN=$(binaries)/flightcluster VERSITYGW=$(FLIGHTCLUSTER_CACHE)/tools/bin/versitygw \
		$(FLIGHTCLUSTER_CACHE)/venv/bin/python -B e2e/bench/bench.py \
		$(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(MEGABYTES),--megabytes $(MEGABYTES))

.PHONY: bench-catalog
bench-catalog: ## what planning a query costs in a catalog of 10,000 to 1,000,000 files (FILES=N ends earlier)
	cargo bench --package flightcluster-catalog --bench planning

.PHONY: bench-log
bench-log: ## what a group of writes gains from waiting for more, by disk and load (10 minutes)
	cargo bench --package flightcluster-wal --bench window

# Debian packages and the Kubernetes programs of the one-node cluster.
.PHONY: node-tools
node-tools:
	bash e2e/setup.sh
	bash e2e/tools/build.sh

.PHONY: image
image: binaries ## container image as an OCI archive, made without a container engine; as root
	bash e2e/setup.sh
	$(binaries)/flightcluster-node image --binaries $(binaries) $(IMAGE)

.PHONY: cluster
cluster: binaries node-tools ## a one-node Kubernetes with the operator and a sample FlightCluster
	@FLIGHTCLUSTER_BINARIES=$(binaries) bash examples/cluster.sh

.PHONY: cluster-down
cluster-down: ## removes every trace of `make cluster`
	$(binaries)/flightcluster-node down
	rm -rf $(FLIGHTCLUSTER_CACHE)/cluster

.PHONY: lock-clients
lock-clients: ## writes clients/requirements.txt anew from clients/requirements.in
	$(FLIGHTCLUSTER_CACHE)/venv/bin/python -m pip install --quiet uv
	cd clients && $(FLIGHTCLUSTER_CACHE)/venv/bin/uv pip compile --quiet --universal \
		--python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--output-file requirements.txt requirements.in
