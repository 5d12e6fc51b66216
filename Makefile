# GNU make 3.81 or later, on Linux and macOS. `make` lists the targets.

PORT ?= 3000
# Extras that are installed: with dev,deploy the tests and types of deploy/ are checked too.
EXTRAS ?= dev
VENV := .venv
INSTALLED := $(VENV)/.installed-$(EXTRAS)
INSTALLING := $(VENV)/.installing

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo dev test test-all lint clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

demo: $(INSTALLED)  ## run the whole graph on the bundled proteins, into data/
	$(VENV)/bin/python -m esm_sae_assets.demo

dev: $(INSTALLED)  ## open the Dagster UI on 127.0.0.1:3000 (another port: make dev PORT=3001)
	@$(VENV)/bin/python -m esm_sae_assets.demo --prepare-only
	$(VENV)/bin/dagster dev -h 127.0.0.1 -p $(PORT)

test: $(INSTALLED)  ## run the fast tests
	$(VENV)/bin/python -m pytest -m "not slow" $(PYTEST_ARGS)

test-all: test  ## run the fast tests, then the slow ones (daemon, browser, wheel)
	$(VENV)/bin/python -m pytest -m slow $(PYTEST_ARGS)

lint: $(INSTALLED)  ## check style, format and types
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/basedpyright --pythonpath $(VENV)/bin/python

clean:  ## remove .venv, caches and build products; data/, .dagster/ and .env stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -path ./data -prune -o -path ./.dagster -prune -o \
	    -name __pycache__ -type d -prune -exec rm -rf {} +

# $(INSTALLING) marks an installation under way: finding it, the last one was cut off, and what
# it left can't be trusted. An environment that somebody else made is installed into.
$(INSTALLED): pyproject.toml constraints.txt
	@if [ -e $(INSTALLING) ] || ! { $(VENV)/bin/python -m pip --version || \
	        $(VENV)/bin/python -m ensurepip; } >/dev/null 2>&1; then \
	    python=$$(.ci/find-python) || exit 1; \
	    echo "Making $(VENV) with $$python"; \
	    rm -rf $(VENV) && mkdir $(VENV) && touch $(INSTALLING) && \
	    "$$python" -m venv $(VENV); \
	fi
	@rm -f $(INSTALLED) && touch $(INSTALLING)
	$(VENV)/bin/python -m pip install -c constraints.txt -e '.[$(EXTRAS)]'
	@mv $(INSTALLING) $(INSTALLED)
