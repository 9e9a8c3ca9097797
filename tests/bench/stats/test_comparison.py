"""Verdicts: what is there is found, what is not there is not."""

import random

import msgspec
import pytest

from bench.loadgen.record import Record
from bench.stats.comparison import (
    ComparedMetric,
    Comparison,
    compare,
    overall,
    without_latency_verdict,
)
from bench.stats.intervals import Verdict
from bench.stats.windowed_metrics import SloLimits, delivered_tokens, turns_of, windows_of
from bench.workload.schedule import Part
from tests.support.records import a_record, at, delayed

PARTS = [Part(number, number * 6.0, 6.0, ()) for number in range(12)]
TURNS = turns_of(PARTS)
WINDOWS = windows_of(PARTS)


def an_arm(seed: int, slower_s: float = 0.0) -> list[Record]:
    """Return ten requests a second for all parts, noisier in every other one."""
    rng = random.Random(seed)
    records = []
    for part in PARTS:
        for tenth in range(60):
            busy_s = 0.02 * (1 + part.number % 2)
            noise_s = rng.expovariate(1 / busy_s) + slower_s
            records.append(delayed(at(a_record(), part.number, tenth / 10), noise_s))
    return records


def compared(a: list[Record], b: list[Record]) -> Comparison:
    return compare(a, b, TURNS, goal=SloLimits(ttft_ms=120.0), seed=7)


def test_a_slower_arm_is_worse_by_what_it_is_slower() -> None:
    """30 ms more shows as 30 ms more of TTFT and E2E, inside the interval, and as worse."""
    found = compared(an_arm(1), an_arm(2, slower_s=0.030))

    row = found.row("ttft_mean")
    assert found.verdict is Verdict.WORSE
    assert row.verdict is Verdict.WORSE
    assert row.low is not None
    assert row.high is not None
    assert row.low < 30.0 < row.high
    assert found.row("goodput").verdict is Verdict.WORSE


def test_a_faster_arm_is_better() -> None:
    """The sign follows the candidate, and less latency is better."""
    found = compared(an_arm(1, slower_s=0.030), an_arm(2))

    assert found.verdict is Verdict.BETTER
    assert found.row("goodput").verdict is Verdict.BETTER


def test_equal_arms_are_not_told_apart() -> None:
    """Of eight comparisons of an arm with itself, at most one claims a difference."""
    verdicts = [compared(an_arm(2 * n), an_arm(2 * n + 1)).verdict for n in range(8)]

    assert sum(verdict is not Verdict.NOT_SHOWN for verdict in verdicts) <= 1


def test_the_smallest_effect_is_one_that_is_found() -> None:
    """A difference of twice the smallest effect is not missed."""
    nothing = compared(an_arm(1), an_arm(2))
    effect_ms = nothing.row("ttft_mean").smallest_effect
    assert effect_ms is not None

    found = compared(an_arm(1), an_arm(2, slower_s=2 * effect_ms / 1e3))

    assert found.row("ttft_mean").verdict is Verdict.WORSE


def test_failures_are_errors_and_no_latencies() -> None:
    """A request that failed at once does not make its arm fast."""
    broken = [
        msgspec.structs.replace(r, error="reset", end_s=r.due_s) if n % 2 else r
        for n, r in enumerate(an_arm(2))
    ]

    found = compared(an_arm(1), broken)

    assert found.row("error_rate").candidate == 50.0
    assert found.row("error_rate").verdict is Verdict.WORSE
    assert found.row("e2e_p50").verdict is Verdict.NOT_SHOWN


def test_an_arm_without_an_answer_has_no_latency() -> None:
    """Unknown is not zero: the difference to nothing is no difference."""
    dead = [msgspec.structs.replace(r, error="refused", content_s=()) for r in an_arm(2)]

    found = compared(an_arm(1), dead)

    assert found.row("ttft_p50").candidate is None
    assert found.row("ttft_p50").verdict is Verdict.NOT_SHOWN


