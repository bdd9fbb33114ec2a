# What there is to do with this tree. `make` lists it.
.DEFAULT_GOAL := help
PYTHON ?= python3
CARGO_TARGET_DIR ?= $(CURDIR)/target
export CARGO_TARGET_DIR
CACHE := $(or $(SPRINGHOUSE_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/springhouse)
export PATH := $(PATH):$(CACHE)/tools/bin
RELEASE := $(CARGO_TARGET_DIR)/release/springhouse

.PHONY: help
help:                    ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 22

.PHONY: demo
demo: release            ## builds Springhouse and shows it on real flights
	$(RELEASE) demo

.PHONY: release
release:                 ## the optimised program, target/release/springhouse
	cargo build --release --locked --workspace --bins

.PHONY: test
test:                    ## all tests, the short way
	@$(PYTHON) scripts/test.py

.PHONY: test-long
test-long:               ## all tests with more kills, more seeds, larger inputs
	@$(PYTHON) scripts/test.py --long

.PHONY: wheel
wheel:                   ## the optimised Python package, target/wheels/release/*.whl
	$(PYTHON) scripts/python_package.py wheel --release

.PHONY: lint
lint:                    ## format, clippy, licences, borders between crates, what is in the tree
	cargo fmt --all --check
	$(PYTHON) scripts/check_tree.py
	$(PYTHON) scripts/check_crates.py
	$(PYTHON) scripts/check_docs.py
	cargo clippy --workspace --all-targets --locked --quiet -- -D warnings
	@if command -v cargo-deny >/dev/null; then \
	    cargo deny --all-features --log-level error check licenses bans sources; \
	elif [ -n "$$CI" ]; then echo "cargo-deny is not installed" >&2; exit 1; \
	else echo "skipped: cargo deny is not installed (make tools)"; fi

.PHONY: tools
tools:                   ## installs cargo-deny below the cache folder, once
	@command -v cargo-deny >/dev/null || cargo install --quiet --debug --locked --root "$(CACHE)/tools" \
	    --target-dir "$(CACHE)/tools/target" cargo-deny@0.20.2
	@rm -rf "$(CACHE)/tools/target"

.PHONY: advisories
advisories:              ## known vulnerabilities; needs the advisory database from the network
	cargo deny check advisories

.PHONY: bench bench-build bench-serving bench-training bench-materialize bench-push bench-stream bench-redis bench-feast bench-python bench-kernel
bench: bench-kernel bench-serving bench-training bench-materialize bench-push bench-stream bench-redis bench-python  ## all benchmarks; results in target/bench/*.json
bench-build:
	cargo build --release --locked --workspace --bins
bench-serving: bench-build   ## one entity x 50 features over HTTP/JSON
	scripts/python.sh benches/serving.py --program $(RELEASE) $(ARGS)
bench-training: bench-build  ## training sets beside DuckDB, Polars, pandas, DataFusion and Spark; ARGS="--size M"
	REQUIREMENTS=benches/requirements-training.txt scripts/python.sh benches/training.py --program $(RELEASE) $(ARGS)
bench-materialize: bench-build  ## history into the online store
	scripts/python.sh benches/materialize.py --program $(RELEASE) $(ARGS)
bench-push: bench-build      ## durable events a second and the time until they are served
	scripts/python.sh benches/push.py --program $(RELEASE) $(ARGS)
bench-stream: bench-build    ## topics of a real Kafka broker: throughput, event to servable, catching up
	scripts/python.sh benches/stream.py --program $(RELEASE) $(ARGS)
bench-kernel:                  ## the kernel alone, in memory, on one core: events a second, reads, training values
	cargo build --release --locked --workspace --example kernel_speed
	python3 benches/kernel.py --program $(RELEASE) $(ARGS)
bench-redis: bench-build     ## the online store on a real Redis, beside redis-benchmark and an answer from memory
	scripts/python.sh benches/redis_store.py --program $(RELEASE) $(ARGS)
bench-feast: bench-build     ## serving and loading beside Feast's server, the same tables and Redis
	scripts/python.sh benches/beside_feast.py --program $(RELEASE) $(ARGS)
bench-python: bench-build wheel  ## what a call from Python costs beside the program
	scripts/python.sh benches/python.py --program $(RELEASE) $(ARGS)

.PHONY: clean
clean:                   ## removes what was built
	cargo clean
