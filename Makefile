# Two commands for a newcomer: `make demo` and `make test`. Each sets up .venv with what it needs.
PYTHON ?= python3
BIN := .venv/bin
# One process a core with one thread each: most tests are too small for two threads. A module's tests share a process,
# for what they share is dear to make; in the files' order, as modules of few tests, which would else come last, are
# the longest. The interpreter's tests share nothing.
TOGETHER := --numprocesses 2 --dist loadscope --no-loadscope-reorder
APART := --numprocesses 2 --dist worksteal
test: export OMP_NUM_THREADS = 1
MEASURED := --benchmark-enable --benchmark-only --benchmark-json=bench/results

.PHONY: demo test types unit bench bench-methods bench-metrics bench-matrix clean

demo: .venv/demo.stamp
	$(BIN)/fastcam demo

# mypy has one thread: beside the tests no core waits for it. If it fails, make says so at once and again at the end.
test: .venv/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(MAKE) --no-print-directory --jobs=2 types unit
	TRITON_INTERPRET=1 $(BIN)/pytest $(APART) tests/interpreter

types:
	$(BIN)/mypy

unit:
	$(BIN)/pytest $(TOGETHER)

bench: .venv/bench.stamp
	$(BIN)/pytest bench/test_cpu.py $(MEASURED)/cpu.json
	$(BIN)/pytest bench/test_score_cpu.py $(MEASURED)/score.json
	$(BIN)/pytest bench/test_memory_cpu.py $(MEASURED)/memory.json

bench-methods: .venv/bench.stamp
	$(BIN)/pytest bench/test_methods_cpu.py $(MEASURED)/methods.json
	$(BIN)/pytest bench/test_lrp_cpu.py $(MEASURED)/lrp.json
	$(BIN)/python -m bench.mosaics

bench-metrics: .venv/bench.stamp
	$(BIN)/pytest bench/test_metrics_cpu.py $(MEASURED)/metrics.json

bench-matrix: .venv/bench.stamp
	$(BIN)/python -m bench.matrix --narrow --output bench/results/matrix.json

.venv/demo.stamp: pyproject.toml | .venv
	$(BIN)/pip install --quiet --editable '.[demo]'
	touch $@

.venv/test.stamp: pyproject.toml | .venv
	$(BIN)/pip install --quiet --editable '.[demo,test]'
	touch $@

.venv/bench.stamp: pyproject.toml | .venv
	$(BIN)/pip install --quiet --editable '.[bench]'
	touch $@

.venv:
	$(PYTHON) -m venv .venv

clean:
	rm -rf .venv demo-output
