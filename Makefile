# Everything runs from .venv in this folder, which is made and filled on the first use and again whenever
# pyproject.toml has changed. Another interpreter: make test PYTHON=python3.12. Arguments for pytest:
# make test ARGS=tests/test_examples.py.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check
DIGITS := examples/digits
ARGS ?=

.PHONY: help demo test lint types check format clean
# Two installations into one .venv would get in each other's way under make -j.
.NOTPARALLEL:

help:
	@echo 'make demo    convert the digits example to INT8 without data and measure it'
	@echo 'make test    run the tests'
	@echo 'make lint    ruff format --check, ruff check'
	@echo 'make types   mypy'
	@echo 'make check   lint, types and test'
	@echo 'make format  format the code and mend what ruff can mend'
	@echo 'make clean   delete caches and outputs; .venv stays'

demo: $(VENV)/.installed-demo
	$(BIN)/zscgan-convert $(DIGITS)/digits.pth --arch $(DIGITS)/model.py:digits_resnet --input-shape 1x8x8 \
	    --mean 0.305 --std 0.376 --int8 --val $(DIGITS)/test.npz -o $(DIGITS)/out

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy
	$(BIN)/mypy $(DIGITS)/model.py $(DIGITS)/train.py

check: lint types test

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(DIGITS)/out dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find converter calibrators engines examples benchmarks tests -type d -name __pycache__ -prune -exec rm -rf {} +

# pip and not python, as a failed venv leaves a python behind.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	    echo "expected Python 3.10 or newer, got $$($(PYTHON) --version 2>&1); type make PYTHON=python3.12" >&2; \
	    exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-demo: pyproject.toml | $(BIN)/pip
	@echo 'Installing the project into $(VENV) (PyTorch is large: minutes on the first run)'
	@$(PIP_INSTALL) -e .
	@touch $@

# The dev extra holds all that the demo needs.
$(VENV)/.installed-dev: pyproject.toml | $(BIN)/pip
	@echo 'Installing the project and its dev extra into $(VENV) (minutes on the first run)'
	@$(PIP_INSTALL) -e '.[dev]'
	@touch $(VENV)/.installed-demo $@
