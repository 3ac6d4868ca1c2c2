# `make demo` and `make test` work on a machine with Python 3.11, venv and make, and nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-unit test-all check format clean
.DELETE_ON_ERROR:

demo: $(VENV)/installed
	$(BIN)/mmray demo --out runs/demo

# What proves that it works: everything but the endurance rounds.
test: $(VENV)/installed-dev
	$(BIN)/pytest

# What answers while one writes: no Ray, no S3 server.
test-unit: $(VENV)/installed-dev
	$(BIN)/pytest -m 'not (ray or s3 or kill or endurance)'

# Many rounds of what `test` does a few of: kills at random points, thousands of mutated files, long sweeps.
test-all: test
	$(BIN)/pytest -m endurance

check: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml cluster/constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c cluster/constraints.txt -e .
	touch $@

$(VENV)/installed-dev: pyproject.toml cluster/constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c cluster/constraints.txt -e '.[dev]'
	touch $@ $(VENV)/installed

clean:
	rm -rf $(VENV) runs
