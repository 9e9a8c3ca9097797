"""A stand-in for the runner of GitHub's workflows: runs a job's `run:` steps.  Runs processes.

It knows what our workflows use of the expression language, and refuses the rest:
https://docs.github.com/en/actions/reference/workflows-and-actions/expressions
"""

import itertools
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EXPRESSION = re.compile(r"\$\{\{\s*(.+?)\s*\}\}")
_CONTEXT = re.compile(r"[a-z_]+(\.[a-zA-Z_-]+)*")
_COMPARISON = re.compile(r"(?P<left>[\w.-]+) (?P<sign>==|!=) '(?P<right>[^']*)'")


@dataclass(frozen=True, slots=True)
class StepRun:
    """A step that was run: its name, exit code and output, stdout and stderr together."""

    name: str
    code: int
    output: str


def evaluate(expression: str, context: Mapping[str, Any]) -> Any:
    """Return the value of *expression*.

    Raises:
        ValueError: it uses what this stand-in does not know.
    """
    if " || " in expression:
        values = (evaluate(part, context) for part in expression.split(" || "))
        return next((value for value in values if value), "")
    if match := _COMPARISON.fullmatch(expression):
        same = str(evaluate(match["left"], context)) == match["right"]
        return same == (match["sign"] == "==")
    if expression == "always()":
        return True
    if not _CONTEXT.fullmatch(expression):
        raise ValueError(f"expression {expression!r} is not known to the stand-in")
    value: Any = context
    for name in expression.split("."):
        value = value.get(name, "") if isinstance(value, Mapping) else ""
    return value


def fill(text: str, context: Mapping[str, Any]) -> str:
    """Return *text* with its expressions replaced by their values."""
    return EXPRESSION.sub(lambda match: str(evaluate(match[1], context)), text)


def matrix_of(job: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The jobs that one of *job* with a matrix stands for."""
    axes = job.get("strategy", {}).get("matrix", {})
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def run_job(
    job: Mapping[str, Any], context: Mapping[str, Any], checkout: Path, environ: Mapping[str, str]
) -> Iterator[StepRun]:
    """Run the `run:` steps of *job* until one fails; from then on those of `always()`."""
    failed = False
    for step in job["steps"]:
        condition = str(step.get("if", ""))
        wanted = evaluate(condition, context) if condition else True
        if "run" not in step or not wanted or (failed and condition != "always()"):
            continue
        env = {name: fill(str(value), context) for name, value in step.get("env", {}).items()}
        run = subprocess.run(  # noqa: S603
            # What `shell: bash`, the default on Linux, stands for.
            ("bash", "-e", "-c", fill(step["run"], context)),  # noqa: S607
            cwd=checkout,
            env={**environ, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        failed = failed or run.returncode != 0
        yield StepRun(fill(step.get("name", ""), context), run.returncode, run.stdout)


def shims(folder: Path, **scripts: str) -> str:
    """Return a PATH on which programs named *scripts* come first."""
    folder.mkdir()
    for name, script in scripts.items():
        program = folder / name
        program.write_text(f"#!/usr/bin/env bash\n{script}\n")
        program.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"
