# `make demo` and `make test` need only Python 3.11 or newer with venv. Everything else is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow test-campaign docs clean

demo: $(VENV)/installed-cpu
	$(BIN)/rcdm visualize examples --method dino --level both --out demo --force

# Two processes with one thread each: most of the time is graph tracing in Python, which does not use more threads.
# `make test COVERAGE=` omits the coverage, which costs a third of the CPU time on Python 3.11 and little on 3.12.
COVERAGE := --cov=rcdm_cli

test: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile -m "not slow and not campaign" $(COVERAGE)

test-slow: $(VENV)/installed-test
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile -m slow

test-campaign: $(VENV)/installed-test
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 -m campaign

docs: $(VENV)/installed-test
	$(BIN)/python tools/make_cli_docs.py
	$(BIN)/python tools/make_encoder_table.py
	$(BIN)/python -m tools.make_schemas

clean:
	rm -rf $(VENV) demo build dist .coverage .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp file is newer than pyproject.toml once its extra is installed.
$(VENV)/installed-%: pyproject.toml | $(BIN)/pip
	$(BIN)/pip install --editable '.[$*]'
	touch $@

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)
