"""Commands whose options come in groups."""

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer

from bench.groups import grouped


@dataclass(frozen=True, slots=True)
class Kept:
    folder: Annotated[str, typer.Option("--folder", "--place", help="Where.")] = "results"
    parquet: bool = False


def called_with(*argv: str) -> tuple[str, Kept]:
    seen: list[tuple[str, Kept]] = []

    def command(name: str, kept: Kept) -> None:
        seen.append((name, kept))

    app = typer.Typer()
    app.command()(grouped(command))
    app(list(argv), standalone_mode=False)
    return seen[0]


@pytest.mark.parametrize(
    ("argv", "kept"),
    [
        ((), Kept()),
        (("--folder", "a"), Kept("a")),
        (("--place", "b", "--parquet"), Kept("b", parquet=True)),
    ],
)
def test_a_group_is_built_from_its_options(argv: tuple[str, ...], kept: Kept) -> None:
    """Each field is an option, under all its names, with the group's default."""
    assert called_with("x", *argv) == ("x", kept)


def test_what_a_group_does_not_have_is_no_option() -> None:
    """A mistake is told as for any other command."""
    with pytest.raises(Exception, match="No such option"):
        called_with("x", "--nonsense", "1")
