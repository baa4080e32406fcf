# Thin: what is worth knowing is in deploy/bootstrap.py and `aicockpit --help`.
# PROFILE=NAME chooses the file .env.NAME; PYTHON names the Python that makes .venv; ARGS are passed on.

PYTHON ?= python3
PROFILE ?=
ARGS ?=

BIN := .venv/bin
BOOTSTRAP := $(PYTHON) deploy/bootstrap.py
# The tests need the CPU build. An installation for GPUs stays as it is, and they get an environment of their own.
TESTED = $(if $(shell grep -s '"engine": "gpu"' .venv/aicockpit-stamp.json),.venv-test,.venv)
NEED_VENV = test -x $(BIN)/aicockpit || { echo "Nothing is installed yet: run 'make start-dev' first." >&2; exit 1; }

.DEFAULT_GOAL := help
.PHONY: help start-dev start-prod stop status logs health test check static bench extension format clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' Makefile

# The package is installed first where it is to find the profile; the env file then says which build of vLLM is needed.
# `exec`: Ctrl-C then reaches `serve` once, and make only waits for it.
start-dev: ## install, pick the profile, fetch the model, serve (Ctrl-C stops everything)
	@test -n "$(PROFILE)$$AICOCKPIT_ENV_FILE" || $(BOOTSTRAP)
	@profile="$(PROFILE)"; test -z "$$AICOCKPIT_ENV_FILE" || profile=own; \
	profile="$${profile:-$$($(BIN)/python -m aicockpit.hardware.detect --profile)}" || exit 1; \
	file="$${AICOCKPIT_ENV_FILE:-.env.$$profile}"; $(BOOTSTRAP) --env-file "$$file" || exit 1; \
	exec $(BIN)/aicockpit serve --env-file "$$file" $(ARGS)

start-prod: PROFILE := $(or $(PROFILE),prod480)
start-prod: start-dev ## the same with the profile prod480

stop: ## stop the server started here
	@$(NEED_VENV)
	@exec $(BIN)/aicockpit stop $(ARGS)

status: ## engines, models, load
	@$(NEED_VENV)
	@exec $(BIN)/aicockpit status $(ARGS)

logs: ## the engines' logs
	@$(NEED_VENV)
	@exec $(BIN)/aicockpit logs $(ARGS)

health: ## exit code 0 when a model answers
	@$(NEED_VENV)
	@exec $(BIN)/aicockpit health $(ARGS)

test: ## everything that CI checks, real vLLM on the CPU included
	@$(BOOTSTRAP) --extra cpu --with test --venv $(TESTED)
	@$(MAKE) --no-print-directory static BIN=$(TESTED)/bin
	@$(TESTED)/bin/python -m pytest $(ARGS)

check: ## format, lint, types, unit tests (no vLLM needed)
	@$(BOOTSTRAP) --extra none --with test
	@$(MAKE) --no-print-directory static
	@$(BIN)/python -m pytest -m 'not real and not editor' $(ARGS)

static:
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

bench: ## gateway against nginx and other routers; writes docs/performance.md
	@$(BOOTSTRAP) --extra none --with test
	@$(BIN)/python benchmarks/gateway.py $(or $(ARGS),--soak --write)

extension: ## the VS Code extension as vscode-extension/aicockpit.vsix
	@$(BOOTSTRAP) --extra none --with test
	@cd vscode-extension && PATH="$(CURDIR)/$(BIN):$$PATH" && npm install --no-save --no-audit --no-fund --loglevel=error && npm run --silent package

format: ## put the code into shape
	@$(BOOTSTRAP) --extra none --with test
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format .

clean: ## remove .venv and caches (models and keys stay)
	@rm -rf .venv .venv-test build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find src tests benchmarks deploy -name __pycache__ -prune -exec rm -rf {} +