def test_few_turns_give_no_verdict() -> None:
    """Seven turns claim nothing, however far the arms are apart, and say how many would."""
    found = compare(an_arm(1), an_arm(2, slower_s=9.0), TURNS[:7], goal=SloLimits(), seed=1)

    assert found.verdict is Verdict.NOT_SHOWN
    assert found.reason == (
        "7 turns per arm cannot carry a verdict on 6 headline metrics, 8 can; missing: 1 "
        "(--parts 8)"
    )


def test_gaps_between_events_of_several_tokens_are_no_inter_token_latencies() -> None:
    """Where events carried several tokens each, ITL is unknown and the time per token is not."""
    chunked = [msgspec.structs.replace(r, completion_tokens=9) for r in an_arm(1)]

    found = compared(chunked, chunked)

    assert found.row("itl_p50").baseline is None
    assert found.row("per_token_p50").baseline == pytest.approx(2.5)


def test_tokens_count_in_the_window_in_which_they_arrived() -> None:
    """Throughput is what arrived while load was offered, not what was asked for."""
    late = at(a_record(), 0, 3.99)

    tokens = delivered_tokens([late], WINDOWS)

    assert tokens[0] == 0.0
    assert tokens[1] == 3.0


def steady(seconds: float = 0.0, **changes: object) -> list[Record]:
    """Return five requests a second, all alike: TTFT 50 ms, ITL 10 ms and E2E 70 ms, *seconds*
    later."""
    return [
        delayed(at(a_record(**changes), part.number, fifth / 5), seconds)
        for part in PARTS
        for fifth in range(30)
    ]


def short(a: list[Record], b: list[Record]) -> Comparison:
    return compare(a, b, TURNS, goal=SloLimits(ttft_ms=120.0), seed=7)


def test_what_does_not_vary_is_known_exactly() -> None:
    """50 ms against 80 ms in every turn: 30 ms and 1.6 times, in every set of turns."""
    row = short(steady(), steady(0.03)).row("ttft_p50")

    figures = row.baseline, row.candidate, row.difference, row.low, row.high
    assert figures == pytest.approx((50.0, 80.0, 30.0, 30.0, 30.0))
    assert (row.ratio, row.ratio_low, row.ratio_high) == pytest.approx((1.6, 1.6, 1.6))
    assert row.smallest_effect == pytest.approx(0.0, abs=1e-9)
    # All twelve turns on one side, and so all of the 4,095 sets of them that are drawn.
    assert row.p == pytest.approx(2 / 2**12)
    assert row.verdict is Verdict.WORSE
    assert row.headline
    assert not short(steady(), steady()).row("ttft_p90").headline


def test_the_whole_says_what_it_was_made_of() -> None:
    """Names, turns, confidence; each metric with its label and unit."""
    goal = SloLimits()
    found = compare(
        steady(), steady(), TURNS, goal=goal, seed=1, names=("old", "new"), min_effect=0.02
    )

    assert (found.baseline, found.candidate) == ("old", "new")
    assert (found.turns, found.min_effect, found.confidence) == (12, 0.02, 0.95)
    assert (found.share, found.apart) == (1.0, False)
    row = found.row("ttft_p50")
    assert (row.key, row.label, row.unit) == ("ttft_p50", "TTFT p50", "ms")
    assert row.lower_is_better
    assert not found.row("goodput").lower_is_better
    assert found.incomparable == ""


def test_a_difference_of_nothing_is_no_difference() -> None:
    """An arm against itself: 0, an interval of no width, p = 1, a ratio of 1, nothing shown."""
    found = short(an_arm(1), an_arm(1))

    for row in found.rows:
        if row.difference is not None:
            assert (row.difference, row.low, row.high, row.p) == (0.0, 0.0, 0.0, 1.0)
            assert row.verdict is Verdict.NOT_SHOWN
    assert found.row("e2e_p99").ratio == 1.0
    assert found.verdict is Verdict.NOT_SHOWN


def test_what_both_arms_share_cancels() -> None:
    """The same noise in both, one 30 ms later: every set of turns says 30 ms."""
    row = short(an_arm(1), an_arm(1, slower_s=0.030)).row("ttft_mean")

    assert (row.difference, row.low, row.high) == pytest.approx((30.0, 30.0, 30.0))
    assert row.smallest_effect == pytest.approx(0.0, abs=1e-9)


