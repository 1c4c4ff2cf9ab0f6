"""Arms at equal L0, and at equal FLOP: by hand-computed cases; which arm an SAE is of; what a page says."""

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmsae_ray.distill.reports import CycleReport
from dmsae_ray.evaluation import QUALITY
from dmsae_ray.plan.trials import CycleSetting, Setting, TransferSetting, Trial
from dmsae_ray.report.budgets import equal_flop_notes
from dmsae_ray.report.card_numbers import quality_part
from dmsae_ray.report.equal_l0 import compare, interpolate
from dmsae_ray.report.evaluated import Arm, Evaluated, EvaluatedSAE
from dmsae_ray.report.measured_quality import Quality
from dmsae_ray.report.paired import holm
from dmsae_ray.report.published_sae import PublishedSAE
from dmsae_ray.report.quality_metrics import limit_of, scale_of
from dmsae_ray.report.quality_page import quality_findings, write_quality
from dmsae_ray.results.trial import ChainResult, TrialResult
from dmsae_ray.saebench import SUITE

LOSS = "core/ce_loss_score"


def report(arm: str, l0: float, *, core: int = 5, cycle: int = 3, key: str = "", flops: float = 10.0) -> CycleReport:
    return CycleReport(
        cycle=cycle,
        arm=arm,
        key=key or f"{arm}-{l0}-{core}-{cycle}",
        seed=0,
        n_core_in=core,
        n_core=5,
        pool=20,
        carried=None,
        carryover=None,
        chance=None,
        new=None,
        jaccard=None,
        core_share=None,
        collapsed=None,
        tokens=100,
        flops=flops,
        seconds=1.0,
        cached=False,
        metrics={"l0": l0},
    )


def sae(setting: Setting, seed: int, one: CycleReport, value: float, sweep: str = "", **more: float) -> EvaluatedSAE:
    result = TrialResult(Trial(setting, seed, 0), (one,))
    return EvaluatedSAE(result, one, sweep, {LOSS: value, **more})


def transferred(arm: str, k: int, seed: int, l0: float, value: float, sweep: str = "") -> EvaluatedSAE:
    core = 0 if arm == "baseline" else 5
    one = report(arm, l0, core=core, key=f"{arm} {k} {seed} {sweep}")
    return sae(TransferSetting(k, arm, "dense"), seed, one, value, sweep)  # type: ignore[arg-type]


def test_values_between_two_points_are_linear_in_log_l0() -> None:
    curve = [(4.0, 0.80), (16.0, 0.90), (64.0, 0.94)]
    assert interpolate(curve, 8.0) == pytest.approx(0.85)
    assert interpolate(curve, 32.0) == pytest.approx(0.92)
    assert interpolate(curve, 16.0) == pytest.approx(0.90)
    # Nothing is extrapolated, but a twentieth beyond the ends counts as the end.
    assert (interpolate(curve, 3.9), interpolate(curve, 65.0)) == (0.80, 0.94)
    assert (interpolate(curve, 3.0), interpolate(curve, 70.0), interpolate([], 8.0)) == (None, None, None)
    assert interpolate([(8.0, 0.5)], 8.2) == 0.5


def test_a_point_of_l0_0_is_not_interpolated_from() -> None:
    # An SAE that never fires has no log L0: nothing is known between it and the next one.
    assert interpolate([(0.0, 0.5), (20.0, 0.7)], 10.0) is None
    assert interpolate([(0.0, 0.5), (20.0, 0.7)], 19.5) == 0.7
    assert interpolate([(0.0, 0.5), (8.0, 0.6), (32.0, 0.7)], 16.0) == pytest.approx(0.65)
    assert interpolate([(0.0, 0.5)], 0.0) is None and interpolate([(0.0, 0.5)], 1.0) is None
    # So a rival that never fires at its lowest k takes an SAE of a low L0 out of the comparison.
    saes = [transferred("distilled", 4, seed, 8.0, 0.8 + 1e-4 * seed) for seed in range(3)]
    saes += [transferred("baseline", k, seed, l0, 0.5) for seed in range(3) for k, l0 in ((4, 0.0), (16, 16.0))]
    (one,) = compare(Evaluated(saes), [LOSS])
    assert one.compared == (0, 3) and one.difference.n == 0


