"""Known values, properties, and coverage by simulation.

`python tests/report/test_stats.py` prints the table of docs/method.md, from the same simulations
with more repetitions; the bounds below allow about four standard errors of the shorter ones.
"""

import ast
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from projected_grpo.report import stats
from projected_grpo.report.stats import (
    clustered_bootstrap,
    h1_verdict,
    holm,
    paired_difference,
    ratio_of_means,
    t_interval,
    tost,
)
from projected_grpo.report.student_t import student_t_cdf, student_t_quantile, student_t_two_sided

rates = st.floats(0, 1)
numbers = st.floats(-1e3, 1e3)
quick = settings(max_examples=50, deadline=None)


def pairs_of(values: st.SearchStrategy[float], least: int = 2) -> st.SearchStrategy:
    return st.lists(st.tuples(values, values), min_size=least, max_size=16).map(np.array)


# --- Student's t


@pytest.mark.parametrize("t", [0.0, 1e-9, 1e-4, 0.3, 1.0, 2.5, 12.0, 400.0, 1e6])
def test_t_cdf_has_its_closed_forms(t: float) -> None:
    """df = 1, 2 and 4, on both sides; the lower tail to relative accuracy."""
    assert student_t_cdf(t, 1) == pytest.approx(0.5 + math.atan(t) / math.pi, abs=1e-14)
    lower = 0.5 - math.atan(t) / math.pi if t < 10 else math.atan(1 / t) / math.pi
    assert student_t_cdf(-t, 1) == pytest.approx(lower, rel=1e-12)
    root = math.sqrt(2 + t * t)
    assert student_t_cdf(-t, 2) == pytest.approx(1 / (root * (root + t)), rel=1e-12)
    u = t / math.sqrt(4 + t * t)
    assert student_t_cdf(t, 4) == pytest.approx(0.5 + u * (3 - u * u) / 4, abs=1e-14)


@pytest.mark.parametrize(
    ("p", "df", "t"),
    [  # standard tables, with the digits of scipy 1.17
        (0.975, 1, 12.706204736174694),
        (0.975, 3, 3.1824463052837078),
        (0.95, 7, 1.894578605061305),
        (0.975, 15, 2.131449545559775),
        (0.9995, 15, 4.072765195903711),
        (0.975, 59, 2.0009953780882674),
        (0.975, 1e6, 1.9599663557),
    ],
)
def test_t_quantiles_of_the_tables(p: float, df: float, t: float) -> None:
    assert student_t_quantile(p, df) == pytest.approx(t, abs=1e-8)
    assert student_t_quantile(1 - p, df) == pytest.approx(-t, abs=1e-8)


@quick
@given(st.floats(1e-9, 1 - 1e-9), st.floats(0.5, 500))
def test_quantile_and_cdf_are_inverse(p: float, df: float) -> None:
    assert student_t_cdf(student_t_quantile(p, df), df) == pytest.approx(p, rel=1e-11)


def test_t_agrees_with_scipy() -> None:
    t = pytest.importorskip("scipy.stats").t
    for df in (1, 2, 3, 4.5, 15, 100, 1e4, 1e6):
        for x in (-300, -10, -3, -0.5, -1e-9, 0.1, 2, 50):
            assert student_t_cdf(x, df) == pytest.approx(t.cdf(x, df), rel=1e-8)


# --- Means and pairs


def test_t_interval_of_a_textbook_sample() -> None:
    """1..5: mean 3, standard error sqrt(2.5 / 5), t(0.975, 4) = 2.776445."""
    got = t_interval([1, 2, 3, 4, 5])
    assert (got.estimator, got.n, got.estimate, got.level) == ("mean, t interval", 5, 3.0, 0.95)
    assert got.high - 3 == pytest.approx(2.7764451051977987 * math.sqrt(0.5), rel=1e-12)
    assert 3 - got.low == pytest.approx(got.high - 3)


@quick
@given(st.lists(numbers, min_size=2, max_size=16), st.floats(0.1, 10), numbers)
def test_t_interval_follows_scale_and_shift(x: list[float], scale: float, shift: float) -> None:
    one, two = t_interval(x), t_interval(np.array(x) * scale + shift)
    for name in ("low", "estimate", "high"):
        expected = getattr(one, name) * scale + shift
        assert getattr(two, name) == pytest.approx(expected, rel=1e-9, abs=1e-8)