def test_swapped_arms_negate_the_difference() -> None:
    """Interval mirrored, same p, same smallest effect, the opposite verdict."""
    one, other = an_arm(1), an_arm(2, slower_s=0.03)
    opposite = {
        Verdict.BETTER: Verdict.WORSE,
        Verdict.WORSE: Verdict.BETTER,
        Verdict.NOT_SHOWN: Verdict.NOT_SHOWN,
    }

    there, back = short(one, other), short(other, one)

    for a, b in zip(there.rows, back.rows, strict=True):
        assert (a.baseline, a.candidate) == (b.candidate, b.baseline)
        if a.difference is None or a.low is None or a.high is None:
            continue
        assert (b.difference, b.low, b.high) == pytest.approx((-a.difference, -a.high, -a.low))
        assert b.p == a.p
        assert b.smallest_effect == pytest.approx(a.smallest_effect)
        assert b.verdict is opposite[a.verdict]
    assert back.verdict is opposite[there.verdict]


def test_what_is_added_to_both_arms_changes_no_difference() -> None:
    """50 ms more for both: the same difference and interval of every latency quantile's mean."""
    plain = short(an_arm(1), an_arm(2)).row("ttft_mean")
    more = short(an_arm(1, slower_s=0.05), an_arm(2, slower_s=0.05)).row("ttft_mean")

    assert plain.baseline is not None
    assert more.baseline == pytest.approx(plain.baseline + 50.0)
    assert (more.difference, more.low, more.high) == pytest.approx(
        (plain.difference, plain.low, plain.high)
    )
    assert more.p == plain.p


@pytest.mark.parametrize("seed", range(3))
def test_an_interval_holds_its_estimate(seed: int) -> None:
    """And has the sign that the verdict says."""
    for row in short(an_arm(seed), an_arm(seed + 9, slower_s=0.01)).rows:
        if row.key.endswith("mean") and row.low is not None and row.high is not None:
            assert row.difference is not None
            assert row.low <= row.difference <= row.high
            assert (row.verdict is Verdict.NOT_SHOWN) == (row.low <= 0.0 <= row.high)


def test_interval_p_and_smallest_effect_are_of_the_same_draws() -> None:
    """2.201 + 0.876 standard errors (t with 11 degrees of freedom) against an interval of about
    twice 2.201; p is small where zero is left out."""
    equal, slower = short(an_arm(1), an_arm(2)), short(an_arm(1), an_arm(2, slower_s=0.03))

    for row in (equal.row("ttft_mean"), slower.row("ttft_mean")):
        assert row.low is not None
        assert row.high is not None
        half_width = (row.high - row.low) / 2
        assert row.smallest_effect == pytest.approx(half_width * 3.077 / 2.201, rel=0.25)
    (nothing,) = (p for p in [equal.row("ttft_mean").p] if p is not None)
    assert 0.05 < nothing < 1.0
    assert slower.row("ttft_mean").p == pytest.approx(2 / 2**12)


def test_failed_requests_are_never_counted_as_served() -> None:
    """Half failed, after they had answered in full: half the throughput, half within the SLO."""
    half = [
        msgspec.structs.replace(r, error="reset") if n % 2 else r for n, r in enumerate(steady())
    ]

    found = short(steady(), half)

    assert found.row("request_throughput").ratio == pytest.approx(0.5, rel=0.05)
    assert found.row("output_throughput").ratio == pytest.approx(0.5, rel=0.05)
    assert found.row("goodput").ratio == pytest.approx(0.5, rel=0.05)
    assert found.row("slo_share").difference == pytest.approx(-50.0)
    assert found.row("error_rate").difference == pytest.approx(50.0)


def test_nothing_is_so_many_times_nothing() -> None:
    """Without errors in the baseline there is no ratio of errors; the difference is known."""
    failed = [msgspec.structs.replace(r, error="reset") for r in steady()]

    row = short(steady(), failed).row("error_rate")

    assert row.difference == 100.0
    assert (row.ratio, row.ratio_low, row.ratio_high) == (None, None, None)


