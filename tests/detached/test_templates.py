"""The script of a job of SLURM, and the options of sbatch."""

import pytest

from pympipool.detached.schedulers import JobRequest
from pympipool.detached.slurm import batch_script, sbatch_options
from pympipool.detached.spool import Spool
from pympipool.detached.templates import text_of
from pympipool.resources import Resources


@pytest.fixture
def make_request(tmp_path):
    def make(tasks=1, after=(), at_once=None, **resources):
        return JobRequest(
            spool=Spool(str(tmp_path), "4f1c"),
            tasks=tasks,
            resources=Resources(**resources),
            command=["python", "-c", "print('a b')"],
            environment={"PYMPIPOOL_PATH": "/a b"},
            cwd="/work",
            after=after,
            at_once=at_once,
            cores_at_once=1,
        )

    return make


def test_the_script_quotes_what_it_runs(make_request):
    assert batch_script(make_request()) == (
        "#!/bin/bash\nexport PYMPIPOOL_PATH='/a b'\n"
        """python -c 'print('"'"'a b'"'"')' "${SLURM_ARRAY_TASK_ID:-0}"\n"""
    )


def test_ranks_are_started_by_srun(make_request):
    script = batch_script(make_request(cores=2, pmi_mode="pmix"))
    assert "\nsrun --kill-on-bad-exit=1 --input=none --mpi=pmix python" in script


def test_a_template_gets_values(make_request):
    script = batch_script(
        make_request(submission_template="#!/bin/sh\n# {{cores}} {{ partition }} {{job_name}}\n{{command}}")
    )
    assert script.startswith("#!/bin/sh\n# 1  pympipool-4f1c\nexport PYMPIPOOL_PATH")


def test_a_template_may_be_a_file(make_request, tmp_path):
    (tmp_path / "template").write_text("module load x\n{{command}}\n")
    assert batch_script(make_request(submission_template=str(tmp_path / "template"))).startswith(
        "module load x\nexport"
    )


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("#!/bin/sh\n", r"has no \{\{command\}\}"),
        ("\n{{command}}{{size}}", r"has '\{\{size\}\}'; it can have command, "),
    ],
)
def test_wrong_templates_are_errors(make_request, template, words):
    with pytest.raises(ValueError, match=words):
        batch_script(make_request(submission_template=template))


def test_a_jinja_template_is_read_or_refused(make_request):
    template = "#!/bin/sh\n{% if cores == 1 %}one{% endif %}\n{{command}}\n"
    try:
        import jinja2  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match="pip install jinja2"):
            batch_script(make_request(submission_template=template))
    else:
        assert batch_script(make_request(submission_template=template)).startswith("#!/bin/sh\none\nexport")


def test_a_single_job_is_no_array(make_request):
    assert sbatch_options(make_request()) == [
        "--parsable",
        "--job-name=pympipool-4f1c",
        "--open-mode=append",
        "--export=ALL",
        f"--output={make_request().spool.log_path(0)}",
        "--chdir=/work",
        "--ntasks=1",
        "--cpus-per-task=1",
        "--nodes=1",
    ]


def test_an_array_has_its_limit_and_dependencies(make_request):
    options = sbatch_options(
        make_request(
            tasks=200, after=[("7", None), ("8", 3)], at_once=4, cores=2, num_nodes=2, partition="p", exclusive=True
        )
    )
    wanted = {
        "--array=0-199%4",
        "--dependency=afterok:7:8_3",
        "--kill-on-invalid-dep=yes",
        "--nodes=2",
        "--ntasks=2",
        "--partition=p",
        "--exclusive",
    }
    assert wanted <= set(options)
    assert any(option.endswith("logs/%a.log") for option in options)


def test_a_template_without_a_file_is_an_error():
    with pytest.raises(FileNotFoundError):
        text_of("no/such/template")
