# Everything that is done with this repository by one word.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

# Outside the checkout when CI says so, so that a second run has the first one's dependencies.
ifdef CI
export CARGO_TARGET_DIR ?= $(HOME)/.cache/meridian/target
endif
TARGET := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
# What links the RocksDB archive that scripts/setup has compiled once for this machine.
WITH_ROCKSDB = eval "$$(scripts/setup --env)";

.PHONY: help run test lint unit interop bench bench-traces chaos fmt clean

help: ## says what there is
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

run: ## sets up what is missing, builds, and starts the demo; Ctrl-C stops it
	@scripts/setup
	@$(WITH_ROCKSDB) cargo build --locked -p meridian
	@echo "meridian is $(TARGET)/debug/meridian"
	@exec $(TARGET)/debug/meridian demo

test: ## sets up what is missing, runs every check and every test
	@scripts/setup --tests
	@scripts/test

lint: ## format, clippy, docs, licences and advisories
	@scripts/setup --tests
	@scripts/test lint

unit: ## the Rust tests
	@scripts/setup --tests
	@scripts/test unit

interop: ## real clients against the real binary
	@scripts/setup --tests
	@scripts/test interop

bench: ## criterion benchmarks, and the load generator beside mosquitto
	@scripts/setup --tests
	@$(WITH_ROCKSDB) cargo bench --locked -p meridian-mqtt -p meridian-geo-engine -p meridian-shard
	@$(WITH_ROCKSDB) cargo build --locked --release -p meridian -p meridian-bench
	@bench/compare

bench-traces: ## replays all recorded traces and compares every event with the oracle's
	@scripts/setup
	@$(WITH_ROCKSDB) MERIDIAN_TRACES=liverpool_bus,helsinki_quick,edge_synthetic,austin_raworder,austin_dups,austin_disorder,austin_bus \
		cargo test --locked --release -p meridian --test traces -- --nocapture a_replayed_trace

chaos: ## three real nodes, whose leader is killed and paused again and again; ROUNDS=20 RATE=1000
	@scripts/setup
	@$(WITH_ROCKSDB) cargo build --locked -p meridian -p meridian-chaos-tests
	@for fault in kill pause; do $(TARGET)/debug/meridian-chaos --program $(TARGET)/debug/meridian \
		--fault $$fault --rounds $(or $(ROUNDS),20) --rate $(or $(RATE),1000); done

fmt: ## formats the code
	@cargo fmt --all

clean: ## removes what was built, but not the RocksDB archive
	@cargo clean
