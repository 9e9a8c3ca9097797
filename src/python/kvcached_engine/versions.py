"""Which pairs of KVCached and vLLM are known not to work, and which model runner they need.  Pure.

A pair that is not in the table is not refused: what is known of it is what the memory then shows
(`memory_proof`).  The lines marked "measured" were seen on an H200; the others are what KVCached
0.1.6 says of itself (kvcached/integration/vllm/patches.py, `_patched_engine_init`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from servekit.errors.tree import SettingInvalid

V2_RUNNER = "VLLM_USE_V2_MODEL_RUNNER"

Release = tuple[int, int, int]

# From this release on vLLM takes the V2 model runner for most models unless told otherwise.
_V2_BY_DEFAULT: Release = (0, 22, 0)

# From this release on KVCached can work with the V2 model runner.
_V2_SUPPORTED: Release = (0, 28, 0)

_ANY: Release = (9999, 0, 0)


@dataclass(frozen=True, slots=True)
class BadPair:
    """Releases that do not work together.

    Attributes:
        kvcached: first and last release of KVCached.
        vllm: first release of vLLM, and the first one after the last.
        v2_runner: with vLLM's V2 model runner, without it, or None for either.
        outcome: what happens.
        remedy: what to do instead.
    """

    kvcached: tuple[Release, Release]
    vllm: tuple[Release, Release]
    v2_runner: bool | None
    outcome: str
    remedy: str

    def covers(self, kvcached: Release, vllm: Release, v2_runner: bool) -> bool:
        return (
            self.kvcached[0] <= kvcached <= self.kvcached[1]
            and self.vllm[0] <= vllm < self.vllm[1]
            and self.v2_runner in (None, v2_runner)
        )


_UP_TO_0_1_5 = ((0, 0, 0), (0, 1, 5))
_0_1_6 = ((0, 1, 6), (0, 1, 6))

BAD_PAIRS = (
    # Measured with 0.26: a segment, "Successfully patched", /health 200, and 133 GB allocated.
    BadPair(
        _UP_TO_0_1_5,
        (_V2_BY_DEFAULT, _ANY),
        True,
        "serves without KVCached and allocates its KV cache statically, without an error",
        "use KVCached 0.1.6",
    ),
    # Measured with 0.26: ValueError.
    BadPair(
        _UP_TO_0_1_5,
        ((0, 26, 0), _ANY),
        False,
        "ends with 'Unsupported kv cache shape'",
        "use KVCached 0.1.6",
    ),
    # Measured with 0.26: KVCachedConfigError.
    BadPair(
        _0_1_6,
        ((0, 0, 0), _V2_SUPPORTED),
        True,
        "is refused by KVCached with the V2 model runner",
        f"set {V2_RUNNER}=0",
    ),
    BadPair(
        _0_1_6,
        ((0, 29, 0), _ANY),
        False,
        "is refused by KVCached with the V1 model runner",
        f"unset {V2_RUNNER}",
    ),
    BadPair(
        _0_1_6,
        ((0, 31, 0), _ANY),
        None,
        "has no adapter in KVCached",
        "use vLLM 0.17 to 0.30",
    ),
)


@dataclass(frozen=True, slots=True)
class InstalledVersions:
    """What the engine's Python has; None where that is not known."""

    kvcached: str | None = None
    vllm: str | None = None


def runner_environ(installed: InstalledVersions, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variable that chooses the model runner, where KVCached needs another than vLLM
    would take and *environ* does not choose one.

    Raises:
        SettingInvalid: the pair is known not to work.
    """
    kvcached, vllm = read_release(installed.kvcached), read_release(installed.vllm)
    if vllm is None:
        return {}
    chosen = {}
    if V2_RUNNER not in environ and _V2_BY_DEFAULT <= vllm < _V2_SUPPORTED:
        chosen = {V2_RUNNER: "0"}
    if kvcached is not None:
        _refuse_bad_pair(installed, kvcached, vllm, _uses_v2(vllm, {**environ, **chosen}))
    return chosen


def _refuse_bad_pair(
    installed: InstalledVersions, kvcached: Release, vllm: Release, v2_runner: bool
) -> None:
    for pair in BAD_PAIRS:
        if pair.covers(kvcached, vllm, v2_runner):
            runner = "V2" if v2_runner else "V1"
            raise SettingInvalid(
                f"vLLM {installed.vllm} with KVCached {installed.kvcached} and the {runner} model "
                f"runner {pair.outcome}; {pair.remedy}, or set ENABLE_KVCACHED=false"
            )


def _uses_v2(vllm: Release, environ: Mapping[str, str]) -> bool:
    said = environ.get(V2_RUNNER)
    if said is None:
        return vllm >= _V2_BY_DEFAULT
    # vLLM reads it as a number.
    return said.strip().lower() not in ("0", "", "false")


def read_release(text: str | None) -> Release | None:
    """Return the first three numbers of a version such as `0.26.0rc1` or `0.26`; None for none."""
    match = re.match(r"v?(\d+)\.(\d+)(?:\.(\d+))?", text or "")
    return (int(match[1]), int(match[2]), int(match[3] or 0)) if match else None
