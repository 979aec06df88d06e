# make train   install what is missing, build, train a small model and print what it writes
# make test    install what is missing and run every check
# make layouts train on every layout of up to eight ranks (make test runs a sample of them)
# make faults  kill runs 50 times, and fail every call by which a command changes files (make test: a sample)
# make fuzz    read a million damaged configurations, plans, checkpoints, data sets, cache entries and greetings each
#              (make test: a thousand)
# make strangers  have strangers call the ports of 50 jobs of each kind while these start (make test: one of each)
# make agreement  check and compile 1,000 random configurations (make test: 60)
# make cut-link  cut the network under a running job; needs root, and skips where it cannot

# The environment's RUSTFLAGS and RUSTDOCFLAGS would replace those of .cargo/config.toml, where the path of LLVM is.
unexport RUSTFLAGS RUSTDOCFLAGS
export NEOXC ?= $(or $(CARGO_TARGET_DIR),target)/release/neoxc

.PHONY: help train build test layouts faults fuzz strangers agreement cut-link fmt lint docs bench setup clean
help:
	@echo "make train | test | layouts | faults | fuzz | strangers | agreement | cut-link | build | bench | fmt | lint | docs | setup | clean"

setup:
	@tools/setup.sh

build: setup
	cargo build --release

train: build
	@tools/quickstart.sh

# The cheap checks first. clippy and doc share their metadata of the dependencies; the tests need
# these compiled for real, which is the long part of a first run.
test: setup
	@tools/setup.sh --test
	cargo fmt --all --check
	.venv-test/bin/python -B -m unittest discover --quiet -s tests/python
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --workspace --quiet
	cargo test --workspace --no-fail-fast
	@echo "make test: everything passed"

layouts: setup
	NEOXC_LAYOUTS=all cargo test --release --package neoxc-tests --test layouts

faults: setup
	NEOXC_FAULTS=all cargo test --package neoxc-tests --test faults -- --nocapture
	NEOXC_FAULTS=all cargo test --package neoxc --test processes death
	NEOXC_FAULTS=all cargo test --package neoxc --test disks -- --nocapture

fuzz: setup
	NEOXC_FUZZ=1000000 cargo test --release --package neoxc-tests --test fuzz -- --nocapture
	NEOXC_FUZZ=1000000 cargo test --release --package neoxc-codegen --test cache_entries -- --nocapture

strangers: setup
	NEOXC_STRANGERS=50 cargo test --package neoxc-runtime --lib strangers -- --nocapture

agreement: setup
	NEOXC_CONFIGS=1000 cargo test --release --package neoxc-tests --test agreement -- --nocapture

cut-link: build
	@tools/cut-link.sh $(NEOXC)
	@tools/cut-link.sh $(NEOXC) hole

fmt:
	cargo fmt --all

lint: setup
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

docs: setup
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --workspace

# The table of goals, a small selection of each; PEER_PYTHON names a python with torch and transformers to compare with,
# BENCH="--all --configs FOLDER" measures everything (tools/bench/README.md).
bench: build
	@python3 tools/bench/goals.py $(BENCH)

clean:
	cargo clean
	rm -rf out .venv-test
