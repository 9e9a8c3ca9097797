"""The table of error codes, in the code and in the docs."""

import re
from pathlib import Path

import pytest

from cog_predictor.reporting import error_codes
from cog_predictor.reporting.error_codes import ERROR_CODES, CodedError, code_of, coded
from servekit.errors import tree

README = Path(__file__).parents[3] / "src/python/cog_predictor/README.md"


def test_the_readme_has_the_same_table() -> None:
    """A caller who looks a code up finds what the code says, and no other row."""
    rows = re.findall(r"^\| (E\d{4}) \| (\w+) \| (.+) \|$", README.read_text(), re.MULTILINE)

    assert rows == [(row.code, row.name, row.meaning) for row in ERROR_CODES]


def test_codes_and_names_stand_once() -> None:
    """A code means one thing."""
    assert len({row.code for row in ERROR_CODES}) == len(ERROR_CODES)
    assert len({row.name for row in ERROR_CODES}) == len(ERROR_CODES)
    assert [row.code for row in ERROR_CODES] == sorted(row.code for row in ERROR_CODES)


def _errors() -> list[type[tree.ServeError]]:
    found = [*vars(tree).values(), *vars(error_codes).values()]
    return [kind for kind in found if isinstance(kind, type) and issubclass(kind, tree.ServeError)]


@pytest.mark.parametrize("kind", _errors())
def test_every_error_has_a_code(kind: type[tree.ServeError]) -> None:
    """Nothing that we raise reaches a caller without its code."""
    assert code_of(kind) in ERROR_CODES


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (tree.WeightsMissing, "E1000"),
        (tree.WeightsRefused, "E1000"),
        (tree.RequestInvalid, "E1000"),
        (tree.PromptBlank, "E1001"),
        (tree.PromptTooLong, "E1002"),
        (tree.TemplateLacksPrompt, "E1003"),
        (tree.TemplateInvalid, "E1004"),
        (tree.EngineExited, "E1200"),
        (tree.EngineNotReady, "E1200"),
    ],
)
def test_the_nearest_row_is_taken(kind: type[tree.ServeError], code: str) -> None:
    """A child without a row of its own has that of its parent."""
    assert code_of(kind).code == code


def test_a_coded_error_keeps_the_message_and_its_cause() -> None:
    """The caller reads one line; the log has the rest."""
    with pytest.raises(CodedError, match=r"^E1001 PromptRequired: nothing$") as info, coded():
        raise tree.PromptBlank("nothing")

    assert isinstance(info.value.__cause__, tree.PromptBlank)


def test_a_mistake_of_ours_has_a_code_too() -> None:
    """A bug is shown as what it is, behind E1000; the traceback keeps the original."""
    with pytest.raises(CodedError, match="E1000 GenericError: KeyError: 'bug'") as info, coded():
        raise KeyError("bug")

    assert isinstance(info.value.__cause__, KeyError)