@quick
@given(pairs_of(rates))
def test_a_paired_difference_is_the_t_test_of_the_differences(ab: np.ndarray) -> None:
    got, swapped = paired_difference(*ab.T, resamples=199), paired_difference(*ab.T[::-1])
    assert got.low <= got.estimate <= got.high and 0 <= got.p_value <= 1
    assert (swapped.low, swapped.high) == pytest.approx((-got.high, -got.low), abs=1e-12)
    assert (got.p_value < 0.05) == (not got.low <= 0 <= got.high)
    assert (got.bootstrap is None) == (len(ab) < 4)
    if got.bootstrap is not None:
        assert got.bootstrap.low <= got.estimate + 1e-12 and not math.isnan(got.bootstrap.low)
        assert got.bootstrap.high >= got.estimate - 1e-12 and not math.isnan(got.bootstrap.high)


def test_the_sleep_data_of_student_1908() -> None:
    """Extra sleep under two drugs, ten patients: t = -4.0621, p = 0.002833 (R's t.test)."""
    a = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    b = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    got = paired_difference(a, b)
    assert got.estimate == pytest.approx(-1.58)
    assert got.estimate / got.standard_error == pytest.approx(-4.0621, abs=1e-4)
    assert got.p_value == pytest.approx(0.002833, abs=1e-6)
    assert (got.low, got.high) == pytest.approx((-2.4598858, -0.7001142), abs=1e-7)
    assert got.bootstrap is not None and got.bootstrap.low < got.low < got.bootstrap.high < -0.7


def test_a_seeded_generator_repeats_the_bootstrap() -> None:
    a, b = np.random.default_rng(1).random((2, 8))
    assert paired_difference(a, b, rng=7) == paired_difference(a, b, rng=np.random.default_rng(7))
    assert paired_difference(a, b, rng=7) != paired_difference(a, b, rng=8)


def test_no_spread_is_an_interval_of_width_zero_and_never_nan() -> None:
    """0.3 - 0.2 and 0.2 - 0.1 differ in the last digit; that is no spread either."""
    got = paired_difference([0.3, 0.2, 0.4, 0.5], [0.2, 0.1, 0.3, 0.4])
    assert got.low == got.high == pytest.approx(0.1) and got.p_value == 0
    assert got.bootstrap is not None and got.bootstrap.low == got.bootstrap.high == got.estimate
    same = paired_difference([0.3, 0.7], [0.3, 0.7])
    assert (same.low, same.high, same.p_value) == (0, 0, 1)
    assert t_interval([0.1] * 3).low == t_interval([0.1] * 3).high == 0.1


def test_ties_give_an_infinite_bootstrap_limit_rather_than_a_wrong_one() -> None:
    """A third of the resamples of (0, 0, 0, 0.1) are all zero."""
    got = paired_difference([0, 0, 0, 0.1], [0, 0, 0, 0])
    assert got.bootstrap is not None
    assert got.bootstrap.high == math.inf and -math.inf < got.bootstrap.low < 0.025


@quick
@given(pairs_of(rates), st.floats(0.01, 0.5), st.floats(0.01, 0.2))
def test_tost_decides_alike_by_interval_and_by_p(
    ab: np.ndarray, margin: float, alpha: float
) -> None:
    got = tost(*ab.T, margin, alpha=alpha)
    assert got.level == 1 - 2 * alpha and 0 <= got.p_value <= 1
    assume(abs(got.p_value - alpha) > 1e-9)
    assert got.equivalent == (got.p_value < alpha) == (-margin < got.low and got.high < margin)
    assert tost(*ab.T[::-1], margin, alpha=alpha).p_value == pytest.approx(got.p_value, abs=1e-12)


def test_tost_is_the_larger_of_two_one_sided_tests() -> None:
    """d = (-1, 0, 1, 2): mean 0.5, standard error sqrt(5/12); margin 2."""
    got = tost([-1, 0, 1, 2], [0, 0, 0, 0], 2)
    se = math.sqrt(5 / 12)
    lower, upper = 1 - student_t_cdf(2.5 / se, 3), student_t_cdf(-1.5 / se, 3)
    assert got.p_value == pytest.approx(max(lower, upper)) and not got.equivalent
    assert tost([0.2, 0.2], [0.1, 0.1], 0.1).p_value == 1  # no spread, on the margin
    assert tost([0.2, 0.2], [0.1, 0.1], 0.11).equivalent


# --- Many arms


