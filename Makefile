# One command for each task in a fresh clone.
#
#   make demo          run real work on all cores, then on two MPI ranks
#   make test          run the whole test suite, in six processes
#   make test-fast     run the fastest and most telling tests of each room: under two minutes on two cores
#   make test-long     run the chaos test for 15 minutes: random kills, stops, interrupts and shortages
#   make coverage      measure which lines of Python make test-fast runs, into build/coverage/html
#   make test-pythons  run a part of the suite in each supported version of Python that can be had here
#   make test-mpis     run the tests that use MPI with Open MPI and Intel MPI
#   make test-windows  run tests for Windows under Wine, which it gets as a chroot; as root, on Debian
#   make test-races    look for data races in the compiled modules, with ThreadSanitizer
#   make test-slurm    run the tests that need SLURM, with a SLURM that it installs and starts; as root, on Debian or Ubuntu
#   make test-hosts    run the tests with hosts that are reached by ssh, mpiexec and Grid Engine, which it makes; as root, on Debian
#   make lint          check style, types, the floors of the source, and C warnings
#   make docs          build the site, into docs/_build/html
#   make pictures      draw the pictures of the pages again, among them the rooms of the source
#   make wheels        build the source distribution and a wheel for each Python at hand, and try each without a compiler
#   make release-check try all that a release needs, and publish nothing
#   make clean         remove everything that these commands made in this folder
#   make clean-cache   remove what test-pythons, test-mpis, test-races and test-windows keep in CACHE: interpreters, MPI libraries, environments
#
#   make bench         measure with all peers, into docs/benchmarks.md: some 20 minutes
#   make bench-quick   measure the most important cases, into build/benchmarks.md: under 3 minutes
#   make bench-guard   check that the speed has not dropped
#
# Everything is installed into .venv; nothing needs root. PYTHON chooses the interpreter, and VENV the folder.
# PYTEST_ARGS are further options of pytest (PYTEST_ARGS="-n 0" runs the tests in one process), BENCH_ARGS those of the
# benchmarks (make bench BENCH_ARGS=--continue resumes an interrupted run; --help shows more).

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/pympipool-tests
# Besides that of .venv; the first are tested if the time does not suffice for all.
PYTHON_VERSIONS ?= 3.14 3.15 3.10 3.12 3.13
MPI_LIBRARIES ?= openmpi intelmpi debian-openmpi debian-mpich
# The most telling first.
FAST_TESTS := tests/executor tests/execution tests/serialization tests/core tests/transport tests/worker tests/backends \
	tests/resources tests/reliability/test_worker_dies.py tests/diagnostics tests/util tests/cli/test_program.py \
	tests/system/test_quickstart.py tests/pages/test_pages.py tests/test_errors.py tests/test_structure.py
FAST := -n 2 --no-loadscope-reorder -m "not (slow or alone or mpi)" -k "not process_per_call and not tcp" $(FAST_TESTS)
BENCH_ARGS ?=

