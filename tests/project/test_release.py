"""A release has one version, and its tools refuse what is not ready."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pympipool

ROOT = Path(__file__).parents[2]


def release_check(root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / "tools" / "release_check.py"), "--only", "version", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def project(tmp_path):
    """Return a folder with what `--only version` reads, for version 1.2.0 with a heading in CHANGES.md."""
    for name in ("tools", "pympipool"):
        (tmp_path / name).mkdir()
    for tool in (ROOT / "tools").glob("*.py"):
        (tmp_path / "tools" / tool.name).write_text(tool.read_text())
    (tmp_path / ".github" / "workflows").mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text("[project.urls]\n")
    (tmp_path / "pympipool" / "__init__.py").write_text('__version__ = "1.2.0"\n')
    (tmp_path / "CHANGES.md").write_text("# Changes\n\n## 1.2.0 - 2031-05-06\n")
    return tmp_path


def test_this_version_agrees_with_the_changes():
    done = release_check(ROOT)
    assert done.returncode == 0, done.stderr
    assert pympipool.__version__ in done.stdout


def test_version_is_written_in_one_place():
    for name in ("pyproject.toml", "CITATION.cff", "conda/meta.yaml", "docs/conf.py", "setup.py"):
        assert not re.search(r"^\s*version\s*[:=]\s*[\"']?\d", (ROOT / name).read_text(), re.MULTILINE), name
    pattern = re.search(r"regex_pattern='(.+?)'", (ROOT / "conda" / "meta.yaml").read_text())[1]
    found = re.search(pattern, (ROOT / "pympipool" / "__init__.py").read_text())
    assert found[1] == pympipool.__version__


def test_a_release_with_its_tag_passes(project):
    assert release_check(project, "--tag", "v1.2.0").returncode == 0


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("pympipool/__init__.py", '__version__ = "1.3.0"\n', "The tag is 'v1.2.0', but"),
        ("CHANGES.md", "# Changes\n\n## Unreleased\n", "CHANGES.md begins with 'Unreleased'. A release needs"),
        ("CHANGES.md", "# Changes\n\n## 1.2.0\n", "A release needs '## 1.2.0 - YYYY-MM-DD'"),
    ],
)
def test_what_is_not_ready_is_refused(project, file, content, message):
    (project / file).write_text(content)
    done = release_check(project, "--tag", "v1.2.0")
    assert done.returncode == 1
    assert message in done.stderr


def test_unreleased_changes_need_a_development_version(project):
    (project / "CHANGES.md").write_text("# Changes\n\n## Unreleased\n")
    done = release_check(project)
    assert done.returncode == 1
    assert "while the version ends in '.dev'" in done.stderr


def test_install_without_compiler_names_the_wheel(tmp_path):
    pytest.importorskip("setuptools", minversion="77", reason="it is missing or old: pip install 'setuptools>=77'")
    command = [sys.executable, "setup.py", "-q", "build_clib", "--build-temp", str(tmp_path)]
    environment = os.environ | {"PATH": str(tmp_path), "CC": "pympipool-has-no-such-compiler"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1
    python = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    assert f"no wheel of it for {python} on " in done.stderr
    assert "'pympipool-has-no-such-compiler' was not found" in done.stderr
    assert done.stderr.count("Do one of the following") == 1
