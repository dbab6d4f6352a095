"""The files that other programs read have the form that these want, and promise no more than they keep."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))

SCHEMAS = {
    "vendor.github-workflows": WORKFLOWS,
    "vendor.github-issue-forms": [ROOT / ".github" / "ISSUE_TEMPLATE" / name for name in ("bug.yml", "idea.yml")],
    "vendor.github-issue-config": [ROOT / ".github" / "ISSUE_TEMPLATE" / "config.yml"],
    "vendor.readthedocs": [ROOT / ".readthedocs.yaml"],
    "vendor.citation-file-format": [ROOT / "CITATION.cff"],
}
CHECK = Path(sys.executable).with_name("check-jsonschema")


@pytest.mark.skipif(not CHECK.exists(), reason="check-jsonschema is not installed: pip install check-jsonschema")
@pytest.mark.parametrize("schema", SCHEMAS)
def test_files_follow_their_schemas(schema):
    assert SCHEMAS[schema]
    done = subprocess.run(
        [CHECK, "--builtin-schema", schema, *SCHEMAS[schema]], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_are_pinned_and_have_few_rights(workflow):
    text = workflow.read_text()
    used = re.findall(r"uses: (\S+)(.*)", text)
    assert all(
        name.startswith("./.github/") or (re.search(r"@[0-9a-f]{40}$", name) and re.fullmatch(r" # v[\d.]+", version))
        for name, version in used
    ), used
    assert "\npermissions:\n  contents: read\n" in text
    assert set(re.findall(r"(\S+): write", text)) <= ({"id-token"} if workflow.name == "release.yml" else set())
    jobs = text.partition("\njobs:\n")[2]
    assert jobs.count("runs-on: ") == jobs.count("timeout-minutes: ")
    assert text.count("actions/checkout@") == text.count("persist-credentials: false")


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_call_what_exists(workflow):
    text = workflow.read_text()
    rules = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z][\w-]+)", text)) <= rules
    for path in re.findall(r"(?:\./)?((?:\.github|\.ci|tools)/[\w./-]+\w)", text):
        assert (ROOT / path).exists(), path


def test_workflows_cover_each_python():
    pythons = re.findall(r"Programming Language :: Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text())
    tests = (ROOT / ".github" / "workflows" / "tests.yml").read_text()
    missing = [python for python in pythons if f'"{python}"' not in tests]
    assert pythons
    assert not missing, missing


def test_wheels_cover_each_python():
    project = (ROOT / "pyproject.toml").read_text()
    pythons = re.findall(r"Programming Language :: Python :: (3\.\d+)", project)
    missing = [python for python in pythons if f'"cp{python.replace(".", "")}-*"' not in project]
    assert not missing, missing


def test_conda_recipe_has_the_dependencies():
    recipe = (ROOT / "conda" / "meta.yaml").read_text().lower()
    project = (ROOT / "pyproject.toml").read_text()
    wanted = re.findall(r"^(?:requires|dependencies) = \[(.+)\]", project, re.MULTILINE)
    assert len(wanted) == 2
    for dependency in re.findall(r'"([^"]+)"', ", ".join(wanted)):
        name, _, least = dependency.lower().partition(">=")
        assert re.search(rf"- {name}{f' >={re.escape(least)}' if least else ''}$", recipe, re.MULTILINE), dependency


def test_source_distribution_names_every_folder():
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git repository")
    files = subprocess.run([git, "-C", ROOT, "ls-files"], capture_output=True, text=True, check=True).stdout.split()
    folders = {name.partition("/")[0] for name in files if "/" in name}
    manifest = (ROOT / "MANIFEST.in").read_text()
    assert not [folder for folder in folders if not re.search(rf"(graft|include) {re.escape(folder)}\b", manifest)]
