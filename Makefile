# `make demo` and `make test` need only Python 3.11 or newer with venv; everything else goes into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test docs clean

demo: $(VENV)/installed-cpu
	$(BIN)/rcdm visualize examples --method dino --level both --out demo --force

# Two processes of one thread each: most of the time is Python that traces graphs, which more threads do not help.
test: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile

docs: $(VENV)/installed-test
	$(BIN)/python tools/make_cli_docs.py

clean:
	rm -rf $(VENV) demo build dist .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Each stamp is younger than pyproject.toml once its set of packages is installed.
$(VENV)/installed-%: pyproject.toml | $(BIN)/pip
	$(BIN)/pip install --editable '.[$*]'
	touch $@

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)
