# Two commands matter: `make run` and `make test`. Both do all set-up themselves.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PHOENIX := .cache/phoenix
CLIENTS := .cache/clients

# The first Python that is new enough; PYTHON=... chooses another.
PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,\
	$(shell $(p) -c 'import sys; sys.version_info >= (3, 11) and print("$(p)")' 2>/dev/null)))

.PHONY: help setup run test test-otlp test-clients lint fmt docs bench lock clean

help: ## Show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(INSTALLED) ## Virtual environment, pinned dependencies, encoder
	@$(BIN)/extproc model fetch

$(INSTALLED): deploy/requirements-dev.txt pyproject.toml $(wildcard protos/*)
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: install it, or name it with PYTHON=..."; exit 1; }
	@echo "==> virtual environment ($$($(PYTHON) --version))"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "==> pinned dependencies (about 400 MB, once)"
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off --require-hashes \
		-r deploy/requirements-dev.txt | sed -un 's/^Collecting \([^ ]*\).*/    \1/p; s/^Installing .*/    installing/p'
	@echo "==> this project, with its protobuf code"
	@$(BIN)/python -m pip install --disable-pip-version-check -q --no-deps --no-build-isolation -e .
	@touch $@

run: setup ## Envoy, the sidecar and a demo model pool, in the foreground
	@exec $(BIN)/python -m extproc.demo

# A worker per core: matrix products that want all cores too would only wait for each other.
test: setup lint ## Every check and every test
	@OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-otlp: setup $(PHOENIX)/.installed ## Real traffic, read back from a real Arize Phoenix
	@PHOENIX_PYTHON=$(CURDIR)/$(PHOENIX)/bin/python $(BIN)/python -m pytest tests/otlp/phoenix.py

$(PHOENIX)/.installed: deploy/requirements-phoenix.txt | $(INSTALLED)
	@echo "==> Arize Phoenix in an environment of its own (600 MB, once)"
	@$(BIN)/uv venv -q --clear --python $(BIN)/python $(PHOENIX)
	@$(BIN)/uv pip install -q --python $(PHOENIX)/bin/python --require-hashes -r deploy/requirements-phoenix.txt
	@touch $@

test-clients: setup $(CLIENTS)/.installed ## Client libraries against the demo, in Python and in Node.js
	@$(BIN)/python -m pytest tests/clients/clients.py

$(CLIENTS)/.installed: deploy/requirements-clients.txt tests/clients/package-lock.json | $(INSTALLED)
	@echo "==> client libraries and Node.js in an environment of their own (900 MB, once)"
	@$(BIN)/uv venv -q --clear --python $(BIN)/python $(CLIENTS)
	@$(BIN)/uv pip install -q --python $(CLIENTS)/bin/python --require-hashes -r deploy/requirements-clients.txt
	@mkdir -p $(CLIENTS)/npm
	@cp tests/clients/package.json tests/clients/package-lock.json $(CLIENTS)/npm/
	@PATH=$(CURDIR)/$(CLIENTS)/bin:$$PATH npm ci --prefix $(CLIENTS)/npm --ignore-scripts --no-audit --no-fund --loglevel error
	@touch $@

lint: $(INSTALLED) ## Style, strict types, import layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

fmt: $(INSTALLED) ## Format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: $(INSTALLED) ## The documentation as a site, in .cache/site
	@$(BIN)/python docs/generate.py
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "open .cache/site/index.html (its search needs a web server: python3 -m http.server --directory .cache/site)"

bench: setup ## Measure speed against plain Envoy and a do-nothing ext_proc
	@$(BIN)/python benchmarks/speed.py

lock: $(INSTALLED) ## Pin every dependency anew
	@$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
		pyproject.toml -o deploy/requirements.txt
	@sed '/^ /d; s/ \\$$//; s/^onnxruntime-gpu==/onnxruntime==/' deploy/requirements.txt | $(BIN)/uv pip compile -q --universal \
		--python-version 3.11 --generate-hashes --no-annotate --no-header - -o deploy/requirements-cpu.txt
	@$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
		--extra dev --no-emit-package envoy-semantic-router -c deploy/requirements.txt \
		pyproject.toml -o deploy/requirements-dev.txt
	@echo "arize-phoenix==20.26.1" | $(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes \
		--no-annotate --no-header - -o deploy/requirements-phoenix.txt
	@$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
		tests/clients/requirements.in -o deploy/requirements-clients.txt
	@$(MAKE) -s $(CLIENTS)/.installed
	@cd tests/clients && PATH=$(CURDIR)/$(CLIENTS)/bin:$$PATH npm update --package-lock-only \
		--omit-lockfile-registry-resolved --no-audit --no-fund

clean: ## Remove everything that set-up made
	rm -rf $(VENV) .cache .run extproc/_pb