def test_holm_of_his_paper_s_kind_of_example() -> None:
    """By hand: 4 x .005, 3 x .01, 2 x .03, and .04 raised to the one before it."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]).tolist() == [1, 1]


@quick
@given(st.lists(rates, min_size=1, max_size=12), st.randoms())
def test_holm_lies_between_raw_and_bonferroni(p: list[float], random) -> None:
    got = holm(p)
    raw = np.array(p)
    assert (got >= raw - 1e-15).all() and (got <= np.minimum(1, raw * len(p)) + 1e-15).all()
    order = list(range(len(p)))
    random.shuffle(order)
    assert holm(raw[order]).tolist() == got[order].tolist()
    assert (np.diff(got[np.argsort(raw)]) >= 0).all()


# --- Within a run


def test_clusters_are_kept_whole_and_counted() -> None:
    """Rows that repeat within a problem add no information: ten copies, the same interval."""
    values = np.random.default_rng(0).random(30)
    one = clustered_bootstrap(values, np.arange(30))
    ten = clustered_bootstrap(np.repeat(values, 10), [f"p{i // 10:02}" for i in range(300)])
    assert one.n == ten.n == 30
    assert (ten.low, ten.estimate, ten.high) == pytest.approx((one.low, one.estimate, one.high))


def test_a_ratio_of_columns_can_be_bootstrapped() -> None:
    rng = np.random.default_rng(0)
    attempt = rng.random(400) < 0.6
    exploit = attempt & (rng.random(400) < 0.5)
    got = clustered_bootstrap(
        np.column_stack([exploit, attempt]),
        np.arange(400) // 10,
        lambda rows: rows[:, 0].sum() / rows[:, 1].sum(),
    )
    assert got.estimate == exploit.sum() / attempt.sum() and got.low < 0.5 < got.high


def test_an_undefined_statistic_is_refused() -> None:
    """P(exploit | attempt) where one problem of twenty was attempted: 36 % have no attempt."""
    attempt = np.arange(20) == 3
    with pytest.raises(ValueError, match=r"undefined in 3\d"):
        clustered_bootstrap(
            np.column_stack([attempt, attempt]),
            np.arange(20),
            lambda r: r[:, 0].sum() / r[:, 1].sum(),
        )


# --- The verdict


def verdict(fall: float, solve: float, spread: float = 0.02, vanilla: float = 0.7, n: int = 16):
    noise = np.resize([spread, -spread], n)
    return h1_verdict(
        np.full(n, vanilla), vanilla - fall + noise, np.full(n, 0.3), 0.3 + solve + noise
    )


@pytest.mark.parametrize(
    ("fall", "solve", "expected"),
    [
        (0.40, 0.00, "supported"),
        (0.30, -0.10, "supported"),  # the bounds are inclusive: at least 30, within 10
        (0.30, 0.10, "supported"),
        (0.29, 0.00, "partial"),
        (0.15, 0.00, "partial"),  # falsified below 15, not at it
        (0.40, -0.11, "partial"),
        (0.40, -0.15, "partial"),
        (0.40, 0.20, "partial"),
        (0.14, 0.00, "falsified"),
        (-0.10, 0.00, "falsified"),
        (0.40, -0.16, "falsified"),
    ],
)
def test_the_verdict_follows_the_clauses_of_the_spec(
    fall: float, solve: float, expected: str
) -> None:
    got = verdict(fall, solve)
    assert got.verdict == expected and got.n == 16
    assert (got.verdict == "supported") == (not got.reasons)
    assert got.sentence.startswith(f"H1 {expected}: ") and "n = 16 seeds" in got.sentence


def test_the_third_clause_compares_with_one_standard_error() -> None:
    """A fall of 20 points, and seeds that differ by 60."""
    got = verdict(0.2, 0, spread=0.3, n=2)
    assert got.hack.standard_error == pytest.approx(0.3) and got.verdict == "falsified"
    assert got.reasons == ("the hack rate differs by no more than one standard error",)


def test_confirmed_asks_the_intervals_too() -> None:
    assert verdict(0.40, 0).confirmed and verdict(0.40, 0).whole_interval
    noisy = verdict(0.31, 0, spread=0.2, n=4)
    assert noisy.verdict == "supported" and not noisy.confirmed
    assert "not shown to be within 10 points" in noisy.sentence
    assert not verdict(0.30, 0).whole_interval and verdict(0.30, 0).confirmed
    assert not verdict(0.20, 0).confirmed


def test_nothing_to_suppress_is_no_falsification() -> None:
    assert verdict(0.05, 0, spread=0.01, vanilla=0.1).verdict == "untestable"


# --- Bad input

BAD: dict[str, Callable[[], object]] = {
    "one value": lambda: t_interval([1.0]),
    "nan": lambda: t_interval([1.0, math.nan]),
    "inf": lambda: t_interval([1.0, math.inf]),
    "two axes": lambda: t_interval([[1.0, 2.0]]),
    "level": lambda: t_interval([1.0, 2.0], level=95),
    "lengths": lambda: paired_difference([1, 2], [1, 2, 3]),
    "broadcast": lambda: paired_difference([1, 2], [1]),
    "margin": lambda: tost([1, 2], [1, 3], 0),
    "nan margin": lambda: tost([1, 2], [1, 3], math.nan),
    "tost alpha": lambda: tost([1, 2], [1, 3], 1, alpha=0.5),
    "p above 1": lambda: holm([0.1, 1.1]),
    "nan p": lambda: holm([0.1, math.nan]),
    "no p": lambda: holm([]),
    "one cluster": lambda: clustered_bootstrap([1, 2], ["a", "a"]),
    "no cluster": lambda: clustered_bootstrap([], []),
    "cluster lengths": lambda: clustered_bootstrap([1, 2], ["a"]),
    "cluster nan": lambda: clustered_bootstrap([1, math.nan], [0, 1]),
    "percent": lambda: h1_verdict([70, 80], [30, 20], [0.1, 0.2], [0.1, 0.2]),
    "arm lengths": lambda: h1_verdict([0.7] * 3, [0.3] * 3, [0.1] * 2, [0.1] * 2),
    "df": lambda: student_t_cdf(1, 0),
    "quantile": lambda: student_t_quantile(1, 3),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_a_value_error(name: str) -> None:
    with pytest.raises(ValueError):
        BAD[name]()


def test_numpy_is_the_only_dependency() -> None:
    for module in ("stats", "student_t"):
        tree = ast.parse((Path(stats.__file__).parent / f"{module}.py").read_text(encoding="utf-8"))
        found = {a.name for x in ast.walk(tree) if isinstance(x, ast.Import) for a in x.names}
        found |= {str(x.module) for x in ast.walk(tree) if isinstance(x, ast.ImportFrom)}
        third_party = {name.split(".")[0] for name in found} - set(sys.stdlib_module_names)
        assert third_party <= {"numpy", "projected_grpo"}


# --- Coverage by simulation


def normal(rng: np.random.Generator, n: int) -> tuple[np.ndarray, float]:
    return rng.normal(size=n), 0.0


def hack_rates(rng: np.random.Generator, n: int) -> tuple[np.ndarray, float]:
    """Differences of an arm that rarely hacks, skewed, and a vanilla arm around 0.7."""
    return rng.beta(0.5, 4, size=n) - rng.beta(7, 3, size=n), 0.5 / 4.5 - 0.7


def counts(rng: np.random.Generator, n: int) -> tuple[np.ndarray, float]:
    """Differences of rates of 16 rollouts, both near 0: many ties."""
    return (rng.binomial(16, 0.05, size=n) - rng.binomial(16, 0.08, size=n)) / 16, -0.03


Sample = Callable[[np.random.Generator, int], tuple[np.ndarray, float]]


def cover_t(draw: Sample, n: int, times: int) -> float:
    rng, hits = np.random.default_rng(0), 0
    for _ in range(times):
        x, truth = draw(rng, n)
        got = t_interval(x)
        hits += got.low <= truth + 1e-12 and truth - 1e-12 <= got.high
    return hits / times


def cover_bootstrap(draw: Sample, n: int, times: int, resamples: int = 499) -> float:
    rng, hits = np.random.default_rng(0), 0
    for _ in range(times):
        x, truth = draw(rng, n)
        got = paired_difference(x, np.zeros(n), resamples=resamples, rng=rng).bootstrap
        assert got is not None
        hits += got.low <= truth + 1e-12 and truth - 1e-12 <= got.high
    return hits / times


def cover_clusters(problems: int, times: int, resamples: int = 300) -> tuple[float, float]:
    """Hacks of one run: 4 to 12 rollouts a problem, whose own rates are Beta(1, 1). Coverage of the
    clustered bootstrap, and of Wilson's interval (it inverts the score test), which takes rows as
    independent."""
    rng, hits, naive = np.random.default_rng(0), 0, 0
    for _ in range(times):
        sizes = rng.integers(4, 13, size=problems)
        labels = np.repeat(np.arange(problems), sizes)
        hacks = rng.random(labels.size) < rng.random(problems)[labels]
        got = clustered_bootstrap(hacks, labels, resamples=resamples, rng=rng)
        hits += got.low <= 0.5 <= got.high
        naive += abs(hacks.mean() - 0.5) <= 1.96 * math.sqrt(0.25 / hacks.size)
    return hits / times, naive / times


def tost_size(n: int, times: int, sd: float = 0.05) -> float:
    """How often a true difference on the margin is called equivalent."""
    rng = np.random.default_rng(0)
    found = [tost(rng.normal(0.1, sd, n), np.zeros(n), 0.1).equivalent for _ in range(times)]
    return float(np.mean(found))


def holm_error(n: int, times: int, arms: int = 8, real: int = 0) -> tuple[float, float]:
    """Arms against one shared vanilla, the first `real` of which truly differ: how often any other
    is rejected, with Holm's correction and without."""
    rng = np.random.default_rng(0)
    corrected = raw = 0
    for _ in range(times):
        treated = rng.normal(size=(arms, n))
        treated[:real] += 3
        d = treated - rng.normal(size=n)
        t = d.mean(1) / (d.std(1, ddof=1) / math.sqrt(n))
        p = np.array([student_t_two_sided(v, n - 1) for v in t])
        corrected += (holm(p)[real:] < 0.05).any()
        raw += (p[real:] < 0.05).any()
    return float(corrected / times), float(raw / times)


