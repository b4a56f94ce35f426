# Every target does its own set-up: a virtual environment in .venv, made anew when what it holds is
# no longer what pyproject.toml asks for. Needs Python 3.11 or newer and a package registry.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.current

# A second OpenMP thread a process makes small tests slower, and tests run worker processes.
TEST_ENV := OMP_NUM_THREADS=1

.PHONY: demo test torture torture-short lint bench format clean

demo: $(STAMP)
	$(BIN)/featbank demo

test: $(STAMP)
	$(TEST_ENV) $(BIN)/python -m pytest -n auto --dist loadfile $(PYTEST_ARGS)

# Under an hour: README's table. The short form takes minutes; CI runs it.
torture: $(STAMP)
	$(TEST_ENV) $(BIN)/python -m tests.torture $(TORTURE_ARGS)

torture-short: $(STAMP)
	$(TEST_ENV) $(BIN)/python -m tests.torture --short $(TORTURE_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Twenty minutes. `python benchmarks/extraction.py --make-environments` brings the other
# packages. Of the heads these are short forms, on features that are made; with --bank they take a
# bank's.
bench: $(STAMP)
	$(BIN)/python benchmarks/extraction.py --quick
	$(BIN)/python benchmarks/second_run.py --files 10000,100000
	$(BIN)/python benchmarks/bank_read.py
	$(BIN)/python benchmarks/latency.py
	$(BIN)/python benchmarks/parity.py --quick
	$(BIN)/python benchmarks/heads.py --quick
	$(BIN)/python benchmarks/heads_quality.py --quick
	$(BIN)/python benchmarks/defaults.py --quick
	$(BIN)/python benchmarks/leakage.py
	$(BIN)/python benchmarks/coverage.py --quick
	$(BIN)/python benchmarks/mlp.py --rounds 2
	$(BIN)/python benchmarks/elpv.py --quick --bank demo/elpv

clean:
	rm -rf $(VENV) demo build dist

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "featbank needs Python 3.11 or newer; name one with make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable '.[demo,timm]' --group dev
	touch $(STAMP)