C_FILES := $(wildcard csrc/*.c csrc/*.h csrc/platform/*.c tests/csrc/*.c tests/csrc/*.h)
# Python files are used where they lie: only changes of these need a new installation.
COMPILED := setup.py pyproject.toml \
	$(wildcard csrc/*.c csrc/*.h csrc/platform/*.c pympipool/*/*.pyx pympipool/_core/*.pxd)

BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable

.PHONY: demo test test-fast test-long coverage lint bench docs pictures install install-all clean test-slurm test-hosts bench-quick bench-guard \
	wheels release-check \
	clean-cache test-pythons test-mpis test-races test-windows

demo: $(VENV)/.installed-demo
	$(BIN)/python examples/quickstart.py
	@echo "This was examples/quickstart.py. Your own scripts, outside of this folder: $(abspath $(BIN))/python script.py"

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 6 $(PYTEST_ARGS)

test-long: $(VENV)/.installed-dev
	CHAOS_SECONDS=450 $(BIN)/python -m pytest tests/reliability/test_chaos.py -rA $(PYTEST_ARGS)

test-fast: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(FAST) $(PYTEST_ARGS)

# Of Python, in workers too if they end by themselves. Cython's line tracing ends in deadlocks: a traced line may wait for the
# interpreter lock, while the thread that has it waits for the dispatcher's lock.
coverage: $(VENV)/.installed-dev
	rm -rf build/coverage && mkdir -p build/coverage
	export COVERAGE_FILE="$(abspath build/coverage/data)" \
		&& { $(BIN)/python -m coverage run -m pytest $(FAST) $(PYTEST_ARGS) || true; } \
		&& $(BIN)/python -m coverage combine --quiet && $(BIN)/python -m coverage html --quiet -d build/coverage/html \
		&& $(BIN)/python -m coverage report

test-slurm: $(VENV)/.installed-dev
	PYMPIPOOL_TEST_SLURM=all $(BIN)/python -m pytest -m slurm tests/slurm tests/executor tests/diagnostics $(PYTEST_ARGS)

test-hosts: $(VENV)/.installed-dev
	PYMPIPOOL_TEST_HOSTS=all $(BIN)/python -m pytest tests/hosts $(PYTEST_ARGS)

test-pythons: $(VENV)/.installed-dev
	.ci/test-pythons "$(CACHE)" $(PYTHON_VERSIONS)

test-mpis: $(VENV)/.installed-dev
	.ci/test-mpis "$(CACHE)" $(MPI_LIBRARIES)

test-windows: $(VENV)/.installed-release
	.ci/test-windows "$(CACHE)"

test-races: $(VENV)/.installed-dev
	.ci/test-races "$(CACHE)/races" $(RACES_PYTHON)

bench: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

bench-quick: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks --quick $(BENCH_ARGS)

bench-guard: $(VENV)/.installed-dev
	$(BIN)/python -m pytest benchmarks/test_guard.py benchmarks/test_suite.py $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	PATH="$(abspath $(BIN)):$$PATH" cython-lint pympipool  # it calls pycodestyle by name
	$(BIN)/lint-imports
	$(BIN)/clang-format --dry-run -Werror $(C_FILES)
	for source in csrc/*.c csrc/platform/*.c; do for wait in "" -DPMP_PORTABLE_WAIT; do \
		$${CC:-cc} -std=gnu11 -O2 -Wall -Wextra -Werror $$wait -c $$source -o /dev/null || exit 1; \
	done; done

# The notebooks run while the site is built; what they and autodoc use is this source.
docs: $(VENV)/.installed-docs
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m sphinx -W --keep-going --quiet docs docs/_build/html
	@echo "Built docs/_build/html/index.html"

pictures: $(VENV)/.installed-dev
	$(BIN)/python docs/pictures/draw.py
	$(BIN)/python docs/pictures/fields.py

install: $(VENV)/.installed-dev

# PYTHONS chooses some: make wheels PYTHONS="python3.12 python3.14".
wheels: $(VENV)/.installed-release
	$(BIN)/python tools/wheels.py $(PYTHONS)

release-check: $(VENV)/.installed-release
	$(BIN)/python tools/release_check.py

# Compiles once for all of `make docs`, `make wheels` and the commands of developers.
install-all: $(VENV)/.installed-release

$(VENV)/.installed-dev: $(COMPILED) | $(BIN)/python
	@echo "Compiling and installing into $(VENV), with everything for development ..."
	@$(INSTALL) ".[dev]"
	@touch $(VENV)/.installed-demo $@

$(VENV)/.installed-docs: $(COMPILED) | $(BIN)/python
	@echo "Compiling and installing into $(VENV), with what builds the site ..."
	@$(INSTALL) ".[docs]"
	@touch $@

$(VENV)/.installed-release: $(COMPILED) | $(BIN)/python
	@echo "Compiling and installing into $(VENV), with everything for development, the site and releases ..."
	@$(INSTALL) ".[release]"
	@touch $(VENV)/.installed-demo $(VENV)/.installed-dev $(VENV)/.installed-docs $@

$(VENV)/.installed-bench: $(COMPILED) | $(BIN)/python
	@echo "Compiling and installing into $(VENV), with the executors to compare with ..."
	@$(INSTALL) ".[demo,bench]"
	@touch $(VENV)/.installed-demo $@

$(VENV)/.installed-demo: $(COMPILED) | $(BIN)/python
	@echo "Compiling and installing into $(VENV), a minute or two ..."
	@$(INSTALL) ".[demo]"
	@touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) build dist docs/_build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .benchmarks
	rm -f pympipool/*/*.so pympipool/*/*.c
	find . -name __pycache__ -prune -exec rm -rf {} +
	if [ -f tests/csrc/Makefile ]; then $(MAKE) -C tests/csrc clean; fi

clean-cache:
	rm -rf "$(CACHE)"
