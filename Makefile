# Needs Python 3.11 to 3.13 with venv, and a package index that pip can reach. ffmpeg and ffprobe come from there too.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo test e2e check docs bench serve down clean

PYTHON ?= python3
TORCH ?=
PIP_ARGS ?=
PYTEST_ARGS ?=
DB ?=
UP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := cogvideo_core tasks flows
# Debian packages that the end-to-end tests need, by name
E2E_DEBIAN := postgresql chromium g++

PIP_QUIET := $(if $(CI),--quiet)
CONSTRAINTS := $(VENV)/constraints.txt
# --no-compile: only what is imported gets compiled, at first import, which saves half a minute on two cores
INSTALL = $(BIN)/python -m pip install $(PIP_QUIET) --no-compile --disable-pip-version-check -c $(CONSTRAINTS) $(PIP_ARGS)
unexport PYTHONDONTWRITEBYTECODE
# Nothing that runs from here reports its use to anyone
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export DO_NOT_TRACK := 1

help: ## list these commands
	@grep -hE '^[a-z0-9]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F '\t' '{ printf "make %-7s %s\n", $$1, $$2 }'
	@echo
	@echo 'make demo TORCH="torch==2.15.0"           another build of torch than the one in constraints.txt'
	@echo 'make demo PIP_ARGS="--index-url URL"      more arguments for pip install'
	@echo 'make test PYTEST_ARGS="-k specs -x"       more arguments for pytest'
	@echo 'make serve UP_ARGS="--auth --port 4300"    more arguments for cogvideo-edit up'
	@echo 'make demo PYTHON=python3.12               another Python'

demo: $(VENV)/.base ## edit three small clips with four prompts each; the result is in out/demo
	$(BIN)/cogvideo-edit demo

test: $(VENV)/.test ## run the tests (all but the slow, GPU and end-to-end ones)
	$(BIN)/python -m pytest -n 2 $(PYTEST_ARGS)

e2e: $(VENV)/.test ## run the end-to-end tests; installs the Debian packages they need
	@missing=""; for package in $(E2E_DEBIAN); do dpkg -s "$$package" >/dev/null 2>&1 || missing="$$missing $$package"; done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ]; then \
	  echo "Installing$$missing"; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; \
	elif [ -n "$(CI)" ]; then echo "Missing:$$missing"; exit 1; \
	else echo "Tests that need them will fail. To install: sudo apt-get install$$missing"; fi
	$(BIN)/python -m pytest -m e2e -n 2 --dist loadgroup $(PYTEST_ARGS)

check: $(VENV)/.dev ## lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.docs ## build the site of README, guides and functions in out/site; a dead link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "Open out/site/index.html"

bench: $(VENV)/.test ## run every script of tests/benchmarks, one after the other
	@scripts=$$(ls tests/benchmarks/*.py 2>/dev/null); \
	if [ -z "$$scripts" ]; then echo "There is no script in tests/benchmarks."; exit 1; fi; \
	for script in $$scripts; do echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

serve: $(VENV)/.base ## start server, worker and gallery on this machine, with Prefect's UI; stop them with make down; DB=postgres
	$(BIN)/cogvideo-edit up $(if $(DB),--database $(DB)) $(UP_ARGS)

down: ## stop what make serve has started
	$(BIN)/cogvideo-edit down

clean: ## remove .venv and caches; out/ stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(PACKAGES) tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "Python 3.11, 3.12 or 3.13 is needed; say which one with PYTHON=python3.11"; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }  # half a venv would look like a whole one

# Rewritten only when its text changes: so another TORCH or another pin installs again, and nothing else does.
FORCE:
$(CONSTRAINTS): $(VENV)/bin/python FORCE
	@{ if [ -n "$(TORCH)" ]; then grep -v '^torch==' constraints.txt; echo "# asked for: $(TORCH) $(PIP_ARGS)"; \
	  else cat constraints.txt; fi; } > $@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

$(VENV)/.base: $(CONSTRAINTS) pyproject.toml
	@echo "Installing the pipeline with models, storage and video tools (a minute or two; more for a CUDA build of torch)"
	@SECONDS=0; $(INSTALL) $(if $(TORCH),"$(TORCH)") -e . && echo "Installed in $$SECONDS s"
	@touch $@

$(VENV)/.test: $(VENV)/.base
	@echo "Installing what the tests need"
	@SECONDS=0; $(INSTALL) -e ".[test,s3,dask,kubernetes]" && echo "Installed in $$SECONDS s"
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	@echo "Installing ruff and mypy"
	@SECONDS=0; $(INSTALL) -e ".[dev]" && echo "Installed in $$SECONDS s"
	@touch $@

$(VENV)/.docs: $(VENV)/.base
	@echo "Installing what builds the site"
	@SECONDS=0; $(INSTALL) -e ".[docs]" && echo "Installed in $$SECONDS s"
	@touch $@