def a_row(label: str, p: float | None, verdict: Verdict, **changes: object) -> ComparedMetric:
    row = short(steady(), steady()).row("ttft_p50")
    told = {"label": label, "p": p, "verdict": verdict, "difference": 1.0, **changes}
    return msgspec.structs.replace(row, **told)


@pytest.mark.parametrize(
    ("ps", "shown"),
    [
        # Holm of three: 0.05 / 3 = 0.0167, then 0.025, then 0.05.
        ([0.016, 0.024, 0.049], 3),
        ([0.017, 0.017, 0.017], 0),
        ([0.016, 0.026, 0.026], 1),
        ([0.016, 0.024, 0.051], 2),
        # The first that fails ends it, whatever comes after it.
        ([0.001, 0.03, 0.04], 1),
        ([0.0, 0.0, 0.0], 3),
        ([0.0, 0.04], 2),
        # At it is enough: p is exact, and as small as 2 / 2^n.
        ([0.05], 1),
        ([0.051], 0),
        ([0.049], 1),
        ([0.024, 0.049], 2),
        ([0.026, 0.026], 0),
    ],
)
def test_holm_holds_the_headline_metrics_to_one_in_twenty(ps: list[float], shown: int) -> None:
    """The k-th smallest p must be at most 0.05 over the metrics left; in any order of rows."""
    rows = [a_row(f"m{n}", p, Verdict.WORSE) for n, p in enumerate(ps)]
    labels = ", ".join(f"m{n}" for n in range(shown))
    expected = (
        (Verdict.WORSE, f"{labels}; no headline metric contradicts")
        if shown
        else (
            Verdict.NOT_SHOWN,
            f"none of {len(ps)} headline metrics differs significantly",
        )
    )

    assert overall(rows) == expected
    assert overall(reversed(rows))[0] is expected[0]


def test_the_verdict_of_the_whole() -> None:
    """Better and worse are mixed; one beside nothing shown is that one."""
    better, worse = a_row("TTFT", 0.001, Verdict.BETTER), a_row("ITL", 0.002, Verdict.WORSE)
    nothing = a_row("E2E", 0.003, Verdict.NOT_SHOWN)

    assert overall([worse, better]) == (Verdict.MIXED, "better: TTFT; worse: ITL")
    assert overall([nothing, better]) == (
        Verdict.BETTER,
        "TTFT; no headline metric contradicts",
    )
    assert overall([worse, nothing])[0] is Verdict.WORSE
    assert overall([nothing])[0] is Verdict.NOT_SHOWN


def test_only_headline_metrics_with_a_p_are_judged() -> None:
    """Others neither win nor use up a part of the 5 %."""
    aside = a_row("aside", 0.0001, Verdict.WORSE, headline=False)
    unknown = a_row("unknown", None, Verdict.WORSE)
    judged = a_row("judged", 0.04, Verdict.BETTER)

    assert overall([aside, unknown, judged])[0] is Verdict.BETTER
    assert overall([aside, unknown])[0] is Verdict.NOT_SHOWN


def test_arms_that_did_other_work_keep_only_their_errors() -> None:
    """No verdict and no p on latency, tokens and goodput; figures stay, and errors are judged."""
    failed = [
        msgspec.structs.replace(r, error="reset") if n % 2 else r
        for n, r in enumerate(steady(0.03))
    ]
    found = short(steady(), failed)

    kept = without_latency_verdict(found, "B wrote half as much")

    for before, after in zip(found.rows, kept.rows, strict=True):
        if before.key in ("error_rate", "request_throughput"):
            assert after == before
        else:
            assert (after.verdict, after.p) == (Verdict.NOT_SHOWN, None)
            assert (after.difference, after.low) == (before.difference, before.low)
    assert kept.incomparable == "B wrote half as much"
    assert kept.verdict is Verdict.WORSE
    assert kept.reason == (
        "no verdict on latency, tokens and goodput, since B wrote half as much; errors; no "
        "headline metric contradicts"
    )


