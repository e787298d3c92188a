# Two commands from nothing: `make run` does the main job, `make test` runs every check. What they run is in
# pyproject.toml and edgehybrid/; a second call installs nothing. The tests of timm take it without its torchvision,
# which would bring a torch of its own (tests/no_torchvision.py stands in for the names it imports).
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test

run: .venv/.run
	$(BIN)/edgehybrid quickstart

test: .venv/.test
	$(BIN)/ruff check
	$(BIN)/ruff format --check --quiet
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist loadfile

.venv/.run: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[host,rtx,stream]'
	touch $@

.venv/.test: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[host,rtx,dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps 'timm>=1.0.20,<2'
	touch $@ .venv/.run
