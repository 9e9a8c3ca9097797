"""Run a current ruff: `lint` checks, `fix` repairs and `fmt` formats.

The backend of Pants 2.17 speaks to a ruff older than its formatter and its `check` command.  This
one takes its place and keeps its options (`[ruff]`).  Runs inside Pants, on Python 3.9.
"""

# No `from __future__ import annotations`: Pants reads the types of a rule when it is declared.
from dataclasses import dataclass
from typing import Any

from pants.backend.python.lint.ruff import skip_field, subsystem
from pants.backend.python.lint.ruff.subsystem import Ruff, RuffFieldSet
from pants.backend.python.util_rules import pex
from pants.backend.python.util_rules.pex import PexRequest, VenvPex, VenvPexProcess
from pants.core.goals.fix import FixResult, FixTargetsRequest
from pants.core.goals.fmt import FmtResult, FmtTargetsRequest
from pants.core.goals.lint import LintResult, LintTargetsRequest
from pants.core.util_rules.config_files import ConfigFiles, ConfigFilesRequest
from pants.core.util_rules.partitions import PartitionerType
from pants.core.util_rules.source_files import SourceFiles, SourceFilesRequest
from pants.engine.fs import Digest, MergeDigests, Snapshot
from pants.engine.process import FallibleProcessResult
from pants.engine.rules import Get, MultiGet, collect_rules, rule
from pants.util.meta import classproperty


class RuffLint(LintTargetsRequest):
    """What `pants lint` asks of `ruff check`."""

    field_set_type = RuffFieldSet
    tool_subsystem = Ruff
    partitioner_type = PartitionerType.DEFAULT_SINGLE_PARTITION

    @classproperty
    def tool_name(cls) -> str:  # noqa: N805 - as Pants writes it
        return "ruff check"


class RuffFix(FixTargetsRequest):
    """What `pants fix` asks of `ruff check --fix`."""

    field_set_type = RuffFieldSet
    tool_subsystem = Ruff
    partitioner_type = PartitionerType.DEFAULT_SINGLE_PARTITION

    @classproperty
    def tool_name(cls) -> str:  # noqa: N805 - as Pants writes it
        return "ruff check --fix"


class RuffFormat(FmtTargetsRequest):
    """What `pants fmt` asks of `ruff format`; `pants lint` runs it too, and compares."""

    field_set_type = RuffFieldSet
    tool_subsystem = Ruff
    partitioner_type = PartitionerType.DEFAULT_SINGLE_PARTITION

    @classproperty
    def tool_name(cls) -> str:  # noqa: N805 - as Pants writes it
        return "ruff format"


@dataclass(frozen=True)
class RuffRun:
    """One run of ruff: its arguments, and the files it may change."""

    args: tuple[str, ...]
    files: Snapshot


@rule
async def run_ruff(request: RuffRun, ruff: Ruff) -> FallibleProcessResult:
    ruff_pex, config_files = await MultiGet(
        Get(VenvPex, PexRequest, ruff.to_pex_request()),
        Get(ConfigFiles, ConfigFilesRequest, ruff.config_request(request.files.dirs)),
    )
    inputs = await Get(Digest, MergeDigests((request.files.digest, config_files.snapshot.digest)))
    return await Get(
        FallibleProcessResult,
        VenvPexProcess(
            ruff_pex,
            argv=(*request.args, "--no-cache", *ruff.args, *request.files.files),
            input_digest=inputs,
            output_files=request.files.files,
            description=f"Run ruff {request.args[0]} on {len(request.files.files)} files.",
        ),
    )


@rule(desc="Lint with ruff check")
async def lint(request: RuffLint.Batch[RuffFieldSet, Any]) -> LintResult:
    sources = await Get(
        SourceFiles, SourceFilesRequest(field_set.source for field_set in request.elements)
    )
    result = await Get(FallibleProcessResult, RuffRun(("check", "--quiet"), sources.snapshot))
    return LintResult.create(request, result, strip_chroot_path=True)


@rule(desc="Fix with ruff check --fix")
async def fix(request: RuffFix.Batch) -> FixResult:
    result = await Get(
        FallibleProcessResult, RuffRun(("check", "--fix", "--quiet"), request.snapshot)
    )
    return await FixResult.create(request, result, strip_chroot_path=True)


@rule(desc="Format with ruff format")
async def format_sources(request: RuffFormat.Batch) -> FmtResult:
    result = await Get(FallibleProcessResult, RuffRun(("format", "--quiet"), request.snapshot))
    return await FmtResult.create(request, result, strip_chroot_path=True)


def rules():
    return (
        *collect_rules(),
        *skip_field.rules(),
        *subsystem.rules(),
        *RuffLint.rules(),
        *RuffFix.rules(),
        *RuffFormat.rules(),
        *pex.rules(),
    )
