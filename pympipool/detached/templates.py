"""The script of a job, from the user's template.

    #!/bin/bash
    #SBATCH --mail-type=FAIL
    module load openmpi
    {{command}}

A plain template has `{{name}}` in the place of values. One with `{%` is a template of jinja2.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pympipool.detached.schedulers import JobRequest
    from pympipool.resources import Resources

__all__ = ["render"]

DEFAULT = "#!/bin/bash\n{{command}}\n"


def render(resources: Resources, command: str, request: JobRequest) -> str:
    """Return the script.

    Args:
        resources: What each task needs; they have the template.
        command: What the script has to run.
        request: The job.

    Raises:
        ValueError: The template lacks the command, or has a name without a value.
        ImportError: It needs jinja2, which is not installed.
    """
    template = text_of(resources.submission_template)
    values = _values(resources, command, request)
    if "{%" in template:
        return _render_jinja(template, values)

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name not in values:
            raise ValueError(f"the submission_template has {match[0]!r}; it can have {', '.join(values)}")
        return "" if values[name] is None else str(values[name])

    return re.sub(r"\{\{\s*(\w+)\s*\}\}", value, template)


def text_of(template: str | None) -> str:
    """Return the text of a template, which may be the path of a file.

    Raises:
        ValueError: There is no place for the command.
    """
    if template is None:
        return DEFAULT
    if "\n" not in template:
        with open(template, encoding="utf-8") as file:
            template = file.read()
    if not re.search(r"\{\{\s*command\s*\}\}", template):
        raise ValueError("the submission_template has no {{command}}, in whose place the program of the job comes")
    return template if template.endswith("\n") else f"{template}\n"


def _values(resources: Resources, command: str, request: JobRequest) -> dict[str, Any]:
    limit_s = resources.call_duration_s
    return {
        "command": command,
        "job_name": f"pympipool-{request.spool.submission}",
        "working_directory": os.path.abspath(request.cwd),
        "cores": resources.cores,
        "threads_per_core": resources.threads_per_core,
        "gpus_per_core": resources.gpus_per_core,
        "num_nodes": resources.num_nodes,
        "partition": resources.partition,
        "account": resources.account,
        "run_time_max": None if limit_s is None else int(limit_s),
        "dependency": [job if task is None else f"{job}_{task}" for job, task in request.after],
    }


def _render_jinja(template: str, values: dict[str, Any]) -> str:
    try:
        import jinja2
    except ImportError as error:
        raise ImportError(
            "the submission_template has '{%', which jinja2 reads, and jinja2 is not installed: pip install jinja2, or use only"
            " {{name}}"
        ) from error
    made = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
    try:
        return str(made.from_string(template).render(values))
    except jinja2.TemplateError as error:
        raise ValueError(f"the submission_template cannot be filled in: {error}") from error
