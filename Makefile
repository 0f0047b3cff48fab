# What people do with this repository. `make help` lists it.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.NOTPARALLEL:
.DEFAULT_GOAL := build

export CARGO := cargo
FUZZ := $(or $(CARGO_TARGET_DIR),target)/fuzz
BENCH := $(or $(CARGO_TARGET_DIR),target)/bench
BOOK := $(or $(CARGO_TARGET_DIR),target)/book
OLDEST := $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)

# Words behind these targets belong to them: make run http public
ifneq ($(filter $(firstword $(MAKECMDGOALS)),run client torture trace),)
WORDS := $(wordlist 2,$(words $(MAKECMDGOALS)),$(MAKECMDGOALS))
endif
OWN = $(foreach word,$(WORDS),'$(subst ','\'',$(word))')

# Builds in one go, so that the library is compiled once, and with cargo's own bar. Cargo says
# where it put each program, so any target directory will do: afterwards $$threadbare is the
# path of the program, $$client that of the example, and so on.
build = paths=$$(tests/tick $(CARGO) build --locked --message-format=json-render-diagnostics $1 \
	| sed -n "s/'/'\\\\''/g; s/.*\"executable\":\"\(.*\/\([a-z]*\)\)\".*/\2='\1'/p") \
	|| { tests/doctor crates; exit 1; }; eval "$$paths"

# The first minutes do without LTO, so that the program is soon there; and the client with it.
FIRST := --profile quick --bin threadbare --example client

