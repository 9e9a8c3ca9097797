"""Groups of options: a command that takes a group has its options; former names.  Pure.

    @dataclass(frozen=True)
    class Kept:
        HEADING: ClassVar[str] = "Results"
        output_dir: Annotated[Path, typer.Option(help="...")] = Path("results")

    @grouped
    def compare(context: typer.Context, kept: Kept) -> None: ...

typer then sees `--output-dir` of compare, listed under "Results" in its help, and Kept is one list
of options for every command.
"""

import copy
import functools
import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, get_args, get_type_hints

from typer import Option
from typer.models import OptionInfo


class OldName(str):
    """A former name of an option: it works, and no help lists it."""


def old_name(name: str) -> str:
    """Return *name* for `typer.Option("--new", old_name("--old"))`."""
    return OldName(name)


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Return *command* as typer is to see it: each option of its groups by itself."""
    hints = get_type_hints(command, include_extras=True)
    given = inspect.signature(command).parameters
    groups = {name: hints[name] for name in given if is_dataclass(hints[name])}

    def spread(**values: Any) -> None:
        own = {name: values[name] for name in given if name not in groups}
        built = {
            name: group(**{field.name: values[field.name] for field in fields(group)})
            for name, group in groups.items()
        }
        command(**own, **built)

    shown = [one for name in given for one in _shown(given[name], hints[name])]
    seen: Any = functools.update_wrapper(spread, command)
    seen.__signature__ = inspect.Signature(shown)
    seen.__annotations__ = {one.name: one.annotation for one in shown}
    # Typer would follow it to the command as it was written.
    del seen.__wrapped__
    return spread


def _shown(given: inspect.Parameter, hint: Any) -> list[inspect.Parameter]:
    kind = inspect.Parameter.KEYWORD_ONLY
    if not is_dataclass(hint):
        return [inspect.Parameter(given.name, kind, default=given.default, annotation=hint)]
    hints = get_type_hints(hint, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            kind,
            default=field.default,
            annotation=_under(getattr(hint, "HEADING", None), hints[field.name]),
        )
        for field in fields(hint)
    ]


def _under(heading: str | None, hint: Any) -> Any:
    """Return *hint*, the type of an option, with *heading* where it names none."""
    if heading is None:
        return hint
    value, *extras = get_args(hint) if hasattr(hint, "__metadata__") else (hint,)
    option = next((copy.copy(one) for one in extras if isinstance(one, OptionInfo)), Option())
    option.rich_help_panel = option.rich_help_panel or heading
    return Annotated[value, option]
