# Everything runs from a virtual environment in .venv, made on first use and again only when the
# dependencies change.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CLIENTS := $(VENV)/.clients
DOCS := $(VENV)/.docs

.PHONY: train docs test test-slow mutants lint format clean

train: $(STAMP)
	$(BIN)/offload-rllib train ether_12 ppo

# Two processes: tests wait for Ray's processes to start as often as they compute. Each takes the next file in the order
# of tests/conftest.py; by itself, xdist would begin with the files of most tests, which are not the longest.
test: $(STAMP) lint
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder

test-slow: $(STAMP) $(CLIENTS)
	$(BIN)/python -m pytest -m slow -n 2 --dist loadfile

# Puts one-line faults into a copy of the tree; says which of them the fast tests do not notice.
mutants: $(STAMP)
	$(BIN)/python scripts/mutants.py

# The site in site/: no dead link, no page outside its menu.
docs: $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/python -m pytest --noconftest tests/test_prose.py

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# pip, not a faster installer: it finds a CPU build of torch where the machine is set up with one.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is $$($(PYTHON) --version 2>&1); Python 3.11 or newer is needed: make PYTHON=python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[alibaba,export,serve,dev]'
	@touch $(STAMP)

# Other people's libraries that the slow tests train with; nothing else here needs them.
$(CLIENTS): clients.txt $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r clients.txt
	@touch $(CLIENTS)

# Only the site needs it.
$(DOCS): pyproject.toml constraints.txt $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $(DOCS)

clean:
	rm -rf $(VENV) dist site .pytest_cache .ruff_cache .hypothesis .mutants
