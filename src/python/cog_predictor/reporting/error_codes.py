"""The error codes that a caller of the predictor sees, in one table.  Pure.

`E[category][subcategory][sequence]`, as Replicate's language models number them: E10xx is the
caller's or the deployment's prompt and weights, E11xx an argument, E12xx the engine.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from servekit.errors.tree import (
    ConfigError,
    EngineError,
    PromptBlank,
    PromptTooLong,
    RequestError,
    ServeError,
    TemplateInvalid,
    TemplateLacksPrompt,
)


class MinTokensInvalid(RequestError):
    """More tokens are demanded than allowed."""


class PredictorConfigInvalid(ConfigError):
    """predictor_config.json cannot be used."""


class EngineFailed(EngineError):
    """The engine failed at a request, and lives."""


class EngineArgUnknown(ConfigError):
    """predictor_config.json has an argument that vLLM does not take."""


@dataclass(frozen=True, slots=True)
class ErrorCode:
    """One row.

    Attributes:
        error: what is raised in our code; None where nothing is.
    """

    code: str
    name: str
    error: type[ServeError] | None
    meaning: str


ERROR_CODES = (
    ErrorCode("E1000", "GenericError", ServeError, "weights missing or refused, or anything else"),
    ErrorCode("E1001", "PromptRequired", PromptBlank, "the formatted prompt is blank"),
    ErrorCode("E1002", "PromptTooLong", PromptTooLong, "more tokens than the model takes"),
    ErrorCode("E1003", "BadPromptTemplate", TemplateLacksPrompt, "no {prompt} in the template"),
    ErrorCode("E1004", "PromptTemplateError", TemplateInvalid, "the template cannot be filled"),
    ErrorCode("E1005", "ImageLoadError", None, "never raised: this predictor takes text only"),
    ErrorCode("E1101", "InvalidArgumentMinTokens", MinTokensInvalid, "min_tokens > max_tokens"),
    ErrorCode("E1200", "VLLMUnknownError", EngineError, "vLLM did not start, or ended"),
    ErrorCode("E1201", "UnexpectedEngineArg", EngineArgUnknown, "no such argument of vLLM"),
    ErrorCode("E1202", "InvalidPredictorConfig", PredictorConfigInvalid, "bad config file"),
)


class CodedError(Exception):
    """An error as the caller reads it: `E1002 PromptTooLong: ...`."""


@contextmanager
def coded() -> Iterator[None]:
    """Give what is raised in the block its code."""
    try:
        yield
    except ServeError as error:
        row = code_of(type(error))
        raise CodedError(f"{row.code} {row.name}: {error}") from error
    # A mistake of ours is an error with a code too; the traceback stays in the log.
    except Exception as error:
        row = code_of(ServeError)
        words = " ".join(str(error).split())[:500]
        raise CodedError(f"{row.code} {row.name}: {type(error).__name__}: {words}") from error


def code_of(kind: type[ServeError]) -> ErrorCode:
    """Return the row of *kind*, or of its nearest ancestor that has one."""
    rows = {row.error: row for row in ERROR_CODES if row.error is not None}
    return next(rows[ancestor] for ancestor in kind.__mro__ if ancestor in rows)