@given(
    points=st.lists(st.tuples(st.floats(0.5, 500), st.floats(-1, 1)), min_size=2, max_size=6, unique_by=lambda p: p[0]),
    share=st.floats(0, 1),
)
def test_an_interpolated_value_lies_between_its_neighbours(points: list[tuple[float, float]], share: float) -> None:
    curve = sorted(points)
    l0 = curve[0][0] + share * (curve[-1][0] - curve[0][0])
    found = interpolate(curve, l0)
    assert found is not None
    below = max(i for i, (x, _) in enumerate(curve) if x <= l0) if l0 >= curve[0][0] else 0
    two = [y for _, y in curve[below : below + 2]]
    assert min(two) - 1e-9 <= found <= max(two) + 1e-9


def baseline_and_core(gain: float, seeds: int = 3) -> list[EvaluatedSAE]:
    """A baseline whose value is 0.5 + 0.1 log2(L0), and a core that is `gain` above it at an L0 of its own."""
    found = []
    for seed in range(seeds):
        noise = 0.001 * seed
        found += [
            transferred("baseline", k, seed, l0, 0.5 + 0.1 * math.log2(l0) + noise) for k, l0 in ((4, 4), (16, 16))
        ]
        found.append(transferred("distilled", 4, seed, 8.0, 0.8 + gain + noise + 1e-4 * seed))
    return found


def test_what_is_due_to_l0_alone_is_no_gain() -> None:
    # At k = 4 the core is 0.1 above the baseline of the same k; all of that is its L0.
    (one,) = [c for c in compare(Evaluated(baseline_and_core(0.0)), [LOSS]) if c.rival.core == "baseline"]
    assert one.difference.mean == pytest.approx(1e-4, abs=1e-6) and one.compared == (3, 3)
    assert one.verdict == "" and one.flops == (pytest.approx(1.0), pytest.approx(math.nan, nan_ok=True))
    (better,) = compare(Evaluated(baseline_and_core(0.05)), [LOSS])
    assert better.difference.mean == pytest.approx(0.05 + 1e-4, abs=1e-6) and better.verdict == "better"
    (worse,) = compare(Evaluated(baseline_and_core(-0.05)), [LOSS])
    assert worse.verdict == "worse"
    assert quality_findings(baseline_and_core(0.05)) == [
        "At equal L0, distilled core, dense against no core: better in loss recovered +0.050* [+0.050, +0.050] (n = 3)."
    ]


def test_two_seeds_show_nothing() -> None:
    (line,) = quality_findings(baseline_and_core(0.05, seeds=2))
    assert line.endswith("n = 2, too few to show a difference in any of 1 numbers.")


def test_an_sae_outside_the_rival_s_l0_is_not_compared() -> None:
    saes = [*baseline_and_core(0.05), *(transferred("distilled", 64, seed, 60.0, 0.2) for seed in range(3))]
    (one,) = compare(Evaluated(saes), [LOSS])
    assert one.compared == (3, 6) and one.difference.mean == pytest.approx(0.05 + 1e-4, abs=1e-6)
    (far,) = compare(Evaluated([s for s in saes if s.arm.core == "baseline" or s.k == 64]), [LOSS])
    assert far.compared == (0, 3) and far.difference.n == 0
    (line,) = quality_findings([s for s in saes if s.arm.core == "baseline" or s.k == 64])
    assert line.endswith("no core: nothing to compare, since no SAE has an L0 that the rival's SAEs reach.")


