# make train: from a fresh machine to a trained model.   make test: everything that is checked.
.PHONY: train test build lint bench clean
export RUSTFLAGS ?=
unexport RUSTFLAGS

train:
	tools/setup.sh
	cargo build --release
	tools/quickstart.sh

test:
	tools/setup.sh --test
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --workspace --quiet
	cargo test --workspace

build:
	cargo build --release

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

bench: build
	tools/bench.sh

clean:
	cargo clean
	rm -rf out
