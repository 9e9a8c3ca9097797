"""predictor_config.json: how a deployment differs from the default.  Reads one file."""

from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

import msgspec

from cog_predictor.reporting.error_codes import EngineArgUnknown, PredictorConfigInvalid

FILE = "predictor_config.json"

# Gone from vLLM, and without effect on the answers: configurations that carry them still work.
RETIRED_ARGS: Mapping[str, str] = {
    "disable_log_requests": "requests are logged only with enable_log_requests",
    "num_scheduler_steps": "the scheduler runs asynchronously by itself",
    "swap_space": "preempted requests are computed again",
    "use_v2_block_manager": "there is one block manager",
}


class PredictorConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What predictor_config.json may say.

    Attributes:
        prompt_template: Jinja, or the name of one of the four templates.
        engine_args: arguments of vLLM's AsyncEngineArgs.
    """

    prompt_template: str | None = None
    engine_args: dict[str, object] | None = None


def load_config(folders: Sequence[Path]) -> PredictorConfig:
    """Return the configuration in the first of *folders* that has one, else the default.

    Raises:
        PredictorConfigInvalid: the file cannot be read, or is not what it should be.
    """
    path = next((folder / FILE for folder in folders if (folder / FILE).is_file()), None)
    if path is None:
        return PredictorConfig()
    try:
        return msgspec.json.decode(path.read_bytes(), type=PredictorConfig)
    except (msgspec.MsgspecError, UnicodeDecodeError, OSError, RecursionError) as error:
        raise PredictorConfigInvalid(
            f"{path}: {error}; it holds an object with prompt_template and engine_args"
        ) from error


def engine_args(
    given: Mapping[str, object], known: Collection[str], *, gpu_count: int
) -> tuple[dict[str, object], list[str]]:
    """Return the arguments for vLLM, and a warning for each that was dropped.

    The context is the model's own, or what fits into memory, unless it is given.

    Raises:
        EngineArgUnknown: vLLM takes no argument of this name; the message names the nearest.
    """
    args: dict[str, object] = {"dtype": "auto", "tensor_parallel_size": max(gpu_count, 1)}
    if "max_model_len" in known:
        # vLLM's word for "the longest that fits".
        args["max_model_len"] = -1
    warnings = []
    for name, value in given.items():
        if name in known and name != "model":
            args[name] = value
        elif name in RETIRED_ARGS:
            warnings.append(f"engine_args: {name} is gone from vLLM: {RETIRED_ARGS[name]}")
        elif name == "model":
            warnings.append("engine_args: model is the folder of the weights; set COG_WEIGHTS")
        else:
            raise EngineArgUnknown(_unknown(name, known))
    return args, warnings


def _unknown(name: str, known: Collection[str]) -> str:
    nearest = get_close_matches(name.replace("-", "_").lower(), sorted(known), n=1)
    remedy = f"did you mean {nearest[0]!r}?" if nearest else "remove it"
    return f"engine_args has {name!r}, which vLLM does not take; {remedy}"
