"""Why backend "flux" cannot be used: tests without flux. Those with a real flux are in tests/flux_framework."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pympipool
from pympipool import Executor
from pympipool.backends.flux.availability import unavailable_reason
from pympipool.errors import WorkerStartError
from pympipool.flux import PyFluxExecutor

SOURCE = str(Path(pympipool.__file__).parents[1])


def test_missing_bindings_error_tells_where_to_get_them(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert "conda-forge flux-core" in unavailable_reason()
    for make in (lambda: Executor(max_cores=1, backend="flux"), PyFluxExecutor):
        with pytest.raises(
            WorkerStartError, match=r"backend 'flux' cannot be used: flux's Python bindings are not inst"
        ):
            make()


BROKEN_BINDINGS = [
    ("import ply_that_nobody_has", "need the module 'ply_that_nobody_has'.*pip install ply_that_nobody_has"),
    ("raise ImportError('libflux-core.so.2: cannot open')", "not the flux-core that they belong to .libflux-core.so.2"),
    ("import flux.no_such_thing", "is not that of flux-core"),
]


@pytest.mark.parametrize(("line", "message"), BROKEN_BINDINGS)
def test_broken_bindings_are_explained(tmp_path, line, message):
    package = tmp_path / "flux"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "job.py").write_text(line)
    source = f"import sys; sys.path[:0] = {[str(tmp_path), SOURCE]!r}\n"
    source += "from pympipool.backends.flux.availability import unavailable_reason\n"
    answer = run(source + "print(unavailable_reason())")
    assert re.search(message, answer), answer


def test_importing_pympipool_imports_no_flux(tmp_path):
    (tmp_path / "flux.py").write_text("raise AssertionError('imported')")
    source = f"import sys; sys.path[:0] = {[str(tmp_path), SOURCE]!r}\n"
    source += "import pympipool, pympipool.flux, pympipool.backends.registry, pympipool.backends.flux.spawner\n"
    source += "exe = pympipool.Executor(max_cores=1, backend='mpi')\n"
    source += "print(exe.submit(sum, [1, 1]).result(), 'flux' in sys.modules)\nexe.shutdown()"
    assert run(source) == "2 False\n"


def run(source):
    command = [sys.executable, "-c", source]
    return subprocess.run(command, capture_output=True, text=True, timeout=50, check=True).stdout
