"""Which pairs are refused, and which model runner is chosen."""

from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvcached_engine.gpu_memory import read_used
from kvcached_engine.memory_proof import GIB, MemoryCourse, disproof, proof_load
from kvcached_engine.prover import read_capacity_tokens
from kvcached_engine.versions import V2_RUNNER, InstalledVersions, read_release, runner_environ
from servekit.errors.tree import SettingInvalid

METRICS = resources.files("tests.golden") / "vllm" / "metrics_v0.26.0_h200_generate.txt"
RELEASES = st.tuples(st.integers(0, 1), st.integers(0, 60), st.integers(0, 9))


@pytest.mark.parametrize(
    ("vllm", "chosen"),
    [
        ("0.19.0", {}),
        ("0.22.0", {V2_RUNNER: "0"}),
        ("0.26.0", {V2_RUNNER: "0"}),
        ("0.27.1rc2", {V2_RUNNER: "0"}),
        ("0.28.0", {}),
        ("0.30.0", {}),
    ],
)
def test_the_runner_that_kvcached_needs_is_chosen(vllm: str, chosen: dict[str, str]) -> None:
    """V1 where vLLM would take V2 and KVCached has no adapter for it."""
    assert runner_environ(InstalledVersions("0.1.6", vllm), {}) == chosen


def test_a_runner_that_was_chosen_is_left() -> None:
    """It is refused, or it is right."""
    installed = InstalledVersions("0.1.6", "0.26.0")

    assert runner_environ(installed, {V2_RUNNER: "0"}) == {}
    with pytest.raises(SettingInvalid, match=f"set {V2_RUNNER}=0"):
        runner_environ(installed, {V2_RUNNER: "1"})


@given(kvcached=RELEASES, vllm=RELEASES, v2=st.sampled_from(["0", "1", None]))
def test_kvcached_0_1_5_is_never_silent(
    kvcached: tuple[int, int, int], vllm: tuple[int, int, int], v2: str | None
) -> None:
    """The silent pair is refused however it is asked for; no pair raises anything else."""
    environ = {} if v2 is None else {V2_RUNNER: v2}
    installed = InstalledVersions(".".join(map(str, kvcached)), ".".join(map(str, vllm)))
    refused = False
    try:
        environ |= runner_environ(installed, environ)
    except SettingInvalid:
        refused = True

    silent = kvcached <= (0, 1, 5) and vllm >= (0, 22, 0) and environ.get(V2_RUNNER) != "0"
    assert refused or not silent


@pytest.mark.parametrize(
    ("text", "release"),
    [
        ("0.26.0", (0, 26, 0)),
        ("v0.26", (0, 26, 0)),
        ("0.27.1.dev3+g123", (0, 27, 1)),
        ("", None),
        (None, None),
        ("nightly", None),
    ],
)
def test_versions_are_read(text: str | None, release: tuple[int, int, int] | None) -> None:
    """What is no version is unknown, and nothing is refused for it."""
    assert read_release(text) == release


def test_unknown_versions_are_left_to_the_memory() -> None:
    """A vLLM built from source has a version of its own."""
    assert runner_environ(InstalledVersions(None, None), {}) == {}
    assert runner_environ(InstalledVersions("0.1.6", "dev"), {V2_RUNNER: "1"}) == {}


@pytest.mark.parametrize(
    ("visible", "used"),
    [(None, 300), ("0", 100), ("1", 200), ("0,1", 300), ("GPU-bb", 200), ("7", None), ("", None)],
)
def test_only_the_engines_gpus_are_read(visible: str | None, used: int | None) -> None:
    """By index or by UUID, which CUDA lets one cut short."""
    text = "0, GPU-aaaa-1, 100\n1, GPU-bbbb-2, 200\n"

    found = read_used(text, visible)

    assert found == (None if used is None else used * 1024**2)


def test_memory_that_cannot_be_read_is_unknown() -> None:
    """A driver that is gone is not an empty GPU."""
    assert read_used("NVIDIA-SMI has failed", None) is None
    assert read_used("0, GPU-a, [N/A]", None) is None


def test_the_size_of_a_real_kv_cache_is_read() -> None:
    """From a capture of vLLM 0.26."""
    assert read_capacity_tokens(METRICS.read_text()) == 912_480
    assert read_capacity_tokens("") is None


@given(
    tokens=st.integers(10_000, 4_000_000),
    per_token=st.integers(8_192, 400_000),
    context=st.integers(128, 131_072),
    kept=st.integers(-1, 100_000),
)
def test_a_load_fits_into_the_cache(tokens: int, per_token: int, context: int, kept: int) -> None:
    """At most a quarter of it and one request more, and no prompt is longer than the context."""
    load = proof_load(tokens * per_token, tokens, context, kept)

    assert load.requests >= 1
    assert load.prompt_tokens < context
    assert load.requests * load.prompt_tokens <= tokens / 4 + load.prompt_tokens


def course(idle: float, loaded: float, released: float, capacity: float = 110) -> MemoryCourse:
    """A course in GiB, on a GPU that was empty before, of a load of 6 GiB."""
    return MemoryCourse(
        before=0,
        idle=round(idle * GIB),
        loaded=round(loaded * GIB),
        released=round(released * GIB),
        capacity=round(capacity * GIB),
        load_bytes=6 * GIB,
        preallocated=GIB,
    )


def test_what_was_measured_on_an_h200_is_told_apart() -> None:
    """KVCached 0.1.6: 18.6 GB when idle; 0.1.5 with the V2 runner: 133 GB at all times."""
    assert disproof(course(17.3, 23.2, 19.4)) is None
    silent = disproof(course(124, 124, 124)) or ""
    assert "grew by 0.0 GiB" in silent
    assert "allocated statically" in silent
    # As small as it should be, and nothing of it follows the load.
    assert "allocated statically" not in (disproof(course(17, 17, 17)) or "allocated statically")


@given(
    idle=st.floats(1, 100), grown=st.floats(0, 100), kept=st.floats(0, 1), shift=st.floats(0, 20)
)
def test_the_verdict_depends_on_what_changes_only(
    idle: float, grown: float, kept: float, shift: float
) -> None:
    """Neighbours that hold still change nothing."""
    one = course(idle, idle + grown, idle + kept * grown)
    other = course(idle + shift, idle + shift + grown, idle + shift + kept * grown)

    close = abs(grown - 2.5) < 1e-6 or abs(kept - 0.5) < 1e-6
    assert close or (disproof(one) is None) == (disproof(other) is None)
