# Two commands for a newcomer: `make demo` and `make test`. Each sets up .venv with what it needs.
PYTHON ?= python3
BIN := .venv/bin
# One process a core with one thread each: most tests are too small for two threads.
SPREAD := --numprocesses 2 --dist loadscope
test: export OMP_NUM_THREADS = 1

.PHONY: demo test bench bench-methods bench-metrics clean

demo: .venv/demo.stamp
	$(BIN)/fastcam demo

test: .venv/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest $(SPREAD)
	TRITON_INTERPRET=1 $(BIN)/pytest $(SPREAD) tests/interpreter

bench: .venv/bench.stamp
	$(BIN)/pytest bench/test_cpu.py --benchmark-enable --benchmark-only --benchmark-json=bench/results/cpu.json

bench-methods: .venv/bench.stamp
	$(BIN)/pytest bench/test_methods_cpu.py --benchmark-enable --benchmark-only \
		--benchmark-json=bench/results/methods.json
	$(BIN)/python -m bench.mosaics

bench-metrics: .venv/bench.stamp
	$(BIN)/pytest bench/test_metrics_cpu.py --benchmark-enable --benchmark-only \
		--benchmark-json=bench/results/metrics.json

.venv/demo.stamp: pyproject.toml | .venv
	$(BIN)/pip install --quiet --editable '.[demo]'
	touch $@

.venv/test.stamp: pyproject.toml | .venv
	$(BIN)/pip install --quiet --editable '.[demo,test]'
	touch $@

.venv/bench.stamp: pyproject.toml | .venv
	$(BIN)/pip install --quiet --editable '.[demo,test,bench]'
	touch $@

.venv:
	$(PYTHON) -m venv .venv

clean:
	rm -rf .venv demo-output
