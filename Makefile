# `make help` lists the targets. Each makes its own environment in .venv the first time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt "torch>=2.11,<2.14"

OLDEST := .venv-oldest
WORKERS := -n 2 --dist worksteal
.PHONY: demo help paper bench gpu test test-all test-oldest mutants lint clean

demo: $(VENV)/.installed-figures  ## a sweep of 16 runs on the embedded model, its table and a picture
	$(BIN)/python main.py -m experiment=demo
	@$(BIN)/python -m analysis.figures outputs/demo > outputs/demo/figures.log 2>&1 || { cat outputs/demo/figures.log; exit 1; }
	@echo "picture, accuracy by bytes: outputs/demo/figures/frontier.png"
	@echo "go on with"
	@echo "  your model:      $(BIN)/python main.py -m experiment=first_look model=hf \\"
	@echo "                   model.path=FOLDER_OR_HUB_ID"
	@echo "  your questions:  $(BIN)/python main.py task=questions task.source=FILE.jsonl"
	@echo "  paper's table 1: $(BIN)/python main.py -m experiment=table1_4k plan=true"

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

paper: $(VENV)/.installed-figures demo  ## the demo's tables and figures as a LaTeX document, and as a PDF if TeX is installed
	$(BIN)/python -m analysis.paper outputs/demo --out outputs/paper

bench: $(VENV)/.installed  ## speed and memory against the full cache, on this CPU; exit code 1 if a target is missed
	$(BIN)/python -m experiments.benchmarks

gpu:  ## what is to be shown on a GPU, in at most 9 minutes; needs a python with torch for CUDA and transformers, no more
	$(PYTHON) -m experiments.benchmarks.gpu

test: $(VENV)/.installed-dev  ## all tests except the slow ones
	$(BIN)/python -m pytest $(WORKERS) -m "not slow"

test-all: $(VENV)/.installed-dev  ## all tests, the slow ones too
	$(BIN)/python -m pytest $(WORKERS)

test-oldest: $(OLDEST)/.installed  ## the tests that use transformers, on the oldest supported version
	$(OLDEST)/bin/python -m pytest tests/test_generate.py tests/test_cache.py tests/test_policies.py tests/test_families.py \
		tests/test_library.py tests/test_models.py tests/test_golden.py $(WORKERS)

mutants: $(VENV)/.installed-dev  ## puts small faults into a copy of the code; a test must fail for each (20 minutes)
	$(BIN)/python -m experiments.mutants

lint: $(VENV)/.installed-dev  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:  ## remove the environments
	rm -rf $(VENV) $(OLDEST)

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "SCOPE needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

$(OLDEST)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(OLDEST)
	grep -v -E '^(transformers|huggingface|tokenizers)' constraints.txt > $(OLDEST)/constraints.txt
	$(OLDEST)/bin/python -m pip install --quiet --constraint $(OLDEST)/constraints.txt \
		"torch>=2.11,<2.14" "transformers==5.17.*" --editable '.[dev]'
	@touch $@

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing (a few minutes the first time)"
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.installed-figures: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing (a few minutes the first time)"
	$(INSTALL) --editable '.[figures]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing with what tests need (a few minutes the first time)"
	$(INSTALL) --editable '.[dev]'
	@touch $@ $(VENV)/.installed-figures $(VENV)/.installed
