"""An engine that answers word by word, and does what its prompt says.

A prompt is as many tokens as it has words, without the `<s>` that begins it.  Words with a
meaning: `slow` waits before every token, `die` ends the engine, `hang` computes nothing, `refuse`
is refused, `stumble` meets a mistake.  What happens is noted in `engine.log`, line by line, since a
test looks from another process.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, MutableMapping, Sequence
from pathlib import Path

from cog_predictor.engine.engine import EngineFactory, Sampling, TextDelta
from servekit.errors.tree import EngineExited, EngineNotReady, RequestInvalid
from servekit.launch.engine_work import EngineWork

GOLDEN = Path(__file__).parents[1] / "golden/cog/async_engine_args_v0.32.0.txt"

SLOW_TOKEN_S = 0.05


def known_args() -> frozenset[str]:
    """The names that vLLM takes."""
    return frozenset(line for line in GOLDEN.read_text().splitlines() if not line.startswith("#"))


def import_fake(_environ: MutableMapping[str, str]) -> EngineFactory:
    """Stand in for `import_vllm`."""
    return EngineFactory(known_args(), gpu_count=0, start=start_fake)


async def start_fake(model: Path, args: Mapping[str, object]) -> "FakeEngine":
    """Load nothing; take as long as the argument `shutdown_timeout` says, and fail as told."""
    await asyncio.sleep(float(str(args.get("shutdown_timeout", 0))))
    if args.get("quantization") == "broken":
        raise EngineNotReady("vLLM did not start: broken quantization")
    return FakeEngine(model, args, Path("engine.log"))


class FakeEngine:
    """Repeats the words of the prompt until it may stop."""

    def __init__(self, model: Path, args: Mapping[str, object], log: Path) -> None:
        template = model / "chat_template.jinja"
        self._words: list[str] = []
        self._running: set[str] = set()
        self._dead = False
        self._log = log
        self.args = dict(args)
        given = int(str(args.get("max_model_len", -1)))
        self.own_length = 64
        self.max_model_len = self.own_length if given < 0 else given
        self.chat_template = template.read_text() if template.exists() else None
        self.special_tokens = {"bos_token": "<s>"}
        self.now = time.monotonic
        self.work = EngineWork()
        self._condemned = asyncio.Event()
        self._why = "it was told to die"

    def tokenize(self, text: str, *, complete: bool) -> list[int]:  # noqa: ARG002
        words = text.removeprefix("<s>").split()
        self._words += [word for word in words if word not in self._words]
        return [self._words.index(word) for word in words]

    async def generate(
        self, prompt_token_ids: Sequence[int], sampling: Sampling, request_id: str
    ) -> AsyncGenerator[TextDelta, None]:
        words = [self._words[token] for token in prompt_token_ids]
        self._note(f"start {sampling.max_tokens} {sampling.seed} {' '.join(words)}")
        if "refuse" in words:
            raise RequestInvalid("vLLM refuses the request: it was told to")
        if "stumble" in words:
            raise KeyError("stumbled")
        self._running.add(request_id)
        self.work.begin(self.now())
        try:
            async for piece in self._repeated(words, sampling, request_id):
                yield piece
        finally:
            self.work.end(abandoned=False)

    async def _repeated(
        self, words: list[str], sampling: Sampling, request_id: str
    ) -> AsyncGenerator[TextDelta, None]:
        for number in range(sampling.max_tokens):
            if "slow" in words:
                await asyncio.sleep(SLOW_TOKEN_S)
            if "hang" in words:
                await self._condemned.wait()
            if "die" in words:
                self._dead = True
            await self.check()
            if request_id not in self._running:
                return
            self.work.hear(self.now())
            yield TextDelta(f"{words[number % len(words)]} ", 1)
        self._running.discard(request_id)

    async def abort(self, request_id: str) -> None:
        self._running.discard(request_id)
        self._note("abort")

    async def check(self) -> None:
        if self._dead:
            raise EngineExited(f"the engine is gone: {self._why}")

    async def counters(self) -> object:
        return self.work.heard_s

    async def computes(self) -> bool:
        return not self._dead

    def condemn(self, why: str) -> None:
        self._dead, self._why = True, why
        self._condemned.set()

    def _note(self, line: str) -> None:
        with self._log.open("a") as file:
            file.write(f"{line}\n")
