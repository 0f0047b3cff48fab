# What people do with this repository. `make help` lists it.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.NOTPARALLEL:

CARGO := cargo
BIN := $(or $(CARGO_TARGET_DIR),target)/release/threadbare
TRACE := $(or $(CARGO_TARGET_DIR),target)/debug/examples/trace
FUZZ := $(or $(CARGO_TARGET_DIR),target)/fuzz
BENCH := $(or $(CARGO_TARGET_DIR),target)/bench
MSRV := $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)

# What `make deps` looks for, by the targets in tests/tools.
FOR := test check

# The sets of features that somebody may build: the program, the bare library, everything.
FEATURES := --features=default --no-default-features --all-features

# What `make fuzz` takes.
TARGET := $(notdir $(wildcard tests/fuzz/corpus/*))
SECONDS := 60

# What cargo-fuzz gives to rustc, as far as stable Rust takes it: no address sanitizer, for
# which there is no unsafe code to watch either. The last one keeps comparisons calls, which
# libFuzzer overhears.
COVERAGE := -Cpasses=sancov-module $(addprefix -Cllvm-args=-, \
	sanitizer-coverage-level=4 sanitizer-coverage-inline-8bit-counters \
	sanitizer-coverage-pc-table sanitizer-coverage-trace-compares max-loads-per-memcmp=0)

# The bench, against the program as it is built last.
OF_BENCH := --locked --quiet --target-dir $(BENCH) --manifest-path tests/bench/Cargo.toml
RUN_BENCH = SERVER=$(abspath $(BIN)) $(CARGO) run $(OF_BENCH)

.PHONY: build run trace test check docs-update bench torture fuzz mutants lint fmt doc msrv deps clean help

build: ## build the program, and say what next
	@$(CARGO) build --locked --release
	@echo
	@echo "Built $(BIN). Next:"
	@echo "  make run     to serve; it says what to type in a second terminal"
	@echo "  make test    to see that it works, in about a minute (make help: everything else)"

run: ## serve on 127.0.0.1:1234, or as ARGS says: make run ARGS='-v echo'
	@$(CARGO) build --locked --quiet --release
	@$(CARGO) build --locked --quiet --example client
	@[ -n "$(ARGS)" ] || echo "In a second terminal:  cargo run -q --example client -- hello"
	@echo "To stop the server:    Ctrl-C here"
	@echo
	@exec $(BIN) $(ARGS)

trace: ## a short life of the server, call by call; your own: make trace ARGS='-v greet'
	@$(CARGO) build --locked --quiet --release
	@$(CARGO) build --locked --quiet --example trace
	@exec $(TRACE) $(BIN) $(ARGS)

test: FOR := test
test: deps ## the quick tests; some of them, by name: make test ONLY=chat
	@tests/run

check: deps ## everything: format, lints, documentation, every test, oldest Rust
	@echo "format"
	@$(CARGO) fmt --check
	@$(CARGO) fmt --check --manifest-path tests/fuzz/Cargo.toml
	@$(CARGO) fmt --check --manifest-path tests/bench/Cargo.toml
	@$(MAKE) --no-print-directory lint doc msrv
	@echo "tests of the bare library"
	@ONLY= tests/run --no-default-features
	@echo "tests, the heavy ones too"
	@ONLY= tests/run -- --include-ignored
	@echo "what a message costs in instructions"
	@$(CARGO) build --locked --release
	@$(RUN_BENCH) --no-default-features -- check

bench: FOR := bench
bench: deps ## beside the floor and peers, 14 minutes: make bench [QUICK=1] [ARGS='memory tokio']
	@$(CARGO) build --locked --quiet --release
	@$(CARGO) build $(OF_BENCH) --release # the peers, too
	@QUICK=$(QUICK) $(RUN_BENCH) --release -- $(ARGS)

docs-update: FOR := test
docs-update: deps ## write what docs/ quotes: code, traces, tables, figures
	@$(CARGO) test --locked --no-run --test docs
	@echo "running what the docs show"
	@UPDATE=1 $(CARGO) test --locked --quiet --test docs the_docs_are_true -- \
		--nocapture 2>&1 | grep -v '^running\|^test \|^\.\?$$'

torture: ## rude clients against a server that answers lines: make torture ADDR=host:port
	@$(CARGO) run --locked --quiet --release --example torture -- $(or $(ADDR),127.0.0.1:1234)

fuzz: FOR := fuzz
fuzz: deps ## feed mutants to parsers and server: make fuzz [TARGET=name] [SECONDS=60]
	@host=$$(rustc -vV | sed -n 's/^host: //p'); \
	RUSTFLAGS="$(COVERAGE)" $(CARGO) build --locked --quiet --release --target $$host \
		--manifest-path tests/fuzz/Cargo.toml --target-dir $(FUZZ); \
	for target in $(TARGET); do \
		scratch=$(FUZZ)/$$target; \
		mkdir -p $$scratch/corpus; \
		echo "$$target: $(SECONDS) s; see $$scratch/log"; \
		TARGET=$$target RUST_BACKTRACE=0 $(FUZZ)/$$host/release/threadbare-fuzz \
			-max_total_time=$(SECONDS) -max_len=512 -timeout=10 \
			-exact_artifact_path=$$scratch/failed \
			$$scratch/corpus tests/fuzz/corpus/$$target >$$scratch/log 2>&1 || { \
			sed -n '/panicked\|ERROR/,$$p' $$scratch/log; \
			echo "to replay: INPUT=$$scratch/failed $(CARGO) test" \
				"--test sim corpus::$$target"; \
			exit 1; \
		}; \
		sed -n 's/^\(#[0-9]*\).*DONE/\1 inputs,/p' $$scratch/log; \
	done

mutants: ## change the core a little, hundreds of times: do the tests notice? (hours)
	@$(CARGO) mutants --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-mutants
	@$(CARGO) mutants --config tests/mutants.toml --output $(or $(CARGO_TARGET_DIR),target) $(ARGS)

lint: ## clippy, for every set of features, no warning allowed
	@for features in $(FEATURES); do \
		$(CARGO) clippy --locked --quiet --all-targets $$features -- -D warnings; \
	done
	@$(CARGO) clippy --locked --quiet --no-default-features \
		--manifest-path tests/fuzz/Cargo.toml --target-dir $(FUZZ) -- -D warnings
	@$(CARGO) clippy --locked --quiet --no-default-features --all-targets \
		--manifest-path tests/bench/Cargo.toml --target-dir $(BENCH) -- -D warnings

fmt: ## format the code
	@$(CARGO) fmt
	@$(CARGO) fmt --manifest-path tests/fuzz/Cargo.toml
	@$(CARGO) fmt --manifest-path tests/bench/Cargo.toml

doc: ## the library's documentation, no warning allowed
	@RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --quiet --no-deps --all-features

msrv: ## build with the oldest Rust it promises to work with
	@if rustup run $(MSRV) cargo --version >/dev/null 2>&1 \
	|| rustup toolchain install $(MSRV) --profile minimal --no-self-update >/dev/null 2>&1; then \
		CARGO_TARGET_DIR=$(or $(CARGO_TARGET_DIR),target)/msrv \
			rustup run $(MSRV) cargo check --locked --quiet --all-features; \
	else \
		echo "msrv: no Rust $(MSRV) here and none to be had; only clippy's incompatible_msrv looked"; \
	fi

deps: ## install what the tests need, if that takes no password
	@tests/deps $(FOR)

clean: ## remove what was built
	@$(CARGO) clean

help: ## this page
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
