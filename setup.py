"""Build the compiled part of pympipool. Everything else is declared in pyproject.toml.

    csrc/**/*.c           -> libpmp.a     the data plane, compiled with -Wall -Wextra
    pympipool/*/*.pyx -> *.c -> *.so  one extension module for each .pyx, linked with libpmp.a

Each extension module has its own copy of the C code. That does no harm, because csrc/ keeps its state in structures
that its callers pass. A shared library would have to be found at run time.

Environment:
    PYMPIPOOL_PORTABLE_WAIT=1   waits without futexes, as on systems that have none
"""

import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from setuptools import Extension, setup
from setuptools.command.build_clib import build_clib
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError, ExecError

PORTABLE_WAIT = os.environ.get("PYMPIPOOL_PORTABLE_WAIT", "0") not in ("", "0")
MACROS = [("PMP_PORTABLE_WAIT", "1")] if PORTABLE_WAIT else []

IS_WINDOWS = sys.platform == "win32"

# Hidden symbols: the copies of libpmp in one process must not bind to each other.
C_FLAGS = ["-std=gnu11", "-O2", "-fvisibility=hidden", "-pthread"]
WARNINGS = ["-Wall", "-Wextra"]
# Warnings about code that Cython generates cannot be mended here.
GENERATED_CODE = ["-Wno-unused-function"]
# shm_open is in librt before glibc 2.34. In later versions librt is empty.
LINK_FLAGS = (
    ["-lws2_32", "-lbcrypt", "-ladvapi32"]
    if IS_WINDOWS
    else ["-pthread", *(["-lrt"] if sys.platform == "linux" else [])]
)

C_SOURCES = sorted(
    str(path) for path in Path("csrc").glob("**/*.c") if IS_WINDOWS or not path.name.startswith("windows")
)
C_HEADERS = sorted(str(path) for path in Path("csrc").glob("*.h"))
CYTHON_SOURCES = sorted(str(path) for path in Path("pympipool").glob("*/*.pyx"))
CYTHON_HEADERS = sorted(str(path) for path in Path("pympipool/_core").glob("*.pxd"))

HOW_TO_INSTALL_WITHOUT = """

pympipool {version} has to be compiled here, because pip has no wheel of it for {python} on {platform} (or was given
the source). {problem}
Do one of the following, and run the installation again:
  - install a C compiler and the header files of Python:
        apt-get install gcc python3-dev
        dnf install gcc python3-devel
        conda install -c conda-forge c-compiler
        xcode-select --install
  - let pip look for a wheel again: `pip install --upgrade pip` (an old one does not know all platforms), or use
    another Python. `pip download --no-deps --only-binary :all: pympipool` tells whether there is a wheel for it.
  - run `make wheels` in the source on a machine of this kind that has a compiler, and install the wheel from
    dist/ here: `pip install dist/pympipool-{version}-{python}-*.whl`
"""


def missing_for_compilation(command: build_clib | build_ext) -> str | None:
    """Return what this machine lacks for a compilation, or None if it has everything and the code must be at fault."""
    program = command.compiler.compiler_so[0]
    if shutil.which(program) is None:
        return f"The compiler {program!r} was not found."
    folders = command.compiler.include_dirs
    if isinstance(command, build_ext) and not any(Path(folder, "Python.h").exists() for folder in folders):
        return f"None of these folders has a Python.h: {folders}."
    return None


@contextmanager
def explained_failure(command: build_clib | build_ext) -> Iterator[None]:
    """Replace the error of a failed compilation by advice if the machine lacks a compiler or headers."""
    try:
        yield
    except (CCompilerError, ExecError):
        problem = missing_for_compilation(command)
        if problem is None:
            raise
        wheel = {"python": f"cp{sys.version_info[0]}{sys.version_info[1]}", "platform": sysconfig.get_platform()}
        version = command.distribution.get_version()
        raise BaseError(HOW_TO_INSTALL_WITHOUT.format(version=version, problem=problem, **wheel)) from None


class BuildDataPlane(build_clib):
    def build_libraries(self, libraries):
        # An archive keeps the object of a source that has been removed or renamed since it was made.
        Path(self.build_clib, "libpmp.a").unlink(missing_ok=True)
        with explained_failure(self):
            super().build_libraries(libraries)


class BuildModules(build_ext):
    def run(self):
        # The command "build" runs build_clib first, but "build_ext --inplace" alone does not.
        self.run_command("build_clib")
        super().run()

    def build_extensions(self):
        """Compile the modules in forked processes, side by side: half of the time is Cython's, which holds the GIL."""
        self.check_extensions_list(self.extensions)
        self._check_headers()
        count = (os.cpu_count() or 1) if hasattr(os, "fork") else 1
        processes = [self._compile_in_fork(self.extensions[number::count]) for number in range(count) if count > 1]
        for process in processes:
            os.waitpid(process, 0)
        super().build_extensions()  # what no process could compile; the error is raised here

    def _check_headers(self):
        """Compile one line, so that a machine without Python's headers gets one message, before Cython's minute."""
        with explained_failure(self), TemporaryDirectory() as folder:
            source = Path(folder, "headers.c")
            source.write_text("#include <Python.h>\n")
            self.compiler.compile([str(source)], output_dir=folder)

    def _compile_in_fork(self, extensions):
        process = os.fork()
        if process == 0:
            try:
                for extension in extensions:
                    self.build_extension(extension)
            finally:
                os._exit(0)
        return process


def cython_module(source: str) -> Extension:
    extension = Extension(
        ".".join(Path(source).with_suffix("").parts),
        sources=[source],
        depends=[*CYTHON_HEADERS, *C_SOURCES, *C_HEADERS],
        include_dirs=["csrc"],
        define_macros=MACROS,
        extra_compile_args=[*C_FLAGS, *GENERATED_CODE],
        extra_link_args=LINK_FLAGS,
    )
    extension.cython_c_in_temp = True
    extension.cython_directives = {"language_level": "3", "binding": True, "freethreading_compatible": True}
    return extension


setup(
    libraries=[
        (
            "pmp",
            {
                "sources": C_SOURCES,
                "obj_deps": {"": C_HEADERS},
                "include_dirs": ["csrc"],
                "macros": MACROS,
                "cflags": [*C_FLAGS, *WARNINGS],
            },
        )
    ],
    ext_modules=[cython_module(source) for source in CYTHON_SOURCES],
    cmdclass={"build_clib": BuildDataPlane, "build_ext": BuildModules},
    # Object files with and without PMP_PORTABLE_WAIT must not be mixed.
    options={"build": {"build_base": "build/portable-wait" if PORTABLE_WAIT else "build"}},
)
