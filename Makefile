# One command for each thing one wants to do with a fresh clone.
#
#   make demo    real work on all cores, then on two MPI ranks
#   make test    the whole test suite
#   make test-slurm   whatever needs SLURM, with a SLURM that it installs and starts; as root, on Debian or Ubuntu
#   make lint    style, types, and C warnings as errors
#   make bench   the benchmarks, with their peers beside them
#   make docs    the site, into docs/_build/html
#   make clean   removes what these made
#
# Everything is installed into .venv; nothing needs root. PYTHON chooses the interpreter,
# VENV the folder, PYTEST_ARGS what pytest is told besides.

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=

C_FILES := $(wildcard csrc/*.c csrc/*.h tests/csrc/*.c tests/csrc/*.h)
# Python files are used where they lie: only changes of these need a new installation.
COMPILED := setup.py pyproject.toml \
	$(wildcard csrc/*.c csrc/*.h pympipool/*.pyx pympipool/*.pxd)

BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable

.PHONY: demo test lint bench docs pictures install clean test-slurm

demo: $(VENV)/.installed-demo
	$(BIN)/python examples/quickstart.py

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-slurm: $(VENV)/.installed-dev
	PYMPIPOOL_TEST_SLURM=all $(BIN)/python -m pytest tests/slurm $(PYTEST_ARGS)

bench: $(VENV)/.installed-dev
	$(BIN)/python -m pytest benchmarks $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	PATH="$(abspath $(BIN)):$$PATH" cython-lint pympipool  # it calls pycodestyle by name
	$(BIN)/clang-format --dry-run -Werror $(C_FILES)
	for source in csrc/*.c; do for wait in "" -DPMP_PORTABLE_WAIT; do \
		$${CC:-cc} -std=gnu11 -O2 -Wall -Wextra -Werror $$wait -c $$source -o /dev/null || exit 1; \
	done; done

# The notebooks run while the site is built; what they and autodoc use is this source.
docs: $(VENV)/.installed-docs
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m sphinx -W --keep-going --quiet docs docs/_build/html
	@echo "Built docs/_build/html/index.html"

pictures:
	$(PYTHON) docs/pictures/draw.py

install: $(VENV)/.installed-dev

$(VENV)/.installed-dev: $(COMPILED) | $(BIN)/python
	@echo "Compiling and installing into $(VENV), with everything for development ..."
	@$(INSTALL) ".[dev]"
	@touch $(VENV)/.installed-demo $@

$(VENV)/.installed-docs: $(COMPILED) | $(BIN)/python
	@echo "Compiling and installing into $(VENV), with what builds the site ..."
	@$(INSTALL) ".[docs]"
	@touch $@

$(VENV)/.installed-demo: $(COMPILED) | $(BIN)/python
	@echo "Compiling and installing into $(VENV) ..."
	@$(INSTALL) ".[demo]"
	@touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) build docs/_build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .benchmarks
	rm -f pympipool/*.so pympipool/*.c
	find . -name __pycache__ -prune -exec rm -rf {} +
	if [ -f tests/csrc/Makefile ]; then $(MAKE) -C tests/csrc clean; fi
