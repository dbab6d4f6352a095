"""Try everything that a release needs, and publish nothing.

    version    one place has it; CHANGES.md has its heading
    files      workflows, issue forms, the citation file and their like follow their schemas
    wheels     the source distribution, and a wheel for each Python at hand, tried without a compiler (tools/wheels.py)
    metadata   PyPI would show the page of each of them
    tests      the tests that need neither a repository nor MPI pass in the unpacked source distribution
    docs       the site is built without a warning, and its relative links lead somewhere

Links to other sites are not followed.
"""

import argparse
import os
import re
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Callable

import wheels

ROOT = wheels.ROOT
UNPACKED = ROOT / "build" / "sdist"
TESTS = "project execution serialization transport resources util caching test_errors.py test_typing.py"
"""Those that can run without a repository and in a minute."""


def version() -> str:
    """Return the version from the one place where it is written."""
    found = re.search(r'^__version__ = "(.+)"$', (ROOT / "pympipool" / "__init__.py").read_text(), re.MULTILINE)
    assert found, "pympipool/__init__.py has no __version__"
    return found[1]


def check_version(tag: str | None) -> None:
    """Check that CHANGES.md has this version, and that a tag names it.

    Args:
        tag: the tag of the release, such as "v1.0.0"; without one, the version may still be in development.
    """
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGES.md").read_text(), re.MULTILINE)
    number = re.escape(version())
    is_ready = re.fullmatch(rf"{number} - \d{{4}}-\d\d-\d\d", headings[0]) is not None
    if tag is not None and tag != f"v{version()}":
        sys.exit(f"The tag is {tag!r}, but __version__ in pympipool/__init__.py makes it 'v{version()}'.")
    if tag is not None and not is_ready:
        sys.exit(f"CHANGES.md begins with {headings[0]!r}. A release needs '## {version()} - YYYY-MM-DD' there.")
    if not is_ready and not (headings[0] == "Unreleased" and ".dev" in version()):
        sys.exit(
            f"The version is {version()}, and CHANGES.md begins with {headings[0]!r}. It must begin with "
            f"'## {version()} - YYYY-MM-DD', or with '## Unreleased' while the version ends in '.dev' and a number."
        )


def check_files(_: str | None) -> None:
    """Check the files for other programs, by their tests."""
    wheels.run(sys.executable, "-m", "pytest", "-q", "tests/project", cwd=ROOT)


def check_wheels(_: str | None) -> None:
    """Build and try everything that would be uploaded from this machine."""
    wheels.run(sys.executable, ROOT / "tools" / "wheels.py")


def check_metadata(_: str | None) -> None:
    """Check that PyPI could show what was built."""
    wheels.run(sys.executable, "-m", "twine", "check", "--strict", *wheels.DIST.glob("pympipool-*"))


def check_tests(_: str | None) -> None:
    """Run tests in the unpacked source distribution, with the compiled modules of the wheel for this Python."""
    shutil.rmtree(UNPACKED, ignore_errors=True)
    with tarfile.open(next(wheels.DIST.glob("*.tar.gz"))) as sdist:
        sdist.extractall(UNPACKED, filter="data")
    folder = next(UNPACKED.iterdir())
    tag = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    with zipfile.ZipFile(next(wheels.DIST.glob(f"*-{tag}-{tag}-*.whl"))) as wheel:
        wheel.extractall(folder, [name for name in wheel.namelist() if name.endswith(".so")])
    paths = [f"tests/{name}" for name in TESTS.split()]
    quick = ["-m", "not (slow or alone or mpi)", "-k", "not tcp"]
    wheels.run(
        *[sys.executable, "-m", "pytest", "-q", "-n", "2", *quick, *paths],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
    )


def check_docs(_: str | None) -> None:
    """Build the site."""
    wheels.run("make", "docs", f"VENV={sys.prefix}", cwd=ROOT)
    wheels.run(sys.executable, "-m", "pytest", "-q", "tests/pages/test_pages.py", cwd=ROOT)


CHECKS: dict[str, Callable[[str | None], None]] = {
    "version": check_version,
    "files": check_files,
    "wheels": check_wheels,
    "metadata": check_metadata,
    "tests": check_tests,
    "docs": check_docs,
}


def note_what_is_open() -> None:
    """Print what a person has to fill in before the first release."""
    if not re.search(r"^\[project\.urls\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE):
        print("Still open: the address of the project, in pyproject.toml under [project.urls].")
    not_run = "NOT YET RUN"
    marked = [path.name for path in (ROOT / ".github" / "workflows").iterdir() if not_run in path.read_text()]
    if marked:
        print(f"Still open: no public host has run {', '.join(sorted(marked))}; each has a line {not_run!r}.")


def main() -> None:
    """Run the checks, and end with the first that fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=CHECKS, help="run one check")
    parser.add_argument("--tag", help="the tag of a release; without it, a version in development passes, too")
    options = parser.parse_args()
    for name in [options.only] if options.only else CHECKS:
        print(f"--- {name}", flush=True)
        CHECKS[name](options.tag)
    print(f"{options.only or 'Everything'} is ready for version {version()}.")
    note_what_is_open()


if __name__ == "__main__":
    main()