def test_several_bearing_cores_are_the_replicas() -> None:
    saes = []
    for sweep, gain in (("one", 0.02), ("two", 0.03), ("three", 0.04)):
        for seed in (0, 1):
            saes += [transferred("baseline", k, seed, k, 0.5 + 0.1 * math.log2(k), sweep) for k in (4, 16)]
            saes.append(transferred("distilled", 4, seed, 8.0, 0.8 + gain + (0.01 if seed else -0.01), sweep))
    evaluated = Evaluated(saes)
    (one,) = compare(evaluated, [LOSS])
    # Six SAEs, but three cores: the seeds of a core count as one, by their mean.
    assert one.difference.n == 3 and sorted(one.difference.values) == pytest.approx([0.02, 0.03, 0.04])
    assert evaluated.estimate(Arm("distilled", "dense"), 4, LOSS).n == 3
    assert evaluated.estimate(Arm("distilled", "dense"), 4, LOSS).mean == pytest.approx(0.83)


def test_which_arm_an_sae_is_of() -> None:
    setting = CycleSetting(8, 0.5, "dense")
    first, last = report("distilled", 8.0, core=0, cycle=0, flops=7), report("distilled", 20.0, cycle=1, flops=9)
    control = report("gaussian", 22.0, cycle=1)
    result = TrialResult(Trial(setting, 1, 0), (first, last), {"gaussian": control})
    arms = [EvaluatedSAE(result, one).arm for one in (first, last, control)]
    assert arms == [Arm("baseline"), Arm("distilled", "dense", "τ = 0.5"), Arm("gaussian", "dense", "τ = 0.5")]
    assert [arm.label for arm in arms] == ["no core", "distilled core, dense, τ = 0.5", "gaussian core, dense, τ = 0.5"]
    assert EvaluatedSAE(result, last).whole_flops == 16
    chain = tuple(report("gaussian_chain", 22.0, cycle=cycle, flops=10 * cycle) for cycle in (1, 2))
    ran = TrialResult(result.trial, (first, last), chains={"gaussian": ChainResult(chain, (3, 2, 1))})
    assert [EvaluatedSAE(ran, one).whole_flops for one in chain] == [17, 37]  # cycle 0, and the chain's own
    assert EvaluatedSAE(ran, chain[0]).arm.label == "gaussian chain core, dense, τ = 0.5"
    assert Evaluated(EvaluatedSAE(result, one) for one in (control, first, last)).arms == [arms[1], arms[0], arms[2]]


def test_baselines_of_another_budget_are_a_rival_of_their_own() -> None:
    saes = baseline_and_core(0.05)
    longer = TransferSetting(4, "baseline", "dense", 9.0)
    for seed in range(3):
        own = report("baseline", 8.0, core=0, key=f"longer {seed}", flops=90.0)
        saes.append(sae(longer, seed, own, 0.9 + 0.001 * seed + 2e-4 * seed))
    one, nine = (c for c in compare(Evaluated(saes), [LOSS]) if c.equal_flop is None)
    assert (one.rival.label, nine.rival.label) == ("no core", "no core, 9 times the tokens")
    assert one.difference.mean == pytest.approx(0.05 + 1e-4, abs=1e-6)
    assert nine.difference.mean == pytest.approx(0.85 - 0.9 - 1e-4, abs=1e-6) and nine.verdict == "worse"
    assert (one.flops[0], nine.flops[0]) == (pytest.approx(1.0), pytest.approx(1 / 9))
    assert math.isnan(one.flops[1]) and math.isnan(nine.flops[1])
    # With a core of 5 trainings, that of the cycles is known.
    known = [replace(s, result=replace(s.result, core_trainings=5)) if s.arm.core == "distilled" else s for s in saes]
    ratios = [found.flops for found in compare(Evaluated(known), [LOSS]) if found.equal_flop is None]
    assert ratios == [(pytest.approx(1.0), pytest.approx(6.0)), (pytest.approx(1 / 9), pytest.approx(6 / 9))]


