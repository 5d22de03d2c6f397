# Two targets matter: `make demo` and `make test`. Each makes its own set-up and starts at once when that is there.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do command -v $$p && break; done)
VENV := .venv
PEERS := .venv-peers
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps

.DEFAULT_GOAL := help
.PHONY: help demo test check bench bench-peers clean

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

$(STAMPS)/venv:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	mkdir -p $(STAMPS) && touch $@

$(STAMPS)/run: $(STAMPS)/venv pyproject.toml constraints.txt
	$(BIN)/pip install --quiet -c constraints.txt -e .
	touch $@

$(STAMPS)/test: $(STAMPS)/venv pyproject.toml constraints.txt
	$(BIN)/pip install --quiet -c constraints.txt -e '.[test]'
	touch $@ $(STAMPS)/run

$(STAMPS)/check: $(STAMPS)/test
	$(BIN)/pip install --quiet -c constraints.txt -e '.[test,check]'
	touch $@

demo: $(STAMPS)/run ## Compare four forms of one network on handwritten digits; prints a table and the path of a page
	$(BIN)/pluriform compare digits --out runs/demo

test: $(STAMPS)/test ## Run the test suite
	$(BIN)/python -m pytest -q -n 2 --dist worksteal $(ARGS)

check: $(STAMPS)/check ## Lint, format, types, floors, names, docstrings
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python .ci/check_names.py

bench: $(STAMPS)/test ## Time the main parts beside their peers; writes benchmarks/*.json
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

$(PEERS)/.stamp: benchmarks/peers/constraints.txt
	@command -v python3.11 > /dev/null || { echo "Python 3.11 is needed: neural-tangents and its JAX have no newer one."; exit 1; }
	python3.11 -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet -c $< neural-tangents jax jaxlib
	touch $@

bench-peers: $(PEERS)/.stamp ## Make .venv-peers, where the peers of the benchmarks live (neural-tangents on its old JAX)

clean: ## Remove the virtual environments and the runs
	rm -rf $(VENV) $(PEERS) runs
