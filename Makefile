# Everything a person types. `make` alone lists it.
.DEFAULT_GOAL := help
PYTHON ?= python3
PAPERS ?=
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export PYTHONPATH := $(CURDIR)/src
export DVC_NO_ANALYTICS := true
export MLFLOW_DISABLE_TELEMETRY := true

help: ## this list
	@echo "reprise: sixteen machine-learning papers, regenerated exactly."
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

$(VENV)/installed: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { echo "error: Python 3.11 to 3.13 is needed, $$($(PYTHON) --version) found: make PYTHON=python3.11 ..." >&2; exit 1; }
	@echo "setting up $(VENV) from requirements.lock (2 to 5 minutes the first time, about 2.5 GB)"
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/pip install -q --disable-pip-version-check -r requirements.lock
	@$(VENV)/bin/pip install -q --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

setup: $(VENV)/installed ## a local virtual environment from requirements.lock

reproduce: $(VENV)/installed ## regenerate every paper at scale small, on all cores; PAPERS="dice ntl" for some
	@echo "regenerating $(if $(PAPERS),$(PAPERS),all papers): 1 to 8 CPU-minutes a paper; what is up to date is skipped"
	@python -m reprise.engine reproduce $(PAPERS)
	@python -m reprise.cli check $(PAPERS)

test: $(VENV)/installed ## the fast tests, in a few minutes
	@echo "running the fast tests (a few minutes on two cores)"
	@REPRISE_TRACKING=off python -m pytest -n auto -m "not slow and not cluster"

test-slow: $(VENV)/installed ## the slow tests: faults, kills, emulation, whole pipelines
	@REPRISE_TRACKING=off timeout 1800 python -m pytest -n auto -m "slow and not cluster"

test-all: test test-slow ## every test, slow ones included

test-cluster: $(VENV)/installed ## the tests on a real SLURM, which they install and start on this machine (Debian, root)
	@REPRISE_TRACKING=off python -m pytest tests/cluster -m cluster

verify: $(VENV)/installed ## rebuild the last commit from an empty cache and compare every bit; PAPERS="..." for some
	@python -m reprise.cli verify $(PAPERS)

ui: $(VENV)/installed ## MLflow on 127.0.0.1:5000, with every run on disk, following those that are running
	@python -m reprise.tracking

bench: $(VENV)/installed ## the benchmarks, each against a named peer in one run
	@for file in benchmarks/*.py; do echo "== $$file"; python $$file || missed="$$missed $$file"; done; test -z "$$missed" || { echo "not all goals met:$$missed"; exit 1; }

clean: ## remove logs, markers and resume points (results and cache stay)
	@rm -rf .reprise .snakemake

.PHONY: help setup reproduce test test-slow test-all test-cluster verify ui bench clean