def test_the_cycle_0_that_coverages_share_counts_once() -> None:
    shared = report("distilled", 8.0, core=0, cycle=0, key="shared")
    saes = [sae(CycleSetting(8, tau, "dense"), 0, shared, 0.9) for tau in (0.3, 0.6)]
    assert Evaluated(saes).estimate(Arm("baseline"), 8, LOSS).n == 1


def test_the_page_has_every_number(tmp_path: Path) -> None:
    saes = baseline_and_core(0.05)
    page = write_quality(saes, tmp_path, name="a <sweep>")
    html = page.read_text()
    assert "a &lt;sweep&gt;" in html and "loss recovered" in html and "+0.050*" in html
    tree = json.loads((tmp_path / "quality.json").read_text())
    assert [row["metrics"] for row in tree["saes"]] == [dict(s.metrics) for s in saes]
    assert [(row["is"], row["compared"]) for row in tree["at_equal_l0"]] == [("better", [3, 3])]
    assert (tmp_path / "figures" / "quality_core.png").stat().st_size > 10_000
    lines = (tmp_path / "figures" / "quality_core.csv").read_text().splitlines()
    assert len(lines) == 1 + 3 and lines[1].startswith('"distilled core, dense",4,core/ce_loss_score,8,')


def test_a_seed_whose_rival_is_missing_is_counted_as_not_compared() -> None:
    saes = [s for s in baseline_and_core(0.05, seeds=4) if s.seed != 3 or s.arm.core != "baseline"]
    (one,) = compare(Evaluated(saes), [LOSS])
    assert one.compared == (3, 4) and one.difference.n == 3
    # A number that the rival's SAEs do not have at all is no comparison.
    assert compare(Evaluated([s for s in saes if s.arm.core != "baseline"]), [LOSS]) == []


def test_sweeps_that_share_saes_say_so(tmp_path: Path) -> None:
    # Transfers of three cores in one output: what is trained without a core is one SAE for all of them.
    baselines = [transferred("baseline", k, 0, k, 0.5 + 0.1 * math.log2(k)) for k in (4, 16)]
    saes = []
    for sweep, gain in (("one", 0.02), ("two", 0.03), ("three", 0.04)):
        saes += [replace(s, sweep=sweep) for s in baselines]
        saes.append(transferred("distilled", 4, 0, 8.0, 0.8 + gain, sweep))
    page = write_quality(saes, tmp_path, name="three").read_text()
    assert "The sweeps share SAEs (4 stand in more than one): intervals over bearing cores hold how much cores" in page


def test_without_a_measured_l0_nothing_is_compared(tmp_path: Path) -> None:
    saes = [transferred(arm, 4, seed, math.nan, 0.5) for arm in ("baseline", "distilled") for seed in range(3)]
    assert quality_findings(saes) == []
    write_quality(saes, tmp_path, name="none")
    assert "0.500 (3 equal)" in (tmp_path / "quality.md").read_text()


def of_one(name: str, values: tuple[float, ...]) -> Evaluated:
    """SAEs around a core that have one number beside loss recovered."""
    setting = TransferSetting(4, "distilled", "dense")
    return Evaluated(
        sae(setting, seed, report("distilled", 8.0, key=str(seed)), 0.5, **{name: value})
        for seed, value in enumerate(values)
    )


def interval(name: str, *values: float) -> tuple[float, float]:
    found = of_one(name, values).estimate(Arm("distilled", "dense"), 4, name).interval
    assert found is not None
    return found


