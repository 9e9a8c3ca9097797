"""The engines of an arm must prove what they are, or they are not measured.

KVCached patches vLLM when it is imported, and where that fails it only logs a line: the engine then
serves as plain vLLM, and a comparison of "KVCached" measures nothing.  Pure but for `engine_facts`
and `kvcached_segments`, which ask.
"""

import asyncio
import json
import shlex
from collections.abc import Sequence

import msgspec

from bench.target.arms import ask
from servekit.errors.tree import EngineError, MetricsInvalid, SettingInvalid
from servekit.metrics.exposition import samples

_CACHE_CONFIG = "vllm:cache_config_info"


class EngineMismatch(EngineError):
    """An engine is not what the comparison says it is."""


class ExpectedEngine(msgspec.Struct, frozen=True, kw_only=True):
    """What the engines of an arm are said to be.  None asks for nothing.

    Attributes:
        kvcached: whether each has its KV cache in a shared segment.
    """

    version: str | None = None
    prefix_caching: bool | None = None
    kvcached: bool | None = None


class EngineFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine says it is; None where it does not say."""

    url: str
    version: str | None
    prefix_caching: bool | None


def refutation(
    expected: ExpectedEngine, engines: Sequence[EngineFacts], segments: Sequence[str] | None
) -> str | None:
    """Return why the engines are not as *expected*; None where they are.

    *segments* are the KVCached segments of their host; None where they cannot be listed.
    """
    if not engines and expected != ExpectedEngine():
        return "no engine URLs; set --engines"
    for engine in engines:
        if expected.version is not None and engine.version != expected.version:
            return f"{engine.url} has version {engine.version}, not {expected.version}"
        wanted = expected.prefix_caching
        if wanted is not None and engine.prefix_caching != wanted:
            return f"{engine.url} has prefix caching {engine.prefix_caching}, not {wanted}"
    if expected.kvcached is not None and segments is None:
        return "cannot list KVCached segments; set --kvctl or --kvcached-metrics"
    if expected.kvcached and not segments:
        return "no KVCached segments: vLLM is not patched; see its log"
    if expected.kvcached and len(set(segments or ())) < len(engines):
        return f"{len(set(segments or ()))} KVCached segments for {len(engines)} engines"
    if expected.kvcached is False and segments:
        return f"KVCached segments exist ({', '.join(segments)}): vLLM is patched"
    return None


def kvcached_arms(which: str | None, arms: int) -> list[bool | None]:
    """Return for each of so many arms whether it must have KVCached; None without a check.

    The second half of the arms are the candidates: of two the other one, of a 2x2 those of engine
    B.

    Raises:
        SettingInvalid: *which* is no word for some of them.
    """
    if which is None:
        return [None] * arms
    if which not in ("candidate", "both", "none"):
        raise SettingInvalid(f"--expect-kvcached {which!r}; must be candidate, both or none")
    if which == "none":
        return [False] * arms
    return [True if which == "both" or n >= arms // 2 else None for n in range(arms)]


class KvcachedSource(msgspec.Struct, frozen=True, kw_only=True):
    """Who says which KVCached segments there are.

    Attributes:
        kvctl: how kvctl is run on the engines' host.
        metrics: where `kvcached_engine` says it of each engine; asked instead of kvctl if given.
    """

    kvctl: str = "kvctl"
    metrics: tuple[str, ...] = ()

    async def segments(self) -> list[str] | None:
        """Return the segments; None where they cannot be listed."""
        if not self.metrics:
            return await kvcached_segments(self.kvctl)
        said = await asyncio.gather(*(_metrics_of(url) for url in self.metrics))
        found = [read_active(text) for text in said]
        # One that does not say leaves it open whether there is one more.
        known = [name for name in found if name is not None]
        return None if len(known) < len(found) else [name for name in known if name]


async def check(
    expected: ExpectedEngine, urls: Sequence[str], witness: KvcachedSource
) -> list[EngineFacts]:
    """Return what the engines at *urls* say they are; nothing, where nothing is expected.

    Raises:
        EngineMismatch: they are something else, or do not say.
    """
    if expected == ExpectedEngine():
        return []
    engines = await asyncio.gather(*(engine_facts(url) for url in urls))
    segments = await witness.segments() if expected.kvcached is not None else None
    why = refutation(expected, engines, segments)
    if why is not None:
        raise EngineMismatch(f"{why}; run aborted")
    return list(engines)


async def engine_facts(url: str) -> EngineFacts:
    """Return what the engine at *url* says on /version and /metrics."""
    _, version = await ask(url, "/version")
    return EngineFacts(
        url=url,
        version=read_version(version),
        prefix_caching=read_prefix_caching(await _metrics_of(url)),
    )


async def _metrics_of(url: str) -> str:
    status, body = await ask(url, "/metrics")
    return body.decode("utf-8", "replace") if status == 200 else ""


def read_version(body: bytes) -> str | None:
    """Return the version in a /version body; None where it is none."""
    try:
        said = json.loads(body)
    except ValueError:
        return None
    return str(said["version"]) if isinstance(said, dict) and "version" in said else None


def read_prefix_caching(metrics: str) -> bool | None:
    """Return whether an exposition of vLLM's says that prefixes are cached."""
    try:
        for sample in samples(metrics, {_CACHE_CONFIG}):
            said = sample.labels.get("enable_prefix_caching")
            return None if said is None else said == "True"
    except MetricsInvalid:
        return None
    return None


def read_active(metrics: str) -> str | None:
    """Return the segment that `kvcached_engine` names as active, empty where it says that there is
    none, None where it does not say."""
    try:
        for sample in samples(metrics, {"kvcached_active"}):
            return sample.labels.get("ipc", "?") if sample.value else ""
    except MetricsInvalid:
        return None
    return None


async def kvcached_segments(kvctl: str) -> list[str] | None:
    """Return the segments that `kvctl list --json` lists; None where it cannot be run.

    *kvctl* may reach another host: `ssh gpu-host kvctl`.
    """
    argv = [*shlex.split(kvctl), "list", "--json"]
    try:
        process = await asyncio.create_subprocess_exec(
            *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
    except OSError:
        return None
    out, _ = await process.communicate()
    return read_segments(out) if process.returncode == 0 else None


def read_segments(listed: bytes) -> list[str] | None:
    """Return the names in what `kvctl list --json` prints: a list of objects with `ipc`.

    None where it is something else: a list that cannot be read proves nothing.
    """
    try:
        said = json.loads(listed)
    except ValueError:
        return None
    if not isinstance(said, list) or not all(isinstance(one, dict) for one in said):
        return None
    names = [one.get("ipc") for one in said]
    return None if None in names else [str(name) for name in names]