# Where `make install` puts the program and its papers.
PREFIX := /usr/local
BINDIR = $(DESTDIR)$(PREFIX)/bin
SHARE = $(DESTDIR)$(PREFIX)/share
DOCDIR = $(SHARE)/doc/threadbare
UNITDIR = $(DESTDIR)$(PREFIX)/lib/systemd/system
UNITS = $(wildcard docs/units/*.service docs/units/*.socket)

# What `make deps` looks for, by the targets in tests/tools. Nothing else installs, but where
# nobody is there to ask: other targets say what they lack, and do without.
FOR := test check
DEPS := $(if $(filter true,$(CI)),deps)

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

# A server in the loop of an async runtime.
IN_TOKIO := docs/programs/in_tokio/Cargo.toml
# The bench, against the program as it is built last.
OF_BENCH := --target-dir "$(BENCH)" --manifest-path tests/bench/Cargo.toml
RUN_BENCH = SERVER="$$threadbare" $(CARGO) run --quiet --locked $(OF_BENCH)
OF_BOOK := --locked --target-dir "$(BOOK)" --manifest-path docs/book/Cargo.toml

.PHONY: build run client tour trace torture book doctor test check docs-update bench fuzz mutants lint \
	fmt doc msrv deps install uninstall clean help able

##@ The first minutes

run: able ## serve on port 1234: make run [echo] [ARGS='-v --narrate']
	@$(call build,$(FIRST)); THREADBARE_TIPS=make exec "$$threadbare" $(OWN) $(ARGS)

client: able ## talk to a server: make client [SAY='hello'] [TO=host:port]
	@$(call build,$(FIRST)); \
	exec "$$client" $(and $(TO),--to '$(TO)') -- $(OWN) $${SAY:+"$$SAY"}

tour: able ## a minute: what the server does about good clients and bad
	@$(call build,$(FIRST) --example tour); exec "$$tour" "$$threadbare"

trace: able ## a short life, call by call: make trace [echo] [SVG=life.svg]
	@$(call build,$(FIRST) --example trace); exec "$$trace" --svg "$(SVG)" "$$threadbare" $(OWN) $(ARGS)

torture: able ## rude clients for a server: make torture [ADDR=host:port] [CMD='…']
	@$(call build,$(FIRST) --example torture); exec "$$torture" $(or $(OWN),$(ADDR)) --start "$$CMD"

book: able ## the walkthrough in a browser: make book [ADDR=host:port]
	@tests/tick $(CARGO) build $(OF_BOOK) || { tests/doctor crates; exit 1; }; \
	exec "$(BOOK)/debug/threadbare-book" $(ADDR)

# The other targets take no words, and words may be called like them.
ifeq ($(WORDS),)

doctor: ## what this machine lacks, and what to type to mend it
	@tests/doctor

test: FOR := test
test: able $(DEPS) ## the quick tests, 75 s (at first 3 min): make test [ONLY=name]
	@tests/run

##@ To work on it

build: able ## build the program, with LTO, and say what next
	@$(call build,--release --bin threadbare); \
	echo; \
	echo "Built $${threadbare#"$$PWD"/}. Next:"; \
	echo "  make run     to serve; in a second terminal: make client SAY=hello"; \
	echo "  make test    to see that it works"; \
	echo "  make help    for everything else"

check: able $(DEPS) ## everything: format, lints, docs, every test, oldest Rust
	@tests/deps --missing test check
	@echo "format"
	@$(CARGO) fmt --check
	@$(CARGO) fmt --check --manifest-path tests/fuzz/Cargo.toml
	@$(CARGO) fmt --check --manifest-path tests/bench/Cargo.toml
	@$(CARGO) fmt --check --manifest-path docs/book/Cargo.toml
	@$(CARGO) fmt --check --manifest-path $(IN_TOKIO)
	@$(MAKE) --no-print-directory lint doc msrv
	@echo "tests of the bare library"
	@ONLY= tests/run --no-default-features --lib --test library
	@echo "tests, the heavy ones too"
	@ONLY= tests/run --include-ignored
	@echo "tests of the book"
	@$(CARGO) test $(OF_BOOK) --quiet
	@echo "a server in tokio's loop"
	@$(CARGO) test --quiet --locked --target-dir "$(BENCH)" --manifest-path $(IN_TOKIO)
	@echo "what a message and a short connection cost in instructions"
	@$(call build,--release --bin threadbare); \
	$(call build,$(OF_BENCH) --release --no-default-features --bin verbs); \
	VERBS="$$verbs" $(RUN_BENCH) --no-default-features -- check

fmt: ## format the code
	@$(CARGO) fmt
	@$(CARGO) fmt --manifest-path tests/fuzz/Cargo.toml
	@$(CARGO) fmt --manifest-path tests/bench/Cargo.toml
	@$(CARGO) fmt --manifest-path docs/book/Cargo.toml
	@$(CARGO) fmt --manifest-path $(IN_TOKIO)

lint: able ## clippy, for every set of features, no warning allowed
	@clippy() { echo "clippy $$*"; tests/tick $(CARGO) clippy --locked "$$@" -- -D warnings; }; \
	for features in $(FEATURES); do clippy --all-targets $$features; done; \
	clippy --lib --no-default-features; \
	clippy --no-default-features --manifest-path tests/fuzz/Cargo.toml --target-dir "$(FUZZ)"; \
	clippy --no-default-features --manifest-path tests/bench/Cargo.toml --target-dir "$(BENCH)" \
		--all-targets; \
	clippy --manifest-path docs/book/Cargo.toml --target-dir "$(BOOK)" --all-targets

doc: able ## the library's documentation, no warning allowed
	@RUSTDOCFLAGS="-D warnings" tests/tick $(CARGO) doc --locked --no-deps --all-features

docs-update: FOR := test
docs-update: able $(DEPS) ## write what docs/ quotes: code, traces, tables, figures
	@tests/tick $(CARGO) test --locked --no-run --test docs --test library --test sim
	@echo "running what the docs show"
	@UPDATE=1 $(CARGO) test --locked --quiet --test docs --test library --test sim -- the_docs_are_true \
		the_manual_and the_drawings_are the_sizes_are --nocapture 2>&1 | grep -v '^running\|^test \|^\.\?$$'

##@ Now and then

bench: FOR := bench
bench: able $(DEPS) ## with peers, 14 minutes: make bench [QUICK=1] [ARGS=memory]
	@tests/deps --missing bench
	@$(call build,--release --bin threadbare); \
	tests/tick $(CARGO) build --locked $(OF_BENCH) --release; \
	QUICK=$(QUICK) $(RUN_BENCH) --release -- $(ARGS)

fuzz: FOR := fuzz
fuzz: able $(DEPS) ## feed mutants to parsers: make fuzz [TARGET=name] [SECONDS=60]
	@tests/deps --missing fuzz
	@host=$$(rustc -vV | sed -n 's/^host: //p'); \
	RUSTFLAGS="$(COVERAGE)" tests/tick $(CARGO) build --locked --release --target $$host \
		--manifest-path tests/fuzz/Cargo.toml --target-dir "$(FUZZ)"; \
	for target in $(TARGET); do \
		scratch="$(FUZZ)/$$target"; \
		mkdir -p "$$scratch/corpus"; \
		echo "$$target: $(SECONDS) s; see $$scratch/log"; \
		TARGET=$$target RUST_BACKTRACE=0 "$(FUZZ)/$$host/release/threadbare-fuzz" \
			-max_total_time=$(SECONDS) -max_len=512 -timeout=10 \
			-exact_artifact_path="$$scratch/failed" \
			"$$scratch/corpus" tests/fuzz/corpus/$$target >"$$scratch/log" 2>&1 & \
		while [ -t 1 ] && sleep 1 && kill -0 $$! 2>/dev/null; do \
			printf '\r%.*s\r' 72 "$$(tail -n 1 "$$scratch/log")"; \
		done; \
		wait $$! || { \
			sed -n '/panicked\|ERROR/,$$p' "$$scratch/log"; \
			echo "to replay: INPUT=$$scratch/failed $(CARGO) test" \
				"--test sim corpus::$$target"; \
			exit 1; \
		}; \
		sed -n 's/^\(#[0-9]*\).*DONE/\1 inputs,/p' "$$scratch/log"; \
	done

mutants: able ## change the core a bit: do the tests notice? (hours)
	@$(CARGO) mutants --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-mutants
	@$(CARGO) mutants --config tests/mutants.toml --output $(or $(CARGO_TARGET_DIR),target) $(ARGS)

msrv: ## build with the oldest Rust allowed: make msrv [MSRV=install]
	@if ! rustup run $(OLDEST) cargo --version >/dev/null 2>&1; then \
		case "$(MSRV)$${CI:+install}" in \
		install*) \
			echo "msrv: installing Rust $(OLDEST), about 551 MB on the disk"; \
			rustup toolchain install $(OLDEST) --profile minimal --no-self-update || { \
				echo "msrv: Rust $(OLDEST) is not to be had here; only clippy's incompatible_msrv looked"; \
				exit 0; \
			};; \
		*) \
			echo "msrv: not tried, because Rust $(OLDEST) is not installed;" \
				"make msrv MSRV=install downloads it (about 551 MB on the disk)"; \
			exit 0;; \
		esac; \
	fi; \
	CARGO_TARGET_DIR="$(or $(CARGO_TARGET_DIR),target)/msrv" \
		tests/tick rustup run $(OLDEST) cargo check --locked --all-features

deps: ## apt installs what tests need: make deps [FOR='bench fuzz']
	@tests/deps $(FOR)

install: able ## program, man page, units: make install [PREFIX=/usr/local] [DESTDIR=]
	@$(call build,--release --bin threadbare); \
	install -D "$$threadbare" "$(BINDIR)/threadbare" \
		|| { echo "error: you may not write there; type: sudo install '$$threadbare'" \
			"'$(BINDIR)', or: make install PREFIX=\$$HOME/.local"; exit 1; }; \
	install -D -m 644 -t "$(DOCDIR)" README.md LICENSE; \
	install -D -m 644 -t "$(SHARE)/man/man1" docs/man/threadbare.1; \
	install -D -m 644 docs/completions/threadbare.bash "$(SHARE)/bash-completion/completions/threadbare"; \
	install -D -m 644 docs/completions/threadbare.zsh "$(SHARE)/zsh/site-functions/_threadbare"; \
	install -D -m 644 -t "$(SHARE)/fish/vendor_completions.d" docs/completions/threadbare.fish; \
	install -D -m 644 -t "$(UNITDIR)" $(UNITS); \
	sed -i 's|/usr/local/bin/|$(PREFIX)/bin/|' $(UNITS:docs/units/%="$(UNITDIR)"/%); \
	echo "Installed $(BINDIR)/threadbare; make uninstall, with the same PREFIX, removes it"

uninstall: ## remove what `make install` has installed
	rm -f "$(BINDIR)/threadbare"
	rm -f "$(SHARE)/man/man1/threadbare.1" "$(SHARE)/bash-completion/completions/threadbare" \
		"$(SHARE)/zsh/site-functions/_threadbare" \
		"$(SHARE)/fish/vendor_completions.d/threadbare.fish" $(UNITS:docs/units/%="$(UNITDIR)"/%)
	rm -rf "$(DOCDIR)"

clean: ## remove what was built
	@command -v $(firstword $(CARGO)) >/dev/null \
		|| { echo "error: there is no cargo; type: rm -rf $(or $(CARGO_TARGET_DIR),target)" >&2; exit 1; }
	@$(CARGO) clean

help: ## this page
	@awk -F ':.*## ' ' \
		/^##@ / { printf "\n%s:\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

able: # what every build takes is here, or one line says what to type
	@tests/doctor able

else
.PHONY: $(subst :,\:,$(WORDS))
$(subst :,\:,$(WORDS)):
	@:
endif