@pytest.mark.parametrize("n", [4, 8, 16])
def test_coverage_of_t(n: int) -> None:
    assert 0.935 <= cover_t(normal, n, 3000) <= 0.965
    assert 0.92 <= cover_t(hack_rates, n, 3000) <= 0.965


@pytest.mark.parametrize("n", [4, 8, 16])
def test_coverage_of_the_studentised_bootstrap(n: int) -> None:
    assert 0.92 <= cover_bootstrap(normal, n, 800) <= 0.98
    assert 0.92 <= cover_bootstrap(hack_rates, n, 800) <= 0.98
    assert cover_bootstrap(counts, n, 800) >= 0.92


@pytest.mark.parametrize("problems", [20, 60])
def test_coverage_of_the_clustered_bootstrap(problems: int) -> None:
    clustered, naive = cover_clusters(problems, 400, resamples=200)
    assert 0.90 <= clustered <= 0.99 and naive < 0.80


@pytest.mark.parametrize("n", [4, 8, 16])
def test_size_of_tost_at_the_margin(n: int) -> None:
    assert 0.03 <= tost_size(n, 3000) <= 0.065
    assert tost_size(n, 1000, sd=0.5) <= 0.05  # too noisy to show anything: it stays silent


def test_family_wise_error_of_holm() -> None:
    corrected, raw = holm_error(8, 1500)
    assert corrected <= 0.065 and raw > 0.12
    assert holm_error(8, 1500, real=4)[0] <= 0.065


