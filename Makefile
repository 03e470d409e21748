# `make help` lists the targets. Everything is installed into .venv, once; nothing else is changed.
PYTHON ?= python3
ARGS ?=
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# A worker runs whole files, in the order of tests/conftest.py: slow files first. Each worker computes
# with one thread, because several would compete for the same cores.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
LEVERS := tests/process/sweep/test_sweep.py tests/process/sweep/test_equal_trials_sweep.py tests/cluster/test_faults.py
LONG_BENCHMARKS := benchmarks/reference_optima.py benchmarks/converged.py
FFCV_NEEDS := g++ pkg-config python3-dev libopencv-dev libturbojpeg0-dev
QUICKSTART := experiments/quickstart/digits/config.yml

.DEFAULT_GOAL := help
export PYTHONUNBUFFERED := 1

.PHONY: help quickstart test test-process test-cluster test-levers test-lowest test-all lint docs bench ffcv wheel wheel-test

help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile
	@echo
	@echo "  make test ARGS='-k zoo' passes arguments to pytest;"
	@echo "  make test WORKERS=8 runs 8 test files at a time instead of $(WORKERS);"
	@echo "  make PYTHON=python3.12 quickstart makes .venv with that Python."

# --resume starts a new sweep, continues an interrupted one, and shows the results of a finished one.
quickstart: $(VENV)/.installed ## install, then stitch two small networks on handwritten digits
	$(BIN)/stitch-sweep sweep $(QUICKSTART) --resume

test: $(VENV)/.installed-dev ## install what is missing, then run the unit tests (minutes)
	$(PYTEST) -m "not long" tests/unit $(ARGS)

test-process: $(VENV)/.installed-dev ## run the tests that start processes, such as whole sweeps
	$(PYTEST) -m "not long" tests/process $(ARGS)

test-cluster: $(VENV)/.installed-dev ## run the tests with several Ray nodes
	$(PYTEST) -m "not long" tests/cluster $(ARGS)

test-levers: $(VENV)/.installed-dev ## repeat the tests of sweeps and faults with packs and the fast recipe
	STITCH_SWEEP_TEST_LEVERS=1 $(PYTEST) -m "not long" $(LEVERS) $(ARGS)

test-all: $(VENV)/.installed-dev ## run all tests, including the long ones (hours)
	$(PYTEST) tests $(ARGS)

lint: $(VENV)/.installed-dev ## ruff check, ruff format --check and mypy
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

docs: $(VENV)/.installed-dev ## build the site of the documents into site/; wrong links and references fail
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet
	@echo "To read it with its search: $(BIN)/python -m http.server --directory site"

wheel: $(VENV)/.installed-dev ## build a wheel into dist/
	rm -rf build dist
	$(BIN)/python -m build --wheel

wheel-test: wheel ## install the wheel into an empty environment and try it (PYTHON=python3.13)
	.ci/try-wheel $(PYTHON) dist/*.whl

test-lowest: ## run unit tests with the lowest allowed version of every dependency (5 GB, in a new environment)
	.ci/test-lowest $(PYTHON) $(ARGS)

bench: $(VENV)/.installed ## run every script in benchmarks/, except those that take hours
	@status=0; \
	for script in $(sort $(filter-out $(LONG_BENCHMARKS),$(wildcard benchmarks/[!_]*.py))); do \
	    echo "== $$script"; \
	    $(BIN)/python "$$script" || status=1; \
	done; \
	exit $$status

ffcv: $(VENV)/.installed-ffcv ## install FFCV, for `data.loader: ffcv`

# The stamp is written last, so an interrupted installation is resumed by the next call.
# An environment that can't run pip (incomplete, or its Python was removed) is made again.
NO_PYTHON = $(PYTHON) was not found. Install Python 3.11 or newer (Debian: apt install python3 python3-venv), or name one: make PYTHON=/path/to/python3
NO_VENV = $(PYTHON) has no venv module to make $(VENV) with. Install it (Debian: apt install python3-venv).
TOO_OLD = Stitch Sweep needs Python 3.11 or newer, and $(PYTHON) is %d.%d. Name another one: make PYTHON=python3.11

$(VENV)/.installed: pyproject.toml constraints.txt
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	    command -v $(PYTHON) >/dev/null || { echo "$(NO_PYTHON)" >&2; exit 1; }; \
	    $(PYTHON) -c 'import sys; v = sys.version_info[:2]; v >= (3, 11) or sys.exit("$(TOO_OLD)" % v)' || exit 1; \
	    $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(NO_VENV)" >&2; exit 1; }; \
	    echo "Making $(VENV)"; \
	    $(PYTHON) -m venv --clear $(VENV); \
	fi
	@echo "Installing into $(VENV): several gigabytes, once"
	$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@

NO_FFCV = FFCV is compiled here, which takes a compiler and libraries. Debian: apt-get install $(FFCV_NEEDS)

$(VENV)/.installed-ffcv: $(VENV)/.installed
	@$(PIP) install -c constraints.txt -e '.[ffcv]' || { echo "$(NO_FFCV)" >&2; exit 1; }
	@$(BIN)/python -c 'import ffcv' || { echo "$(NO_FFCV)" >&2; exit 1; }
	@touch $@
