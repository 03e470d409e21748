# `make help` lists the targets. Everything is installed into .venv, once; nothing else is touched.
PYTHON ?= python3
ARGS ?=
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# The order of tests/conftest.py, slow files first, is kept.
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
FFCV_NEEDS := g++ pkg-config python3-dev libopencv-dev libturbojpeg0-dev
QUICKSTART := experiments/quickstart/digits/config.yml

.DEFAULT_GOAL := help
export PYTHONUNBUFFERED := 1

.PHONY: help quickstart test test-all lint bench ffcv

help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' Makefile
	@echo
	@echo "  make test ARGS='-k zoo' hands arguments to pytest;"
	@echo "  make test WORKERS=8 runs as many test files at a time, instead of $(WORKERS);"
	@echo "  make PYTHON=python3.12 quickstart picks the Python that .venv is made with."

# --resume starts the sweep where there is none, goes on with an interrupted one, and shows the
# results of a finished one again.
quickstart: $(VENV)/.installed ## install, then stitch two small networks on handwritten digits
	$(BIN)/stitch-sweep sweep $(QUICKSTART) --resume

test: $(VENV)/.installed-dev ## install what is missing, then run the tests (not the long ones)
	$(PYTEST) -m "not long" $(ARGS)

test-all: $(VENV)/.installed-dev ## run all tests, those that take minutes included
	$(PYTEST) $(ARGS)

lint: $(VENV)/.installed-dev ## ruff check, ruff format --check and mypy
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

bench: $(VENV)/.installed ## run every script in benchmarks/
	@status=0; \
	for script in $(sort $(wildcard benchmarks/[!_]*.py)); do \
	    echo "== $$script"; \
	    $(BIN)/python "$$script" || status=1; \
	done; \
	exit $$status

ffcv: $(VENV)/.installed-ffcv ## install FFCV too, for `data.loader: ffcv`

# A stamp is written last, so an installation that was cut off is taken up again the next time.
# An environment that can't run pip (half made, or its Python has gone) is made anew.
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
