# `make train` and `make test` are all a newcomer needs; both set up what is missing first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# The tests start hundreds of processes: what each imports is compiled once, not by every one of them.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup train test mutants lint format types conformance clean

help:  ## Show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.installed  ## Create the virtual environment (reused afterwards)

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e '.[dev]'
	touch $@ $(VENV)/.trains

# Without the tools of development, and without bytecode of the many files that no training imports.
$(VENV)/.trains: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e '.[examples]'
	touch $@

train: $(VENV)/.trains  ## Train AiT on scikit-learn's handwritten digits, no download (minutes on 2 CPU cores)
	$(BIN)/python -m examples.image_classification examples/recipes/digits.yaml

# Two files at a time on one thread each: the tests start processes of their own, whose threads would wait for each other.
test: setup  ## Run the test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

mutants: setup  ## Try small faults in the code, each of which the tests must notice (an hour on 2 CPU cores)
	$(BIN)/python -m tests.mutation --jobs 2

lint: setup  ## Check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup  ## Repair style where it can be done mechanically
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: setup  ## Check types
	$(BIN)/mypy

conformance: setup  ## Run transformers' own common tests on AiT (fetches its source archive)
	$(BIN)/python -m tests.conformance

clean:  ## Remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .cache build dist *.egg-info