def test_the_interval_of_a_share_stays_between_0_and_1() -> None:
    # Mean 0.91, deviation 0.0964, standard error 0.0557; t with 2 degrees of freedom is 4.303: 0.91 +- 0.2395.
    values = (0.80, 0.95, 0.98)
    logit, reach = math.log(0.91 / 0.09), 4.302653 * math.sqrt((0.11**2 + 0.04**2 + 0.07**2) / 2 / 3) / (0.91 * 0.09)
    low, high = (1 / (1 + math.exp(-x)) for x in (logit - reach, logit + reach))
    assert interval("own/dead_share", *values) == pytest.approx((low, high), abs=1e-6) and high < 1 < 0.91 + 0.2395
    # What is recovered may be above 1, and below 0.
    assert interval("own/loss_recovered", *values) == pytest.approx((0.6705, 1.1495), abs=1e-4)
    # Cosines end at -1 and 1, amounts at 0 alone.
    assert interval("own/nearest_cosine", *values) == pytest.approx((0.6705, 1.0), abs=1e-4)
    assert interval("own/nearest_cosine", -0.1, 0.1, 0.3)[0] == pytest.approx(0.1 - 4.302653 * 0.2 / math.sqrt(3))
    assert interval("own/fvu", 0.1, 0.9, 1.1) == (0.0, pytest.approx(2.0145, abs=1e-4))
    assert interval("core/ce_loss_score", 0.1, 0.2, 0.9)[0] < 0


def test_the_card_has_the_intervals_of_the_page() -> None:
    values = dict(enumerate((0.80, 0.95, 0.98)))
    found = Quality({"own/dead_share": 0.8}, {seed: {"own/dead_share": value} for seed, value in values.items()})
    one = SimpleNamespace(quality=found, result=SimpleNamespace(trial=SimpleNamespace(seed=0)))
    assert "| 0.910 [0.352, 0.995] |" in quality_part(cast(PublishedSAE, one))  # by the arithmetic of the test above


def test_a_difference_of_shares_is_at_most_1() -> None:
    saes = []
    for seed, (own, other) in enumerate(((0.99, 0.01), (0.95, 0.02), (0.60, 0.30))):
        for arm, value in (("distilled", own), ("baseline", other)):
            one = transferred(arm, 4, seed, 8.0, value)
            saes.append(replace(one, metrics={n: value for n in ("own/dead_share", "own/nearest_cosine", LOSS)}))
    share, cosine, loss = compare(Evaluated(saes), ["own/dead_share", "own/nearest_cosine", LOSS])
    # Mean 0.7367, standard error 0.2185; beyond 1 there is no difference of shares, beyond 2 none of cosines.
    assert share.difference.mean == pytest.approx(0.73667, abs=1e-5) and share.difference.high == 1.0
    assert (cosine.difference.limit, loss.difference.limit) == (2.0, math.inf)
    assert loss.difference.high is not None and loss.difference.high > 1.5


def test_every_number_has_a_scale() -> None:
    from dmsae_ray.report import quality_metrics as groups

    every = [groups._AMOUNTS, groups._SHARES, groups._COSINES, groups._REAL]
    named = {"l0", *(f"own/{name.name}" for name in QUALITY)}
    named |= {f"{evaluation}/{shown.name}" for evaluation, one in SUITE.items() for shown in one.shown}
    assert sum(map(len, every)) == len(named) and frozenset().union(*every) == named
    cosines = ("own/nearest_cosine", "core/cossim", "core/average_max_decoder_cosine_sim")
    assert {scale_of(name) for name in cosines} == {"difference"}
    assert (scale_of("own/kl"), scale_of("core/frac_alive"), scale_of("another")) == ("amount", "share", "real")
    assert (limit_of("core/frac_alive"), limit_of("core/cossim"), limit_of("own/fvu")) == (1.0, 2.0, math.inf)
    # Shares by name are shares, and what can be negative is not among them.
    meanings = {f"own/{name.name}": name.meaning for name in QUALITY}
    shares = {name for name, meaning in meanings.items() if meaning.startswith("share of ")}
    assert shares - groups._SHARES == {"own/loss_recovered", "own/loss_recovered_from_mean"}


