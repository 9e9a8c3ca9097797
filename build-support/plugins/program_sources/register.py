"""`program_sources`: `python_sources` of a folder with one program, for `pants run FOLDER`.

`pants run` prefers any module of a folder to its `pex_binary`, and refuses where there are several.
These modules cannot be run by themselves: the folder's one program is what is left.  Runs inside
Pants, on Python 3.9.
"""

from pants.backend.python.target_types import (
    PythonRunGoalUseSandboxField,
    PythonSourcesGeneratorTarget,
    PythonSourceTarget,
)


class ProgramSource(PythonSourceTarget):
    """One module; without the field by which `pants run` finds what it can start."""

    alias = "program_source"
    core_fields = tuple(
        field
        for field in PythonSourceTarget.core_fields
        if field is not PythonRunGoalUseSandboxField
    )
    help = "A module of a program, which cannot be run by itself."


class ProgramSources(PythonSourcesGeneratorTarget):
    """A `program_source` for each module."""

    alias = "program_sources"
    generated_target_cls = ProgramSource
    moved_fields = tuple(
        field
        for field in PythonSourcesGeneratorTarget.moved_fields
        if field is not PythonRunGoalUseSandboxField
    )
    help = "Generate a `program_source` for each file, as `python_sources` does."


def target_types():
    """Return what BUILD files may use."""
    return [ProgramSource, ProgramSources]