def test_the_smallest_number_of_turns_that_says_something_is_six() -> None:
    """Five give no interval and no verdict, but still both arms' figures: 2 / 2^5 > 5 %."""
    a, b = steady(), steady(0.03)

    few = compare(a, b, TURNS[:5], goal=SloLimits(), seed=1).row("ttft_p50")
    enough = compare(a, b, TURNS[:6], goal=SloLimits(), seed=1).row("ttft_p50")

    assert few.difference == pytest.approx(30.0)
    assert (few.low, few.p, few.verdict) == (None, 0.0625, Verdict.NOT_SHOWN)
    assert (enough.low, enough.p) == pytest.approx((30.0, 0.03125))
    assert enough.verdict is Verdict.WORSE


def test_a_p99_of_few_answers_is_unknown() -> None:
    """360 answers have no p99, 368 do; p90 and p50 are told of both."""
    few, many = steady(), [*steady(), *steady()]

    assert few[0].ok
    assert short(few, few).row("ttft_p99").baseline is None
    assert short(few, few).row("ttft_p90").baseline is not None
    assert short(many, many).row("ttft_p99").baseline is not None
    assert short(many, few).row("ttft_p99").difference is None


def test_a_difference_that_does_not_matter_is_not_called_one() -> None:
    """60 % slower in every turn is more than 50 % and less than 70 %; the other way round 37.5 %
    faster is more than 30 % and less than 40 %."""
    slow, fast = steady(0.03), steady()

    def verdict(a: list[Record], b: list[Record], least: float) -> Verdict:
        found = compare(a, b, TURNS, goal=SloLimits(), seed=1, min_effect=least)
        return found.row("ttft_p50").verdict

    assert verdict(fast, slow, 0.5) is Verdict.WORSE
    assert verdict(fast, slow, 0.7) is Verdict.NOT_SHOWN
    assert verdict(slow, fast, 0.3) is Verdict.BETTER
    assert verdict(slow, fast, 0.4) is Verdict.NOT_SHOWN


def test_a_least_effect_on_a_share_is_in_points() -> None:
    """50 % of errors against none: more than 40 points, less than 60."""
    half = [
        msgspec.structs.replace(r, error="reset") if n % 2 else r for n, r in enumerate(steady())
    ]

    for least, verdict in ((0.4, Verdict.WORSE), (0.6, Verdict.NOT_SHOWN)):
        found = compare(steady(), half, TURNS, goal=SloLimits(), seed=1, min_effect=least)
        assert found.row("error_rate").verdict is verdict


def test_a_look_that_may_use_a_part_of_the_five_percent_asks_for_more() -> None:
    """p is as many times as large as there are looks, and the interval of 1 - 0.05 / looks."""
    a, b = an_arm(1), an_arm(2, slower_s=0.004)

    once = compare(a, b, TURNS, goal=SloLimits(), seed=1).row("ttft_mean")
    fourth = compare(a, b, TURNS, goal=SloLimits(), seed=1, share=0.25).row("ttft_mean")

    assert once.p is not None
    assert fourth.p == pytest.approx(4 * once.p)
    bounds = [fourth.low, once.low, once.high, fourth.high]
    known = [bound for bound in bounds if bound is not None]
    assert len(known) == 4
    assert known == sorted(set(known))


def test_turns_without_a_value_do_not_count() -> None:
    """TTFT is unknown in three of twelve turns of one arm: the other nine are compared."""
    gone = [msgspec.structs.replace(r, content_s=()) if r.part < 3 else r for r in an_arm(2, 0.03)]

    row = short(an_arm(1), gone).row("ttft_mean")

    assert row.p == pytest.approx(1 / 2**8)
    assert short(an_arm(1), [r for r in gone if r.part < 7]).row("ttft_mean").p is None


def test_an_effect_of_nothing_takes_no_part_of_the_five_percent() -> None:
    """No errors in either arm: Holm's rule judges the other metrics only."""
    rows = [
        a_row("errors", 1.0, Verdict.NOT_SHOWN, difference=0.0, low=0.0, high=0.0),
        a_row("TTFT", 0.04, Verdict.WORSE),
    ]

    assert overall(rows)[0] is Verdict.WORSE
    assert overall([a_row("E2E", 1.0, Verdict.NOT_SHOWN), rows[1]])[0] is Verdict.NOT_SHOWN