def budgets_and_core(made_by: int | None, budgets: tuple[float, ...] = (1, 9), seeds: int = 3) -> list[EvaluatedSAE]:
    """SAEs around a core at an L0 of 8, and without one at L0 4 and 16; a budget costs 10 FLOP and adds 0.1 log9.

    At L0 8 and budget b an SAE without a core has 0.8 + 0.1 log9(b); that around the core has 0.9.
    """
    found = []
    for seed in range(seeds):
        noise = 0.001 * seed
        for b in budgets:
            for k in (4, 16):
                one = report("baseline", k, core=0, key=f"{b} {k} {seed}", flops=10.0 * b)
                value = 0.5 + 0.1 * math.log2(k) + 0.1 * math.log(b, 9) + noise
                found.append(sae(TransferSetting(k, "baseline", "dense", b), seed, one, value))
        own = transferred("distilled", 4, seed, 8.0, 0.9 + noise + 1e-4 * seed)
        found.append(replace(own, result=replace(own.result, core_trainings=made_by)))
    return found


def test_rivals_of_several_budgets_are_interpolated_to_equal_flop() -> None:
    # A core of 2 trainings: an SAE around it costs 10, with them 30, half way from 10 to 90 in log FLOP: 0.85.
    found = compare(Evaluated(budgets_and_core(2)), [LOSS])
    assert [(c.rival_label, c.compared) for c in found] == [
        ("no core", (3, 3)),
        ("no core, 9 times the tokens", (3, 3)),
        ("no core, at equal FLOP", (3, 3)),
        ("no core, at equal FLOP with the core's trainings", (3, 3)),
    ]
    assert [c.difference.mean for c in found] == pytest.approx([0.1001, 0.0001, 0.1001, 0.0501])
    assert found[2].flops == (pytest.approx(1.0), pytest.approx(3.0))
    assert found[3].flops == (pytest.approx(1 / 3), pytest.approx(1.0))
    assert [c.verdict for c in found] == ["better", "", "better", "better"]
    # What costs 10 is budget 1 itself: its test stands twice in the table, and counts once in the correction.
    tests = [found[i].difference for i in (0, 1, 3)]
    assert [found[i].difference for i in (0, 1, 3)] == holm(tests) and found[2].difference == found[0].difference
    assert tests[0].low != holm([c.difference for c in found])[0].low


def test_the_flop_are_those_of_the_rival_at_the_l0() -> None:
    # Of budget 9, the SAE of L0 4 cost 80 and that of L0 16 cost 180: at 8, half way in log L0, an SAE costs 130.
    saes = []
    for one in budgets_and_core(None):
        flops = one.report.flops if one.report.flops < 50 else {4: 80.0, 16: 180.0}[one.k]
        own = replace(one.report, flops=math.sqrt(10 * 130) if one.arm.core == "distilled" else flops)
        saes.append(replace(one, report=own, result=replace(one.result, reports=(own,))))
    found = compare(Evaluated(saes), [LOSS])
    assert [c.equal_flop for c in found] == [None, None, "own"]
    assert found[2].difference.mean == pytest.approx(0.9001 - 0.85)


def test_flop_that_no_budget_reaches_are_not_compared_and_the_page_says_which_would(tmp_path: Path) -> None:
    def labels(saes: list[EvaluatedSAE]) -> list[str]:
        return [c.rival_label for c in compare(Evaluated(saes), [LOSS])]

    def notes(saes: list[EvaluatedSAE]) -> list[str]:
        return equal_flop_notes(Evaluated(saes))

    budgets = ["no core", "no core, 9 times the tokens"]
    exact = [*budgets, "no core, at equal FLOP", "no core, at equal FLOP with the core's trainings"]
    assert labels(budgets_and_core(8)) == exact and notes(budgets_and_core(8)) == []
    # 10 times is 11% beyond 9: nothing is extrapolated.
    assert labels(budgets_and_core(9)) == exact[:3]
    said = "Not every SAE around a distilled core has a rival without a core at equal FLOP with the core's trainings: "
    would = "a transfer of the core with transfer.baseline_budgets: {} would train it."
    assert notes(budgets_and_core(9)) == [said + would.format("[1, 9, 10]")]
    # One budget alone is at equal FLOP already: no row repeats it.
    alone = budgets_and_core(4, (1,))
    assert labels(alone) == ["no core"] and notes(alone) == [said + would.format("[1, 5]")]
    page = write_quality(alone, tmp_path, name="one").read_text()
    assert "transfer.baseline_budgets: [1, 5]" in page and "no core, at equal FLOP" not in page
    # Where the trainings of the core are not known, that is said.
    assert labels(budgets_and_core(None)) == exact[:3]
    (unknown,) = notes(budgets_and_core(None))
    assert unknown.startswith("How many trainings made the core is not known")
    # Budgets that are all too long, and both lacks together.
    both = said.replace("at equal FLOP", "at equal FLOP or at equal FLOP", 1)
    assert labels(budgets_and_core(9, (3, 9))) == [f"no core, {b} times the tokens" for b in (3, 9)]
    assert notes(budgets_and_core(9, (3, 9))) == [both + would.format("[1, 3, 9, 10]")]


