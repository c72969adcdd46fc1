# `make run` and `make test` make the environment when it is missing or out of date, then do their job.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: run test lint clean

run: $(VENV)/installed
	$(BIN)/pikavae run $(ARGS)

test: lint
	$(BIN)/python -m pytest -n logical --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# A pip that was stopped leaves packages that look installed and are not whole: then the environment is made anew.
UNFINISHED := $(VENV)/installing
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or later is needed: make PYTHON=...")'
	if test -e $(UNFINISHED); then rm -rf $(VENV); fi
	mkdir -p $(VENV) && touch $(UNFINISHED)
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) .
	touch $@ && rm $(UNFINISHED)

$(VENV)/installed-dev: $(VENV)/installed
	if test -e $(UNFINISHED); then rm -rf $(VENV) && $(MAKE) $(VENV)/installed; fi
	touch $(UNFINISHED)
	$(INSTALL) '.[dev]'
	touch $@ && rm $(UNFINISHED)

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .import_linter_cache
