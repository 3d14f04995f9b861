# PayFlow: `make` lists what can be done.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help run test lint check bench

help: ## List the commands
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1	/'

run: $(INSTALLED) ## Run everything on http://localhost:8080 (PORT=8081 for another port)
	@$(BIN)/python -m payflow.embedded run

test: $(INSTALLED) ## Run the tests (ARGS="-k transfer" for some of them)
	@$(BIN)/python -m pytest $(ARGS)

lint: $(INSTALLED) ## Check style, types and migrations
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@DJANGO_SETTINGS_MODULE=payflow.settings.test $(BIN)/python -W ignore::RuntimeWarning \
		manage.py makemigrations --check --dry-run

check: lint test ## What CI runs

bench: $(INSTALLED) ## Measure it against its own database (ARGS="--help" says more)
	@$(BIN)/python -m benchmarks.run $(ARGS)

$(INSTALLED): requirements.txt
	@test -w . || { echo "This folder cannot be written: copy the project to one that can." >&2; exit 1; }
	@command -v $(PYTHON) >/dev/null || \
		{ echo "There is no $(PYTHON): install Python 3.11 or newer, or name one with make PYTHON=/path/to/python." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "PayFlow needs Python 3.11 or newer, and $(PYTHON) is older: name a newer one with make PYTHON=/path/to/python." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "$(PYTHON) cannot make virtual environments: install its venv package (Debian and Ubuntu: apt install python3-venv)." >&2; exit 1; }
	@echo "Installing the requirements into $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
	@touch $@
