"""What Cog runs.  The defaults are literals, since `cog build` reads this file without running it.

The types are spelled as its parser knows them.
"""

# ruff: noqa: UP045
# mypy: disable-error-code="misc, override"

import os
from typing import Optional

import cog
from cog import AsyncConcatenateIterator, BaseRunner, Input

from cog_predictor.service.inputs import PredictionInputs
from cog_predictor.service.prediction_service import PredictionService, import_vllm, start_service


class Runner(BaseRunner):
    """Any model that vLLM serves."""

    import_engine = staticmethod(import_vllm)
    service: PredictionService

    async def setup(self, weights: Optional[str] = None) -> None:
        """Load the model that COG_WEIGHTS names: a tarball's URL, a folder or a hub id."""
        self.service = await start_service(weights, os.environ, self.import_engine)

    async def healthcheck(self) -> bool:
        """Whether the engine lives."""
        return await self.service.healthy()

    @cog.streaming
    @cog.concurrent(max=32)
    async def run(
        self,
        prompt: str = Input(description="Prompt", default=""),
        system_prompt: str = Input(
            description="System prompt to send to the model. This is prepended to the prompt and "
            "helps guide system behavior. Ignored for non-chat models.",
            default="You are a helpful assistant.",
        ),
        min_tokens: int = Input(
            description="The minimum number of tokens the model should generate as output.",
            default=0,
            ge=0,
        ),
        max_tokens: int = Input(
            description="The maximum number of tokens the model should generate as output. Less "
            "where the prompt leaves less room.",
            default=512,
            ge=1,
        ),
        temperature: float = Input(
            description="The value used to modulate the next token probabilities. 0 always takes "
            "the likeliest token.",
            default=0.6,
            ge=0.0,
            le=2.0,
        ),
        top_p: float = Input(
            description="Keep only the top tokens with cumulative probability >= top_p (nucleus "
            "filtering).",
            default=0.9,
            ge=0.001,
            le=1.0,
        ),
        top_k: int = Input(
            description="Keep only the top_k tokens with highest probability; 0 keeps all.",
            default=50,
            ge=-1,
        ),
        presence_penalty: float = Input(
            description="Presence penalty", default=0.0, ge=-2.0, le=2.0
        ),
        frequency_penalty: float = Input(
            description="Frequency penalty", default=0.0, ge=-2.0, le=2.0
        ),
        stop_sequences: str = Input(
            description="A comma-separated list of sequences to stop generation at. For example, "
            "'<end>,<stop>' will stop generation at the first instance of '<end>' or '<stop>'.",
            default="",
        ),
        prompt_template: str = Input(
            description="A template to format the prompt with: text with {prompt} and, if you "
            "like, {system_prompt}. Or the name of one: COMPLETION, LLAMA_2_INSTRUCT, "
            "LLAMA_3_INSTRUCT, MISTRAL_INSTRUCT. If not provided, the model's own is used.",
            default="",
        ),
        seed: Optional[int] = Input(
            description="Random seed. Leave blank to randomize the seed.", default=None, ge=0
        ),
        json_schema: str = Input(
            description="A JSON schema that the answer is made to fit. If not provided, any text.",
            default="",
        ),
    ) -> AsyncConcatenateIterator[str]:
        """Continue the prompt."""
        request = PredictionInputs(
            prompt=prompt,
            system_prompt=system_prompt,
            min_tokens=min_tokens,
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            presence_penalty=presence_penalty,
            frequency_penalty=frequency_penalty,
            stop_sequences=stop_sequences,
            prompt_template=prompt_template,
            seed=seed,
            json_schema=json_schema,
        )
        async for piece in self.service.run(request, self.record_metric):
            yield piece
