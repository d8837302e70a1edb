# Every target sets up what it needs. PYTHON=python3.12 make test uses another interpreter; remove .venv first.
PYTHON ?= python3
# Tests compute with tensors so small that threads only wait for each other: one each, and as many processes side by side.
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 .venv/bin/pytest --numprocesses $(WORKERS) --dist loadfile
BIN := .venv/bin

.PHONY: setup demo test test-slow test-soak judge lint format bench clean

setup: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[test]"
	touch $@

demo: setup
	$(BIN)/lorica demo

test: setup lint
	$(PYTEST) $(TEST_ARGS)

test-slow: setup
	$(PYTEST) -m slow $(TEST_ARGS)

test-soak: setup
	$(PYTEST) -m soak $(TEST_ARGS)

# llama-cpp-python is built from source on the first call (about 15 minutes); JUDGE_ARGS=... are pytest's.
judge: setup
	$(BIN)/python -c "import llama_cpp" || $(BIN)/pip install --constraint constraints.txt --editable ".[judge]"
	$(BIN)/pytest -m judge tests/judge $(JUDGE_ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	$(BIN)/python benchmarks/microbatch_tokens.py
	$(BIN)/python benchmarks/demo.py

clean:
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache .hypothesis build src/*.egg-info
