"""The modules that a worker imports, and the script: each costs time until the first result, and memory in every worker."""

from __future__ import annotations

import errno
import subprocess
import sys

import pytest

MODULES = "' '.join(sorted(__import__('sys').modules))"

HEAVY = (
    "array asyncio cloudpickle concurrent.futures contextlib dataclasses dis enum hashlib inspect linecache logging mpi4py "
    "multiprocessing numpy pathlib pickle platform queue random re selectors shutil signal socket ssl string subprocess "
    "tempfile textwrap threading tokenize traceback typing uuid weakref pympipool._core.dispatcher "
    "pympipool.serialization.by_value pympipool.errors pympipool.executor pympipool.transport.tcp.stream pympipool.worker.mpi"
)
"""Modules that one import in the wrong place would bring along."""


OF_MPI = {"contextlib", "enum", "re", "pympipool.worker.mpi"}
"""What mpi4py imports when MPI is initialised, and the module that needs mpi4py."""


def modules_of_bare_python(first="pass"):
    """Return the modules that Python and the site of this environment import: a worker cannot avoid these.

    Args:
        first: A statement that runs before.
    """
    code = f"{first}\nprint({MODULES})"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return set(said.stdout.split())


def modules_of(master):
    master.send(eval, MODULES)
    return set(master.result().split())


def test_a_worker_imports_little_before_its_first_call(start):
    imported = modules_of(start().ready()) - modules_of_bare_python()
    assert "pympipool.worker.serial" in imported
    assert imported.intersection(HEAVY.split()) == set()


def test_an_mpi_worker_imports_little_besides_mpi4py(start_mpi):
    master = start_mpi().ready()
    master.send(eval, MODULES)
    of_mpi = modules_of_bare_python("import mpi4py; mpi4py.rc.initialize = False; import mpi4py.MPI")
    for modules in master.result():
        imported = set(modules.split()) - of_mpi
        assert "mpi4py.MPI" in modules.split()
        assert imported.intersection(HEAVY.split()) <= OF_MPI


@pytest.mark.parametrize(
    "code",
    [
        "1 + 1",
        "[{'a': (1, 2.0)}, b'x' * 100_000]",
        "[list(range(1000)), b'x' * 1_000_000]",
        "int('one')",
        "{}['a']",
        "open('/nowhere')",
    ],
)
def test_builtin_results_and_exceptions_need_no_cloudpickle(start, code):
    master = start().ready()
    master.send(eval, code)
    try:
        expected = eval(code)
    except Exception as error:
        answer = master.receive()[3]
        assert (type(answer), str(answer)) == (type(error), str(error))
    else:
        assert master.result() == expected
    assert "cloudpickle" not in modules_of(master) - modules_of_bare_python()


def test_worker_without_free_descriptors_still_answers(start):
    """Without a free descriptor no module can be imported."""
    master = start().ready()
    master.send(eval, "__import__('resource').setrlimit(__import__('resource').RLIMIT_NOFILE, (64, 64))")
    assert master.result() is None
    master.send(eval, "[__import__('os').dup(0) for _ in range(100)]")
    kind, _, _, error = master.receive()
    assert (kind, type(error), error.errno) == ("error", OSError, errno.EMFILE)
    assert "Too many open files" in str(error.__cause__) or "cannot be shown" in str(error.__cause__)
    master.send(eval, "1 + 1")
    assert master.result() == 2
    assert master.end() == 0


def test_first_result_needs_few_modules():
    code = (
        "from pympipool import Executor\n"
        "from pympipool.pool import base\n"
        "base.IMPORT_DELAY_S = 60\n"  # what failures need is imported later, which a busy machine may reach
        "with Executor(max_workers=1, block_allocation=True, backend='mpi') as exe: exe.submit(sum, [1]).result()\n"
        f"print({MODULES})"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    imported = set(said.stdout.split()) - modules_of_bare_python()
    assert "pympipool.pool.block_pool" in imported
    others = (
        "pickletools random secrets tempfile pympipool.backends.slurm.job_watch pympipool.diagnostics.graph"
        " pympipool.execution.derived_futures pympipool.pool.serial_engine"
    )
    assert imported.intersection(others.split()) == set()
