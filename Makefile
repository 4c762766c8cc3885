# Each target does all of its own set-up: a fresh machine needs Python 3.11+ and make, nothing more.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := .dselect/demo-corpus

.PHONY: demo test test-ui chromium postgresql lint clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
# torch first and by its exact version: the pinned file may be a CPU build that a looser request would pass over.
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
# lm-evaluation-harness is for the tests of `trials: {tasks: …}`, Playwright for those of the UI. All at once: to resolve
# twice takes half a minute more.
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,lm-eval,ui]'
	touch $@

# The main job: the built-in corpus in three files and formats, through all assets, to three coresets.
demo: $(VENV)/.installed
	$(BIN)/python -m demo.corpus $(DEMO)
	$(BIN)/dselect refresh

test: $(VENV)/.installed
	@command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 \
	  || $(MAKE) --no-print-directory postgresql
	$(BIN)/pytest --numprocesses logical --dist loadfile

# The Dagster UI in a browser; its screenshots are left in .dselect/screenshots.
test-ui: $(VENV)/.installed
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || $(MAKE) --no-print-directory chromium
	$(BIN)/pytest tests/ui

chromium postgresql:
	@[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null || \
	  { echo "the tests need $@: install it (Debian: apt-get install $@)" >&2; exit 1; }
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $@

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) .dselect .pytest_cache .ruff_cache .mypy_cache
