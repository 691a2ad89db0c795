# Two commands: `make demo` and `make test`. Each makes its own environment in .venv the first time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt "torch>=2.11,<2.14"

.PHONY: demo test lint clean

demo: $(VENV)/.installed  ## the sweep of the README on the embedded model, and its table
	$(BIN)/python main.py -m experiment=demo

test: $(VENV)/.installed-dev  ## all tests
	$(BIN)/python -m pytest

lint: $(VENV)/.installed-dev  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV)

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "SCOPE needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing (a few minutes the first time)"
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing with what tests need (a few minutes the first time)"
	$(INSTALL) --editable '.[dev]'
	@touch $@ $(VENV)/.installed
