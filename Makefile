# On a fresh clone `make run` or `make test` is all it takes. PYTHON is what .venv is made with.
PYTHON ?= python3
BENCH ?= --quick
OUT ?= gpu-results

BIN := .venv/bin
INSTALLED := .venv/.installed
READY := .venv/.ready
FLOORS := .venv-floors
NEWEST := .venv-newest
INSTALL = python -m pip install --quiet --disable-pip-version-check
PIP = $(BIN)/$(INSTALL) -c constraints.txt
NEEDS_PYTHON = import sys; sys.exit(sys.version_info < (3, 10) and "PYTHON must be 3.10 or newer")

.DEFAULT_GOAL := help
.PHONY: help run test test-all test-floors test-newest lint types format docs bench report gpu clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(INSTALLED)  ## Initialise GPT-2, and compare the speed with torch.nn.init's
	$(BIN)/tritoninit init gpt2 --compare

# Those that run alone, which to look for among all takes as long as they do.
ALONE = -m alone $$(grep -rl --include='*.py' mark.alone tests)

# The tests that take seconds, with the environment that is named.
define SECONDS
$(1)/bin/python -m pytest -n 2 --dist worksteal -m "not slow and not gpu and not alone"
$(1)/bin/python -m pytest $(ALONE)
endef

test: lint types  ## Lint, types and every test that takes seconds
	$(call SECONDS,.venv)

test-all: lint types  ## The same, with the exhaustive tests that take minutes
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not gpu and not alone"
	$(BIN)/python -m pytest $(ALONE)

test-floors: $(FLOORS)/.ready  ## Those that take seconds, with the lowest versions allowed: downloads gigabytes
	$(call SECONDS,$(FLOORS))

test-newest:  ## Those that take seconds, with the newest versions that there are: downloads gigabytes
	$(call ENVIRONMENT,$(NEWEST))
	$(NEWEST)/bin/$(INSTALL) --upgrade setuptools
	$(NEWEST)/bin/$(INSTALL) --upgrade --upgrade-strategy eager --no-build-isolation -e '.[dev]'
	$(call SECONDS,$(NEWEST))

lint: $(READY)  ## ruff: rules and format; and the form of the workflows
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml

types: $(READY)  ## mypy, strict
	$(BIN)/mypy

format: $(READY)  ## Have ruff mend what it can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(READY)  ## Build the site into site/, strict; open site/index.html. Needs Python 3.11
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

bench: $(READY)  ## Measure this machine: bench.json, report.html; BENCH= takes minutes and measures all
	$(BIN)/tritoninit bench $(BENCH) --out bench.json
	$(BIN)/tritoninit compare bench.json --html report.html

report: $(READY)  ## Write the measured numbers of the README and docs/ from bench/results
	$(BIN)/python tools/report.py

# Installs nothing: PYTHON is the interpreter of a machine that has PyTorch and Triton already.
gpu:  ## Everything that a GPU tells in eight minutes, into OUT, with PYTHON as it is
	$(PYTHON) tools/gpu.py --out "$(OUT)"

clean:  ## Remove .venv, builds and caches
	rm -rf .venv $(FLOORS) $(NEWEST) build dist site *.egg-info .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An empty environment, unless there is one.
define ENVIRONMENT
$(PYTHON) -c '$(NEEDS_PYTHON)'
test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
endef

# What a run needs. setuptools goes first, so that the build runs on the pinned one instead of fetching another.
$(INSTALLED): pyproject.toml constraints.txt
	$(call ENVIRONMENT,.venv)
	$(PIP) setuptools
	$(PIP) --no-build-isolation -e '.[cpu]'
	touch $@

# And what tests and tools need besides.
$(READY): $(INSTALLED)
	$(PIP) --no-build-isolation -e '.[dev]'
	touch $@

# Each `name>=version` of pyproject.toml, as `name==version`; what has no floor there is the newest that goes with these.
$(FLOORS)/.ready: pyproject.toml
	$(call ENVIRONMENT,$(FLOORS))
	grep -oE '[a-z][a-z-]*>=[0-9.]+' $< | sed 's/>=/==/' | sort -u > $(FLOORS)/floors.txt
	$(FLOORS)/bin/$(INSTALL) -c $(FLOORS)/floors.txt setuptools
	$(FLOORS)/bin/$(INSTALL) -c $(FLOORS)/floors.txt --no-build-isolation -e '.[dev]'
	touch $@
