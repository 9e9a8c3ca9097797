"""The engines of an arm must prove what they are, or they are not measured.

KVCached patches vLLM when it is imported, and where that fails it only logs a line: the engine then
serves as plain vLLM, and a comparison of "KVCached" measures nothing.  A segment in shared memory
is no proof either: KVCached 0.1.5 in vLLM 0.26 has one and allocates everything statically.  What
counts is that `kvcached_engine` saw the GPU's memory follow a load.  Pure but for what asks.
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
        kvcached: whether the GPU memory of each follows its load; False: no KVCached at all.
    """

    version: str | None = None
    prefix_caching: bool | None = None
    kvcached: bool | None = None


class EngineFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine says it is; None where it does not say."""

    url: str
    version: str | None
    prefix_caching: bool | None


class KvcachedEvidence(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of KVCached in the engines of an arm.

    Attributes:
        segments: the names of their segments; None where they cannot be listed.
        proven: of these, whose engine's memory was seen to follow a load; None where it is not
            said of each.
    """

    segments: tuple[str, ...] | None = None
    proven: tuple[str, ...] | None = None


def refutation(
    expected: ExpectedEngine, engines: Sequence[EngineFacts], evidence: KvcachedEvidence
) -> str | None:
    """Return why the engines are not as *expected*; None where they are."""
    if not engines and expected != ExpectedEngine():
        return "no engine URLs; set --engines"
    for engine in engines:
        if expected.version is not None and engine.version != expected.version:
            return f"{engine.url} has version {engine.version}, not {expected.version}"
        wanted = expected.prefix_caching
        if wanted is not None and engine.prefix_caching != wanted:
            return f"{engine.url} has prefix caching {engine.prefix_caching}, not {wanted}"
    if expected.kvcached is None:
        return None
    return _no_kvcached(engines, evidence) if expected.kvcached else _kvcached(evidence)


def _no_kvcached(engines: Sequence[EngineFacts], evidence: KvcachedEvidence) -> str | None:
    """Return why not every one of *engines* is known to have KVCached."""
    if evidence.segments is not None and not evidence.segments:
        return "no KVCached segments: vLLM is not patched; see its log"
    if evidence.proven is None:
        return (
            "nothing says that GPU memory follows the load (a segment alone proves nothing); run "
            "the engines by kvcached_engine and set --kvcached-metrics"
        )
    proven = len(set(evidence.proven))
    if proven < len(engines):
        return f"GPU memory follows the load in {proven} of {len(engines)} engines; see their logs"
    return None


def _kvcached(evidence: KvcachedEvidence) -> str | None:
    """Return why an engine may have KVCached."""
    if evidence.segments is None:
        return "cannot list KVCached segments; set --kvctl or --kvcached-metrics"
    if evidence.segments:
        return f"KVCached segments exist ({', '.join(evidence.segments)}): vLLM is patched"
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

    async def evidence(self) -> KvcachedEvidence:
        """Return what is said; kvctl knows segments only, which prove nothing."""
        if not self.metrics:
            segments = await kvcached_segments(self.kvctl)
            return KvcachedEvidence(segments=None if segments is None else tuple(segments))
        said = await asyncio.gather(*(_metrics_of(url) for url in self.metrics))
        found = [read_active(text) for text in said]
        # One that does not say leaves it open whether there is one more.
        known = [name for name in found if name is not None]
        if len(known) < len(found):
            return KvcachedEvidence()
        follows = [read_follows_load(text) for text in said]
        proven = tuple(n for n, yes in zip(known, follows, strict=True) if n and yes)
        return KvcachedEvidence(
            segments=tuple(name for name in known if name),
            proven=None if None in follows else proven,
        )


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
    asked = expected.kvcached is not None
    evidence = await witness.evidence() if asked else KvcachedEvidence()
    why = refutation(expected, engines, evidence)
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


def read_follows_load(metrics: str) -> bool | None:
    """Return whether `kvcached_engine` saw the memory follow a load; None where it does not say."""
    try:
        for sample in samples(metrics, {"kvcached_memory_follows_load"}):
            return bool(sample.value)
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
