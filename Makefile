# Every target makes the virtual environment first: `make demo` and `make test` work on a bare clone.
VENV ?= .venv
BIN = $(VENV)/bin
PYTEST = $(BIN)/python -m pytest -q --durations=5

.PHONY: demo test test-all test-rest ci test-fast test-fast-1 test-fast-2 test-python test-kernels kernels-compiled \
	kernels-interpreted triton check audit docs bench setup clean

demo: setup
	$(BIN)/ss4rec demo

# Three processes at a time: tests wait for one another, for a server, for Ray, so two would leave two cores idle.
JOBS = 3

# Ray starts a worker for each CPU as soon as a driver joins, most of them for nothing: an eighth of a Ray test's CPU.
export RAY_prestart_worker_first_driver = 0
# Ray runs its workers at niceness 15: beside a few busy processes they get a fiftieth of a core, and tests never end.
export RAY_worker_niceness = 0

# What a change may break first, meant for 6 minutes on two quiet cores: every test without Ray but those of
# tests/slow.tsv, and the real thing: one head, jobs, two workers, a sweep.
# `python -m benchmarks.newcomer test` and `... test-all` measure.
test: setup
	$(MAKE) -j$(JOBS) SLOW="and not slow" test-fast ray/tests/test_end_to_end.py

# Everything, meant for 20 minutes.
test-all: setup
	$(MAKE) -j$(JOBS) ALONE=$(RAY_ALONE:%=ray/%) test-fast $(RAY_FILES)

# What `make test` leaves out of it.
test-rest: setup
	$(MAKE) -j$(JOBS) SLOW="and slow" ALONE=$(RAY_ALONE:%=ray/%) \
		test-fast $(filter-out ray/tests/test_end_to_end.py,$(RAY_FILES))

# The checks, the kernels and all of test-all, in one queue that leaves no core idle; .ci/run names fewer RAY_FILES. What
# takes long begins first; a target that fails does not stop the others; what a target printed comes in one piece, at its
# end. Triton is installed before: a target that waits for another one comes last.
ci: triton
	$(MAKE) -j$(JOBS) -k --no-print-directory --output-sync=target TWICE=1 ALONE=$(RAY_ALONE:%=ray/%) \
		$(RAY_ALONE:%=ray/%) kernels-compiled check test-fast $(RAY_FILES) kernels-interpreted

# Two halves of about the same length: `make -j2 test-fast` runs them at the same time.
test-fast: test-fast-1 test-fast-2

HALF = tests/faults tests/data tests/drift tests/loop tests/auto

test-fast-1: setup
	$(PYTEST) -m "not ray $(SLOW)" $(HALF)

test-fast-2: setup
	$(PYTEST) -m "not ray $(SLOW)" $(HALF:%=--ignore=%) tests

# The fast tests on another Python, in an environment of its own (.venv-python3.13). From 3.13 on it has no alibi-detect,
# and the newest of everything: `make test-python PYTHON=python3.13`.
PYTHON ?= python3.13
test-python:
	SS4REC_PYTHON=$(PYTHON) $(MAKE) VENV=.venv-$(notdir $(PYTHON)) setup
	$(MAKE) -j2 VENV=.venv-$(notdir $(PYTHON)) SLOW="and not slow" test-fast

# Files that leave the cluster as they found it share one (`small_cluster` of tests/conftest.py) in one process. Each other
# file with Ray tests gets a process of its own: in one that has left a Ray cluster, Ray Data cancels its actors on the
# next. They run side by side, the longest first. RAY_ALONE looks for every Ray of this machine: with ALONE, all others
# wait for its end; tests without Ray do not.
RAY_SHARED = $(shell grep -rl small_cluster tests --include='test_*.py')
RAY_ALONE = tests/cluster/test_joining.py
RAY_LONG = tests/cluster/test_nodes.py tests/tuning/test_sweep_ray.py tests/faults/test_ray_faults.py \
	tests/tuning/test_sweep_killed.py tests/faults/test_driver_killed.py tests/test_end_to_end.py
RAY_OTHER = $(filter-out $(RAY_SHARED) $(RAY_ALONE) $(RAY_LONG),$(shell grep -rl "mark.ray" tests --include='test_*.py'))
RAY_FILES = $(RAY_ALONE:%=ray/%) $(RAY_LONG:%=ray/%) ray-shared $(RAY_OTHER:%=ray/%)

# With TWICE=1 a file that fails is run once more, which it says: on a shared machine a head may not start in time.
RAY_PYTEST = $(PYTEST) -m ray $(1) $(if $(TWICE),|| { echo "once more: $(1)"; $(PYTEST) -m ray $(1); })

.PHONY: ray-shared test-ray

ray-shared: setup | $(ALONE)
	$(call RAY_PYTEST,$(RAY_SHARED))

$(RAY_ALONE:%=ray/%): setup
	$(call RAY_PYTEST,$(@:ray/%=%))

ray/%: setup | $(ALONE)
	$(call RAY_PYTEST,$*)

test-ray: setup
	$(MAKE) -j$(JOBS) ALONE=$(RAY_ALONE:%=ray/%) $(RAY_FILES)

# Triton's kernels in its interpreter, on a CPU, and compiled for cards that are not there; the version is that of the
# GPU image's torch. It stays out of the environment: with it torch.compile would look for a GPU.
test-kernels: kernels-interpreted kernels-compiled

triton: setup
	test -d $(VENV)/triton/triton || $(BIN)/pip install -q --target $(VENV)/triton triton==3.6.0

kernels-interpreted: triton
	TRITON_INTERPRET=1 PYTHONPATH=$(VENV)/triton $(BIN)/python -m pytest -q tests/kernels -k triton

kernels-compiled: triton
	PYTHONPATH=$(VENV)/triton $(BIN)/python -m pytest -q tests/kernels/test_cards.py

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict ss4rec ray_jobs cluster drift tuning
	$(BIN)/bandit -q -c pyproject.toml -r ss4rec ray_jobs cluster drift tuning
	$(BIN)/python tools/imports.py
	$(BIN)/python -m tools.twice
	$(BIN)/python -m tools.plain_english
	$(BIN)/python -m tools.guard_texts
	$(BIN)/python tools/audit.py

# Known vulnerabilities of the locked packages; asks PyPI about each of them.
audit: setup
	$(BIN)/python tools/audit.py --advisories

# The site, in build/site. Warnings are errors: links, anchors and pictures are checked. `make check` looks at the user
# guide and the README for long sentences and lines.
docs: setup
	$(BIN)/python -c "import material, mkdocstrings" 2>/dev/null || $(BIN)/pip install -q -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

bench: setup
	$(BIN)/python -m benchmarks.cpu_scan
	$(BIN)/python -m benchmarks.loader

setup: $(VENV)/.ss4rec-installed

$(VENV)/.ss4rec-installed: pyproject.toml constraints.txt tools/install.sh
	SS4REC_VENV=$(VENV) bash tools/install.sh

clean:
	rm -rf build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