def test_an_sae_whose_flop_or_l0_no_budget_reaches_is_counted_as_not_compared() -> None:
    saes = budgets_and_core(2)
    saes += [transferred("distilled", 64, seed, 60.0, 0.2) for seed in range(3)]  # its trainings are not known either
    found = {c.rival_label: c for c in compare(Evaluated(saes), [LOSS])}
    for equal in ("at equal FLOP", "at equal FLOP with the core's trainings"):
        assert found[f"no core, {equal}"].compared == (3, 6)
    # Of a core of 8 trainings they are those of budget 9, yet of other SAEs: a test of its own.
    more = [transferred("distilled", 8, seed, 15.0, 0.95 + 1e-4 * seed) for seed in range(3)]
    rows = {c.rival_label: c for c in compare(Evaluated([*budgets_and_core(8), *more]), [LOSS])}
    whole, nine = rows["no core, at equal FLOP with the core's trainings"], rows["no core, 9 times the tokens"]
    assert (whole.compared, nine.compared) == ((3, 6), (6, 6))
    assert whole.difference.mean == pytest.approx(0.0001) and nine.difference.mean < -0.01
    # A budget that was trained with one seed of three brings a replica alone.
    fewer = [s for s in budgets_and_core(2) if s.arm.budget == 1 or s.seed == 0]
    one = next(c for c in compare(Evaluated(fewer), [LOSS]) if c.equal_flop == "whole")
    assert one.compared == (1, 3) and one.difference.values == (pytest.approx(0.05),)


def test_the_cycles_of_a_sweep_have_one_budget() -> None:
    saes = []
    for seed in range(3):
        cycles = tuple(
            report("distilled", 8.0, core=5 * min(cycle, 1), cycle=cycle, key=f"{seed} {cycle}") for cycle in range(4)
        )
        result = TrialResult(Trial(CycleSetting(8, 0.5, "dense"), seed, 0), cycles)
        saes += [EvaluatedSAE(result, one, "", {LOSS: 0.5 + 0.01 * one.cycle}) for one in cycles]
    assert all(c.rival_label == "no core" for c in compare(Evaluated(saes), [LOSS]))
    # The last of them costs four trainings; what the earlier ones need lies between.
    (line,) = equal_flop_notes(Evaluated(saes))
    assert line.endswith(
        "with the core's trainings: a transfer of the core with transfer.baseline_budgets: [1, 4] would train it."
    )


def test_the_rows_at_equal_flop_are_in_the_files(tmp_path: Path) -> None:
    html = write_quality(budgets_and_core(2), tmp_path, name="flop").read_text()
    assert "no core, at equal FLOP with the core&#x27;s trainings: better in loss recovered +0.050*" in html
    rows = json.loads((tmp_path / "quality.json").read_text())["at_equal_l0"]
    assert [row["equal_flop"] for row in rows] == [None, None, "own", "whole"]
    assert rows[3]["rival"] == "no core, at equal FLOP with the core's trainings"
    assert (rows[3]["flops"], rows[3]["flops_with_cycles"]) == (pytest.approx(1 / 3), pytest.approx(1.0))
