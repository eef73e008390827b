# Everything from a bare machine with Python 3.10 or newer: the environment is made when it is missing or out of date.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: install train test lint bench clean

train: $(INSTALLED)  ## train the quickstart on scikit-learn's digits
	$(BIN)/mixfast train quickstart

test: $(INSTALLED)  ## lint, then run the tests, a process a core; one that hangs is named (long ones: .venv/bin/pytest -m long)
	$(BIN)/ruff check .
	$(BIN)/pytest -q -n auto --dist worksteal --timeout 600 --timeout-method thread

bench: $(INSTALLED)  ## what a training step costs on this machine, with its data
	$(BIN)/mixfast bench step

install: $(INSTALLED)  ## make the environment and install mixfast into it, editable

# torch and torchvision are named in one install, so that pip picks a pair that fits.
$(INSTALLED): pyproject.toml setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet torch torchvision
	$(BIN)/pip install --quiet --editable ".[test]"
	touch $@

clean:  ## remove the environment and caches
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .hypothesis
