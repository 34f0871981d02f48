# Every target makes the virtual environment first: `make demo` and `make test` work on a bare clone.
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test test-fast test-fast-1 test-fast-2 test-ray test-kernels check audit bench setup clean

demo: setup
	$(BIN)/ss4rec demo

test: test-fast
	$(MAKE) test-ray

# Two halves of about the same length: `make -j2 test-fast` (or -j3 with test-kernels) runs them at the same time.
test-fast: test-fast-1 test-fast-2

HALF = tests/faults tests/data

test-fast-1: setup
	$(BIN)/python -m pytest -q -m "not ray" --durations=5 $(HALF)

test-fast-2: setup
	$(BIN)/python -m pytest -q -m "not ray" --durations=5 $(HALF:%=--ignore=%) tests

# Each file with Ray tests gets a process of its own: in one that has left a Ray cluster, Ray Data cancels its
# actors on the next. One after another: most start three or more processes, and two cores have no more to give.
test-ray: setup
	for file in $$(grep -rl "mark.ray" tests --include='test_*.py'); do \
		$(BIN)/python -m pytest -q -m ray --durations=3 $$file || exit 1; \
	done

# Triton's kernels in its interpreter, on a CPU, and compiled for cards that are not there; the version is that of the
# GPU image's torch. It stays out of the
# environment: with it torch.compile would look for a GPU.
test-kernels: setup
	test -d $(VENV)/triton/triton || $(BIN)/pip install -q --target $(VENV)/triton triton==3.6.0
	TRITON_INTERPRET=1 PYTHONPATH=$(VENV)/triton $(BIN)/python -m pytest -q tests/kernels -k triton
	PYTHONPATH=$(VENV)/triton $(BIN)/python -m pytest -q tests/kernels/test_cards.py

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy ss4rec ray_jobs cluster drift tuning
	$(BIN)/bandit -q -c pyproject.toml -r ss4rec ray_jobs cluster drift tuning
	$(BIN)/python tools/imports.py
	$(BIN)/python -m tools.guard_texts
	$(BIN)/python tools/audit.py

# Known vulnerabilities of the locked packages; asks PyPI about each of them.
audit: setup
	$(BIN)/python tools/audit.py --advisories

bench: setup
	$(BIN)/python -m benchmarks.cpu_scan
	$(BIN)/python -m benchmarks.loader

setup: $(VENV)/.ss4rec-installed

$(VENV)/.ss4rec-installed: pyproject.toml constraints.txt tools/install.sh
	SS4REC_VENV=$(VENV) bash tools/install.sh

clean:
	rm -rf build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
