# Each target does all of its own set-up: a fresh machine needs Python 3.11+ and make, nothing more.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := .dselect/demo-corpus

.PHONY: demo test lint clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
# torch first and by its exact version: the pinned file may be a CPU build that a looser request would pass over.
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
# lm-evaluation-harness is for the tests of `trials: {tasks: …}`. All at once: to resolve twice takes half a minute more.
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,lm-eval]'
	touch $@

# The main job: the built-in corpus in three files and formats, through all assets, to three coresets.
demo: $(VENV)/.installed
	$(BIN)/python -m demo.corpus $(DEMO)
	$(BIN)/dselect refresh

# A server for tests/e2e/test_postgres_and_s3.py, where there is none.
test: $(VENV)/.installed
	command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 \
	  || { apt-get update -qq && apt-get install -qq -y --no-install-recommends postgresql; }
	$(BIN)/pytest --numprocesses logical --dist loadfile

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) .dselect .pytest_cache .ruff_cache .mypy_cache
