"""Why vLLM did not start, in one line: the cause and what to change.  Pure, but for the log's file.

vLLM raises "Engine core initialization failed. See root cause above." in our process; the cause is
in the log of its own process, as the traceback that came first.
"""

import json
import re
from collections.abc import MutableMapping
from pathlib import Path

# A cause by its words, and the remedy; the first that fits.
_REMEDIES: tuple[tuple[str, str], ...] = (
    (
        r"trust_remote_code",
        "if you trust its author, set engine_args.trust_remote_code to true in "
        "predictor_config.json",
    ),
    (
        r"max_model_len|max seq len|model's max",
        "remove engine_args.max_model_len from predictor_config.json, or lower it",
    ),
    (
        r"out of memory|No available memory|free memory|KV cache|kv_cache_memory",
        "use a larger GPU, or change engine_args.gpu_memory_utilization, max_num_seqs or "
        "quantization in predictor_config.json",
    ),
    (r"tensor.parallel|divisible by|world size", "set engine_args.tensor_parallel_size"),
    (r"quant", "correct quantization_config in config.json, or set engine_args.quantization"),
    (
        r"tokenizer|chat_template|SentencePiece|tiktoken",
        "put the tokenizer's files into the weights, or set engine_args.tokenizer",
    ),
    (r"dtype|bfloat16", "set engine_args.dtype in predictor_config.json"),
    (
        r"safetensors|header|deserializ|EOF|PytorchStreamReader|pickle|weights|shape|size of tensor"
        r"|IncompleteMetadata|index is out of|parameter|Cannot find any model weights",
        "the weights do not fit config.json or are damaged: pack them again, and name them in "
        "COG_WEIGHTS",
    ),
    (
        r"architecture|not supported|model type|model_type|Transformers does not recognize",
        "name a model in COG_WEIGHTS that this vLLM supports, or set engine_args.model_impl",
    ),
    (
        r"runner|pooling|generate|embed",
        "name a model in COG_WEIGHTS that generates text",
    ),
)
_OTHERWISE = (
    "check config.json of the model in COG_WEIGHTS, and engine_args in predictor_config.json"
)

# What only says that something else went wrong.
_ECHOES = ("Engine core initialization failed", "WorkerProc initialization failed")

_RAISED = re.compile(r"^((?:\w+\.)*\w*(?:Error|Exception)\w*: .+)$")


def explained(error: BaseException | str, log: str = "") -> str:
    """Return the cause of *error* and the remedy.

    Args:
        log: what vLLM's own processes logged; its first traceback is nearer to the cause.
    """
    text = error if isinstance(error, str) else _own_words(error)
    if any(echo in text for echo in _ECHOES):
        text = root_cause(log) or text
    remedy = next(
        (remedy for words, remedy in _REMEDIES if re.search(words, text, re.IGNORECASE)), _OTHERWISE
    )
    return f"{text[:300]}; {remedy}"


def root_cause(log: str) -> str | None:
    """Return the line that ended the first traceback of *log*, without what comes before it."""
    for line in log.splitlines():
        found = _RAISED.match(line.strip())
        if found and not any(echo in found[1] for echo in _ECHOES):
            return " ".join(found[1].split())
    return None


def _own_words(error: BaseException) -> str:
    """Return the message in one line; pydantic's without its frame and its link."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith("For further information")]
    if len(kept) > 1 and "validation error" in kept[0]:
        kept = kept[1:]
    text = re.sub(r"\s*\[type=.*", "", " ".join(kept))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def keep_error_log(environ: MutableMapping[str, str], folder: Path) -> Path | None:
    """Have vLLM's processes write their errors to a file too, and return it.

    To be called before vLLM is imported.  None where the deployment has its own logging.
    """
    if environ.get("VLLM_LOGGING_CONFIG_PATH") or environ.get("VLLM_CONFIGURE_LOGGING") == "0":
        return None
    log = folder / "vllm-errors.log"
    config = folder / "vllm-logging.json"
    # Tracebacks as Python writes them, beside what vLLM always prints.
    console = {"class": "logging.StreamHandler", "formatter": "vllm", "stream": "ext://sys.stdout"}
    errors = {"class": "logging.FileHandler", "level": "ERROR", "filename": str(log)}
    line = {
        "()": "vllm.logging_utils.NewLineFormatter",
        "fmt": "%(levelname)s %(asctime)s [%(fileinfo)s:%(lineno)d] %(message)s",
        "datefmt": "%m-%d %H:%M:%S",
    }
    logging = {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"vllm": line},
        "handlers": {"console": console, "errors": errors},
        "loggers": {
            "vllm": {"handlers": ["console", "errors"], "level": "INFO", "propagate": False}
        },
    }
    config.write_text(json.dumps(logging))
    environ["VLLM_LOGGING_CONFIG_PATH"] = str(config)
    return log


def read_error_log(log: Path | None) -> str:
    """Return what vLLM's processes wrote; nothing where they wrote nothing."""
    return log.read_text(errors="replace") if log is not None and log.exists() else ""