def main() -> None:
    """Print the coverages of docs/method.md."""
    for n in (4, 8, 16):
        for draw in (normal, hack_rates, counts):
            t, boot = cover_t(draw, n, 20_000), cover_bootstrap(draw, n, 10_000, 999)
            print(f"n={n} {draw.__name__}: t {t:.3f}, studentised bootstrap {boot:.3f}", flush=True)
        print(f"n={n} TOST at the margin: {tost_size(n, 20_000):.4f}")
        print(f"n={n} Holm, 8 null arms: {holm_error(n, 10_000)}", flush=True)
    for problems in (20, 40, 60):
        print(f"{problems} problems, (clustered, Wilson): {cover_clusters(problems, 3000, 1000)}")


if __name__ == "__main__":
    main()


def test_fiellers_interval_holds_the_ratios_that_a_t_test_does_not_reject() -> None:
    rng = np.random.default_rng(0)
    b = 2.0 + 0.3 * rng.standard_normal(8)
    a = 0.6 * b + 0.2 * rng.standard_normal(8)
    e = ratio_of_means(a, b)
    for ratio, inside in ((e.low + 1e-6, True), (e.high - 1e-6, True), (e.low - 1e-3, False)):
        assert (paired_difference(a, ratio * b).p_value > 0.05) == inside
    assert e.low < e.estimate < e.high and e.estimate == pytest.approx(a.mean() / b.mean())
    wide = ratio_of_means(a, b - b.mean())
    assert (wide.low, wide.high) == (-np.inf, np.inf)


def test_fiellers_interval_covers_as_it_says_at_eight_pairs() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        b = 1.0 + 0.3 * rng.standard_normal(8)
        e = ratio_of_means(0.6 + 0.3 * rng.standard_normal(8), b)
        held += e.low <= 0.6 <= e.high
    assert 0.92 <= held / 400 <= 0.98
