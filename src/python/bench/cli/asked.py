"""What is asked of which server: a command line's options and the server's own word.  Input and
output: it asks the server for its models, and how it counts words.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import typer

from bench.cli.request_options import DataOptions
from servekit.errors.tree import EngineUnreachable, SettingInvalid

if TYPE_CHECKING:
    from bench.loadgen.session import Endpoint
    from bench.results.context import RunContext
    from bench.workload.registry import WorkloadSpec

_PROMPT_OPTIONS = ("prompt_mean", "prompt_stddev")
_OUTPUT_OPTIONS = ("output_mean", "output_stddev")
_GENERATED = ("synthetic", "shared-prefix", "multi-turn")


def workload_for(
    context: typer.Context,
    urls: Sequence[str],
    models: list[str] | None,
    workload: str,
    data: DataOptions,
    endpoint: "Endpoint",
    *,
    seed: int,
    rate: float = 1.0,
    requests: int = 1,
    arrivals: str = "poisson",
) -> "WorkloadSpec":
    """Return what is asked of the servers at *urls*, the first of which says what is served.

    Raises:
        EngineUnreachable: no model is given, and the server does not answer.
        SettingInvalid: options contradict one another.
    """
    import uvloop

    from bench.target.arms import model_limits
    from bench.workload.registry import WorkloadSpec, read_shares

    chosen = _chosen(context, workload)
    shares = read_shares(models) if models else {}
    limits: list[int] = []
    for url in urls:
        try:
            served = uvloop.run(model_limits(url, endpoint.api_key, endpoint.headers))
        except EngineUnreachable:
            if not shares:
                raise
            continue
        # A load balancer lists models in the order in which it found them.
        shares = shares or dict.fromkeys(sorted(served), 1.0)
        limits += [limit for name, limit in served.items() if name in shares and limit]
    if data.speed is not None and not data.speed > 0:
        raise SettingInvalid(f"--speed is {data.speed:g}; must be above 0")
    return WorkloadSpec(
        workload=chosen,
        shares=shares,
        requests=requests,
        rate=rate,
        arrivals="trace" if data.speed is not None else arrivals,
        seed=seed,
        lengths=data.lengths(),
        speed=data.speed,
        fit=data.max_model_len or min(limits, default=None),
        reading=data.reading(endpoint),
        keeps_models=not models,
        turns=data.max_turns or 5,
        turn_delay_s=data.turn_delay_s,
    )


def served_models(url: str, endpoint: "Endpoint") -> list[str]:
    """Return the models at *url*.

    Raises:
        EngineUnreachable: the server cannot be reached.
    """
    import uvloop

    from bench.target.arms import model_limits

    return list(uvloop.run(model_limits(url, endpoint.api_key, endpoint.headers)))


def with_text_scales(given: "RunContext", url: str, ask: "WorkloadSpec") -> "RunContext":
    """Return *given* with how the server at *url* counts words, where prompts are made of them."""
    import uvloop

    from bench.loadgen.text_scale import learn_text_scales

    is_text = ask.workload == "default" or Path(ask.workload).suffix in (".json", ".txt")
    is_words = given.endpoint.shape.takes_words or ask.turn_delay_s is not None
    if is_text or not is_words:
        return given
    models = list(ask.shares)
    scales = uvloop.run(learn_text_scales(url, models, given.endpoint, ask.fit))
    for model in models:
        scale = scales.get(model)
        said = (
            "prompt tokens are not counted by the server; prompt lengths are estimates"
            if scale is None
            else f"text prompts have {scale.chars_per_token:.2f} characters per token"
            f"{_template(scale.overhead)}, by the server's count"
        )
        given.console.print(f"{model}: {said}", highlight=False, soft_wrap=True)
    shape = msgspec.structs.replace(given.endpoint.shape, scales=scales)
    endpoint = msgspec.structs.replace(given.endpoint, shape=shape)
    return msgspec.structs.replace(given, endpoint=endpoint)


def _template(tokens: float) -> str:
    return f" and {tokens:.0f} tokens of template" if tokens >= 1.0 else ""


def _chosen(context: typer.Context, workload: str) -> str:
    """Token lengths on the command line select the synthetic workload, as in genai-perf; a file
    without lengths takes the output's."""
    prompts = [name for name in _PROMPT_OPTIONS if _was_given(context, name)]
    outputs = [name for name in _OUTPUT_OPTIONS if _was_given(context, name)]
    if not (prompts or outputs) or workload in _GENERATED:
        return workload
    if not _was_given(context, "workload"):
        return "synthetic"
    if not prompts and Path(workload).is_file():
        return workload
    raise SettingInvalid(
        f"--workload {workload} defines its token lengths; omit --isl and --osl, or --workload"
    )


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
