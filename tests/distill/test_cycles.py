import dataclasses
import json
import os

import pytest
import torch

from dmsae_ray.distill import cycle_runner
from dmsae_ray.distill.attribution import attribution_scores
from dmsae_ray.distill.controls import CONTROLS
from dmsae_ray.distill.core import Core, load_core, save_core
from dmsae_ray.distill.core_transfer import transfer
from dmsae_ray.distill.cycle_runner import CycleCheckpoint, CycleRunner
from dmsae_ray.distill.cycle_settings import cycle_key
from dmsae_ray.distill.cycle_store import DirectoryCycleStore, scores_file
from dmsae_ray.distill.lineage import LineageId, Origin
from dmsae_ray.distill.matching import shared_rows
from dmsae_ray.distill.seeds import derive_seed
from dmsae_ray.errors import ConfigError, DataError
from dmsae_ray.sae.dictionary import MatryoshkaSAE

from . import reference
from .synthetic import BATCH, STEPS, D, Synthetic, run, small_settings


def same_cores(a, b):
    assert len(a.cores) == len(b.cores)
    for one, other in zip(a.cores, b.cores, strict=True):
        assert torch.equal(one.rows, other.rows)
        assert one.lineage == other.lineage


def weights_of(sae):
    return [t.detach().double().numpy() for t in (sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec, sae.threshold)]


@pytest.fixture(scope="module")
def plain():
    return run()


def test_every_cycle_hands_on_a_core_and_its_frozen_rows_are_bit_identical(tmp_path):
    store = DirectoryCycleStore(tmp_path)
    history = run(store=store)
    assert [r.cycle for r in history.reports] == [0, 1, 2]
    assert history.collapsed_at is None
    for cycle in (1, 2):
        before = history.cores[cycle - 1]
        assert 0 < len(before) < history.reports[cycle].pool
        sae = store.load(history.reports[cycle].key).sae
        assert sae.n_core == len(before)
        assert torch.equal(sae.W_enc[: len(before)], before.rows)


def test_two_runs_give_the_same_cores(plain):
    same_cores(plain, run())


def test_another_seed_gives_other_cores(plain):
    assert not torch.equal(run(seed=4).cores[0].rows[:1], plain.cores[0].rows[:1])


def test_the_run_agrees_with_the_reference_on_scores_selection_and_lineage(tmp_path):
    store, source = DirectoryCycleStore(tmp_path), Synthetic()
    history = run(source, store=store, cycles=3)
    x, g = (t.double().numpy() for t in source.attribution())
    by_bytes = reference.Lineage()
    for record, core in zip(history.reports, history.cores, strict=True):
        outcome = store.load(record.key)
        sae = outcome.sae
        scores = reference.attribution(*weights_of(sae), x, g, record.pool, 0.9)
        torch.testing.assert_close(outcome.scores, torch.tensor(scores, dtype=torch.float64), rtol=1e-4, atol=1e-6)
        middle, sets = len(x) // 2, []
        for number, rows in enumerate((slice(0, middle), slice(middle, None))):
            half = store.load_scores(record.key, {**outcome.scoring, "half": number})
            scores = reference.attribution(*weights_of(sae), x[rows], g[rows], record.pool, 0.9)
            torch.testing.assert_close(half, torch.tensor(scores, dtype=torch.float64), rtol=1e-4, atol=1e-6)
            sets.append(set(reference.select(half.tolist(), 0.9)))
        assert record.retest == 2 * len(sets[0] & sets[1]) / (len(sets[0]) + len(sets[1]))
        chosen = reference.select(outcome.scores.tolist(), 0.9)
        assert torch.equal(core.rows, sae.W_enc.detach()[chosen])
        by_bytes.add(core.rows.numpy())
        if record.cycle:
            assert record.carried == by_bytes.carried(record.cycle)
            assert record.new == record.n_core - record.carried
            assert record.chance == record.n_core / record.pool
        assert record.tokens == STEPS * BATCH and record.flops > 0
        assert record.metrics["l0"] == pytest.approx(record.metrics["l0_core"] + record.metrics["l0_non_core"])
    assert len(history.distilled) > 0
    assert [r.tobytes() for r in history.distilled.rows.numpy()] == by_bytes.distilled()
    survivors = history.survival()
    for birth in range(4):
        assert survivors.get(birth, [0] * (4 - birth)) == by_bytes.survivors(birth)


def test_trials_that_differ_in_coverage_share_cycle_0(tmp_path):
    store = DirectoryCycleStore(tmp_path)
    first, second = Synthetic(), Synthetic()
    one = run(first, store=store)
    two = run(second, store=store, coverage=0.6)
    assert first.served == 3 * STEPS
    assert second.served == 2 * STEPS
    assert [r.cached for r in two.reports] == [True, False, False]
    assert one.reports[0].key == two.reports[0].key
    assert 0 < len(two.cores[0]) < len(one.cores[0])
    same_cores(two, run(coverage=0.6))


def test_a_finished_run_is_found_and_told_again(tmp_path, plain):
    store, source = DirectoryCycleStore(tmp_path), Synthetic()
    fresh, again = [], []
    run(source, store=store, on_window=fresh.append, window_steps=16)
    found = run(source, store=store, on_window=again.append, window_steps=16)
    assert source.served == 3 * STEPS
    same_cores(found, plain)
    assert all(w.cached for w in again) and not any(w.cached for w in fresh)
    assert [dataclasses.replace(w, cached=False) for w in again] == fresh
    assert [w.step for w in fresh[:3]] == [16, 32, 40]
    assert [w.tokens for w in fresh[:4]] == [16 * BATCH, 32 * BATCH, 40 * BATCH, 56 * BATCH]
    assert found.sae is not None


def test_a_stored_cycle_is_scored_again_when_only_the_scoring_differs(tmp_path):
    store, source = DirectoryCycleStore(tmp_path), Synthetic()
    run(source, store=store)
    changed = small_settings(quantile=0.95, pool_groups=2)
    history = run(source, changed, store=store, coverage=0.4)
    assert history.reports[0].cached
    assert history.reports[0].pool == 32
    same_cores(history, run(settings=changed, coverage=0.4))


def test_each_cycle_may_be_scored_on_its_own_part_of_the_attribution_set(tmp_path):
    """Written out: part l of the pairs alone gives the scores of cycle l, and stored cycles are not mixed up."""
    source = Synthetic()
    x, g = source.attribution()
    kept = DirectoryCycleStore(tmp_path)
    changed = small_settings(attribution_parts=3)
    history = run(source, changed, store=kept)
    for report in history.reports:
        sae = kept.load(report.key).sae
        part = slice(len(x) * report.cycle // 3, len(x) * (report.cycle + 1) // 3)
        alone = attribution_scores(sae, x[part], g[part], changed.quantile)
        torch.testing.assert_close(kept.load(report.key).scores, alone, rtol=0, atol=0)
        assert not torch.equal(alone, attribution_scores(sae, x, g, changed.quantile))
    # By all pairs, the stored cycle 0 gets other scores, beside the first ones.
    same_cores(run(source, store=kept), run(source))
    same_cores(run(source, changed, store=kept), history)


@pytest.mark.parametrize("parts", [2, 3])
def test_the_intersection_of_scores_is_the_lowest_of_the_parts(tmp_path, parts):
    source, kept = Synthetic(), DirectoryCycleStore(tmp_path)
    x, g = source.attribution()
    changed = small_settings(intersect=parts)
    first = run(source, changed, store=kept).reports[0]
    trained = kept.load(first.key)
    cuts = [slice(len(x) * i // parts, len(x) * (i + 1) // parts) for i in range(parts)]
    each = [attribution_scores(trained.sae, x[part], g[part], changed.quantile) for part in cuts]
    expected = [min(values) for values in zip(*(one.tolist() for one in each), strict=True)]
    assert trained.scores.tolist() == expected


def test_a_core_size_selects_the_best_whatever_their_share(tmp_path):
    kept = DirectoryCycleStore(tmp_path)
    history = run(store=kept, core_size=5)
    assert [len(core) for core in history.cores] == [5, 5, 5]
    trained = kept.load(history.reports[0].key)
    best = sorted(range(12), key=lambda i: -float(trained.scores[i]))[:5]
    assert history.cores[0].rows.tolist() == trained.sae.W_enc[best].tolist()
    assert history.cores[0].provenance["core_size"] == 5


def test_a_stored_cycle_is_scored_once_by_each_scoring(tmp_path, monkeypatch):
    """Two sweeps that differ in q alone share the trainings, and neither takes the other's scores from the store."""
    scored = []
    whole = cycle_runner.pool_scores
    monkeypatch.setattr(cycle_runner, "pool_scores", lambda sae, *a, **o: scored.append(sae) or whole(sae, *a, **o))
    store, settings = DirectoryCycleStore(tmp_path), {q: small_settings(quantile=q) for q in (0.9, 0.95)}
    first = {q: run(settings=settings[q], store=store, cycles=1, coverage=1.0) for q in settings}
    once = 4  # by all tokens and by each half of them, and by mean_square
    assert len(scored) == 2 * 2 * once and first[0.95].reports[0].cached
    for q in settings:
        same_cores(run(settings=settings[q], store=store, cycles=1, coverage=1.0), first[q])
    assert len(scored) == 2 * 2 * once, "all are found"
    key = first[0.9].reports[0].key
    assert store.load(key).scoring["quantile"] == 0.9
    other = store.load_scores(key, settings[0.95].scoring())
    assert not torch.equal(other, store.load(key).scores)
    assert len(list(store.folder(key).glob("scores-*"))) == 2 * once - 1
    file = store.folder(key) / scores_file(settings[0.95].scoring())
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(DataError, match=r"is damaged .* delete it to score again"):
        run(settings=settings[0.95], store=store, cycles=1, coverage=1.0)


def test_a_selection_is_compared_with_that_of_mean_square(tmp_path):
    """By hand from the stored SAE: as many of the best by the mean of squares, and what both have."""
    store, source = DirectoryCycleStore(tmp_path), Synthetic()
    history = run(store=store, core_size=5)
    x, g = source.attribution()
    for report in history.reports:
        sae = store.load(report.key).sae
        a = (g @ (sae.W_dec / sae.W_dec.norm(dim=1, keepdim=True)).T).abs() * sae.encode(x)
        squares, own = (a**2).mean(dim=0)[: report.pool], a.quantile(0.9, dim=0)[: report.pool]
        both = set(squares.topk(5).indices.tolist()) & set(own.topk(5).indices.tolist())
        assert report.by_square == len(both) / 5
    settings = small_settings(score="mean_square")
    assert [r.by_square for r in run(settings=settings, store=store).reports] == [1.0, 1.0, 1.0]
    assert history.summary()["records"][0]["by_square"] == history.reports[0].by_square


@pytest.mark.parametrize("stop", [(0, 7), (0, 39), (1, 16), (2, 25)])
@pytest.mark.parametrize("stored", [True, False])
def test_stopping_at_any_step_and_resuming_gives_the_same_cores(tmp_path, plain, stop, stored):
    class Killed(Exception):
        pass

    def kill(checkpoint):
        torch.save(dataclasses.asdict(checkpoint), tmp_path / "checkpoint.pt")
        if (checkpoint.cycle, checkpoint.step) == stop:
            raise Killed

    store = DirectoryCycleStore(tmp_path / "store") if stored else None
    windows = []
    common = {"store": store, "on_window": windows.append, "window_steps": 9, "checkpoint_every_steps": 1}
    with pytest.raises(Killed):
        run(save_checkpoint=kill, **common)
    checkpoint = CycleCheckpoint(**torch.load(tmp_path / "checkpoint.pt", weights_only=True))
    assert (checkpoint.cycle, checkpoint.step) == stop
    source = Synthetic()
    history = run(source, resume=checkpoint, **common)
    same_cores(history, plain)
    assert torch.equal(history.sae.W_dec, plain.sae.W_dec)
    trained_again = 0 if stored else stop[0] * STEPS
    of_the_last_tenth = max(0, stop[1] - (STEPS - STEPS // 10))  # read again, to calibrate the threshold
    assert source.served == trained_again + 3 * STEPS - stop[0] * STEPS - stop[1] + of_the_last_tenth
    whole = []
    run(on_window=whole.append, window_steps=9)
    told = {(w.cycle, w.step): w.stats for w in windows}
    assert told == {(w.cycle, w.step): w.stats for w in whole}


def test_a_checkpoint_is_made_at_once_when_one_is_wanted(plain):
    taken, asked = [], []

    def wanted():
        asked.append(True)
        return len(asked) == 5

    history = run(save_checkpoint=taken.append, checkpoint_wanted=wanted, window_steps=STEPS)
    assert [(c.cycle, c.step) for c in taken] == [(0, 5 * (STEPS // 20))]
    assert len(asked) == 3 * 20
    same_cores(history, plain)
    same_cores(run(resume=taken[0]), plain)


def test_a_checkpoint_of_another_run_is_refused():
    taken = []
    run(save_checkpoint=taken.append, checkpoint_every_steps=30)
    with pytest.raises(ConfigError, match=r"resume: the checkpoint of cycle 0 \(distilled\) belongs to other settings"):
        run(seed=99, resume=taken[0])


def test_controls_are_trained_in_place_of_the_core_and_matched_in_norm(tmp_path):
    source, records = Synthetic(), []
    settings = small_settings(pool_groups=2)  # so that there are more other latents in the pool than in the core
    plain = run(settings=settings)
    history = run(source, settings, controls=CONTROLS, on_cycle=records.append, store=DirectoryCycleStore(tmp_path))
    same_cores(history, plain)
    assert source.served == (3 + len(CONTROLS)) * STEPS
    assert [(r.cycle, r.arm) for r in records[3:]] == [(2, name) for name in CONTROLS]
    for name in CONTROLS:
        control, record = history.control_cores[name], history.control_reports[name]
        norms = torch.ones(len(control)) if name == "gaussian_unit" else plain.cores[1].rows.norm(dim=1)
        torch.testing.assert_close(control.rows.norm(dim=1), norms, rtol=1e-5, atol=0)
        assert record.n_core_in == len(plain.cores[1])
        assert 0 <= record.carryover <= 1 and record.seed == plain.reports[2].seed
        sae = DirectoryCycleStore(tmp_path).load(record.key).sae
        assert torch.equal(sae.W_enc[: len(control)], control.rows)


def test_a_chain_is_a_run_from_a_control_in_place_of_the_first_core(tmp_path):
    """What a run with that control as its given core does: the same batches, seeds and selections."""
    source, records, names = Synthetic(), [], ("gaussian", "random_latents")
    settings, store = small_settings(pool_groups=2), DirectoryCycleStore(tmp_path)
    history = run(source, settings, chains=names, on_cycle=records.append, store=store)
    assert source.served == (3 + 2 * 2) * STEPS
    same_cores(history, run(settings=settings, store=store))
    assert [(r.cycle, r.arm) for r in records[3:]] == [(c, f"{name}_chain") for name in names for c in (1, 2)]
    for name in names:
        chain = history.chains[name]
        assert len(chain.cores) == 3 and len(chain.cores[0]) == len(history.cores[0])
        torch.testing.assert_close(chain.cores[0].rows.norm(dim=1), history.cores[0].rows.norm(dim=1))
        again = run(settings=settings, initial_core=Core(chain.cores[0].rows, chain.cores[0].lineage))
        same_cores(chain, again)
        assert [r.key for r in chain.reports] == [r.key for r in again.reports]
        first = set(chain.cores[0].lineage)
        assert chain.survivors == [len(first & set(core.lineage)) for core in chain.cores]
        assert history.summary()["chains"][name]["survivors"] == chain.survivors
    costs = [r.flops for r in records[3:]]
    assert history.control_flops == sum(costs) and history.flops == sum(r.flops for r in records[:3])
    chosen = set(history.reports[0].metrics) and history.chains["random_latents"].cores[0].provenance["latents"]
    assert not set(chosen) & {i.latent for i in history.cores[0].lineage}  # other latents of the same SAE


def test_a_control_without_enough_candidates_is_said():
    """All latents of the pool that fire are selected: no others are left to stand in their place."""
    history = run(coverage=1.0, controls=("gaussian", "random_latents"), chains=("random_latents",))
    assert set(history.control_reports) == {"gaussian"} and not history.chains
    said = history.summary()["left_out"]
    assert set(said) == {"random_latents", "random_latents_chain"}
    first, second = history.cores[:2]
    pools = [report.pool for report in history.reports]
    assert said["random_latents_chain"] == f"the pool of {pools[0]} has too few others for a core of {len(first)}"
    assert said["random_latents"] == f"the pool of {pools[1]} has too few others for a core of {len(second)}"
    assert run(chains=("gaussian",)).summary()["left_out"] == {}


@pytest.mark.parametrize("stored", [True, False])
def test_a_chain_that_is_stopped_goes_on(tmp_path, stored):
    class Killed(Exception):
        pass

    def kill(checkpoint):
        torch.save(dataclasses.asdict(checkpoint), tmp_path / "checkpoint.pt")
        if (checkpoint.arm, checkpoint.cycle, checkpoint.step) == ("gaussian_chain", 2, 17):
            raise Killed

    common = {"store": DirectoryCycleStore(tmp_path / "store") if stored else None, "chains": ("gaussian",)}
    with pytest.raises(Killed):
        run(save_checkpoint=kill, checkpoint_every_steps=1, **common)
    checkpoint = CycleCheckpoint(**torch.load(tmp_path / "checkpoint.pt", weights_only=True))
    source = Synthetic()
    history, whole = run(source, resume=checkpoint, **common), run(chains=("gaussian",))
    same_cores(history.chains["gaussian"], whole.chains["gaussian"])
    same_cores(history, whole)
    assert source.served == (0 if stored else 4 * STEPS) + STEPS - 17


def test_chains_of_one_cycle_are_the_controls_of_the_last():
    history = run(cycles=1, chains=("gaussian",), controls=("gaussian",))
    assert history.chains["gaussian"].reports[0].key == history.control_reports["gaussian"].key
    given = run(cycles=1, chains=("gaussian",), initial_core=history.cores[0])
    assert [r.key for r in given.chains["gaussian"].reports] == [r.key for r in history.chains["gaussian"].reports]


def test_a_chain_that_collapses_ends_alone(monkeypatch):
    """NaN in the batches of the chain only: the trial itself is whole."""

    class Breaks(Synthetic):
        def batches(self, start, stop):
            for x in super().batches(start, stop):
                yield x * (1e30 if self.served > 3 * STEPS else 1)

    history = run(Breaks(), chains=("gaussian",))
    assert history.collapsed_at is None and len(history.reports) == 3
    chain = history.chains["gaussian"]
    assert len(chain.reports) == 1 and chain.reports[0].collapsed and chain.survivors[-1] == 0


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (torch.full((12,), float("nan")), "scorer: latent 0 has score nan; scores must be finite and >= 0"),
        (torch.tensor([1.0] * 11 + [-1.0]), "scorer: latent 11 has score -1.0; scores must be finite and >= 0"),
        (torch.ones(3), "scorer: shape (3,) is not one score for each of 12 latents of the pool"),
    ],
)
def test_a_scorer_that_is_broken_is_no_collapse(scores, message):
    with pytest.raises(DataError) as error:
        run(scorer=lambda sae: scores)
    assert str(error.value) == message


def test_a_core_may_outgrow_the_last_group():
    history = run(settings=small_settings(group_sizes=(50, 8, 6)), coverage=1.0)
    assert len(history.cores[1]) > 6 and history.collapsed_at is None


@pytest.mark.parametrize("step", [0, 45])
def test_a_feed_that_is_not_finite_is_named(step, tmp_path):
    store = DirectoryCycleStore(tmp_path)
    with pytest.raises(DataError, match=f"activations: step {step} of the feed .cycle {step // STEPS}, distilled"):
        run(Synthetic(nan_at=step), store=store)
    assert len(list(tmp_path.iterdir())) == step // STEPS


def test_a_feed_that_ends_early_is_named():
    class Short(Synthetic):
        def batches(self, start, stop):
            return super().batches(start, min(stop, 50))

    with pytest.raises(DataError, match="the feed ends at step 50, cycle 1, distilled needs 80"):
        run(Short())


def test_evaluation_is_stored_with_the_cycle_and_added_where_it_is_missing(tmp_path):
    store, seen = DirectoryCycleStore(tmp_path), []

    def evaluate(sae):
        seen.append(sae.n_core)
        return {"fvu": 0.25}

    run(store=store)
    assert run(store=store, evaluate=evaluate).reports[1].metrics["fvu"] == 0.25
    assert len(seen) == 3
    assert run(store=store, evaluate=evaluate).reports[2].metrics["fvu"] == 0.25
    assert len(seen) == 3


def test_a_given_sae_is_cycle_0(tmp_path, plain):
    settings, source = small_settings(), Synthetic()
    sae = MatryoshkaSAE(D, 64, [12, 20, 32], 4, seed=5)
    history = run(source, initial_sae=sae, store=DirectoryCycleStore(tmp_path), controls=("most_frequent",))
    assert history.reports[0].tokens == 0
    assert source.served == 3 * STEPS
    rows = sae.W_enc.detach()
    assert all((rows == r).all(dim=1).any() for r in history.cores[0].rows)
    again = run(source, initial_sae=sae, store=DirectoryCycleStore(tmp_path), controls=("most_frequent",))
    assert again.reports[0].cached and source.served == 3 * STEPS
    assert history.cores[1].provenance["n_latents"] == settings.n_latents


def test_origins_tell_trainings_apart_and_a_given_sae_is_one_origin_for_all_seeds(plain):
    sae = MatryoshkaSAE(D, 64, [12, 20, 32], 4, seed=5)
    one, two = (run(seed=seed, initial_sae=sae) for seed in (3, 4))
    for history in (plain, one, two):
        keys = [report.key for report in history.reports]
        for core in history.cores:
            assert core.origins == tuple(Origin(keys[i.cycle], i.latent) for i in core.lineage)
        assert history.distilled.origins == tuple(Origin(keys[0], i.latent) for i in history.distilled.lineage)
    assert len(one.distilled) and len(two.distilled)
    assert all(bool(found.all()) for found in shared_rows(one.distilled, two.distilled)), "nothing is left to compare"
    assert len(one.cores[2]) > len(one.distilled)
    left = [~found for found in shared_rows(one.cores[2], two.cores[2])]
    born = [[i.cycle > 0 for i in core.lineage] for core in (one.cores[2], two.cores[2])]
    assert [found.tolist() for found in left] == born, "what each learned itself"
    assert not shared_rows(plain.distilled, one.distilled)[0].any()
    assert not any(plain.distilled.origins[0] in other.distilled.origins for other in (one, two))


def test_a_transfer_with_a_seed_that_bore_the_core_is_refused(plain, tmp_path):
    source = Synthetic()
    save_core(plain.distilled, tmp_path / "core.safetensors")
    with pytest.raises(ConfigError, match=r"^seed: 3 bore the core, whose own directions .* give another seed$"):
        transfer(CycleRunner(small_settings(), source), load_core(tmp_path / "core.safetensors"), seed=3)
    assert source.served == 0
    assert not plain.distilled.borne_by(4)
    given = run(seed=3, initial_sae=MatryoshkaSAE(D, 64, [12, 20, 32], 4, seed=5)).distilled
    assert len(given) and not given.borne_by(3), "no trial bore what was given"
    old = Core(plain.distilled.rows, plain.distilled.lineage, {"seed": 3})
    assert old.borne_by(3) and not Core(old.rows, old.lineage, {"seed": 3, "control": "gaussian"}).borne_by(3)


def test_a_run_from_a_core_with_the_seed_that_bore_its_later_rows_is_refused(plain):
    """Its cycle 1 would begin with the directions that rows of the core were learned from in cycle 1."""
    core = plain.cores[2]
    assert {i.cycle for i in core.lineage} > {0} and core.borne_by(3, since=1) and not core.borne_by(4, since=1)
    with pytest.raises(ConfigError, match=r"^seed: 3 learned rows of initial_core in cycles after .* another seed$"):
        run(initial_core=core, cycles=1)
    # Cycle 0 does not run again: its rows may go on with their seed.
    assert not plain.cores[0].borne_by(3, since=1) and run(initial_core=plain.cores[0], cycles=1).cores


def test_a_control_of_latents_knows_who_bore_it():
    """As a core to transfer it has directions of its seed too; Gaussian rows have none."""
    chains = run(settings=small_settings(pool_groups=2), chains=("random_latents", "gaussian")).chains
    control = chains["random_latents"].cores[0]
    assert control.borne_by(3) and not control.borne_by(4)
    assert not chains["gaussian"].cores[0].borne_by(3)
    with pytest.raises(ConfigError, match=r"^seed: 3 bore the core"):
        transfer(CycleRunner(small_settings(), Synthetic()), control, seed=3)


def test_what_is_measured_does_not_depend_on_who_scored_first(tmp_path):
    """Runs that score other parts of the attribution set share cycle 0: how often its latents fire is one thing."""
    found = []
    for order in ((1, 3), (3, 1)):
        store = DirectoryCycleStore(tmp_path / str(order))
        runs = {
            n: run(settings=small_settings(attribution_parts=n), store=store, controls=("most_frequent",))
            for n in order
        }
        assert runs[1].reports[0].key == runs[3].reports[0].key
        found.append(runs)
    for parts in (1, 3):
        one, other = (runs[parts] for runs in found)
        assert [(r.metrics, r.flops) for r in one.reports] == [(r.metrics, r.flops) for r in other.reports]
        assert one.control_reports["most_frequent"].key == other.control_reports["most_frequent"].key
        same_cores(one, other)


def test_a_given_core_stands_for_cycle_0(plain):
    core = Core(plain.cores[2].rows, plain.cores[2].lineage, {"from": "elsewhere"})
    source = Synthetic()
    history = run(source, initial_core=core, cycles=1, controls=("gaussian",))
    assert [r.cycle for r in history.reports] == [1]
    assert history.cores[0].lineage == tuple(LineageId(0, i) for i in range(len(core)))
    assert torch.equal(history.cores[0].rows, core.rows)
    assert source.served == 2 * STEPS
    with pytest.raises(ConfigError, match="lowest_score needs the SAE of initial_core"):
        run(initial_core=core, cycles=1, controls=("lowest_score",))


@pytest.mark.parametrize("sparsity", ["dense", "sparse"])
def test_transfer_trains_one_sae_around_a_fixed_core(plain, sparsity):
    settings = small_settings(core_sparsity=sparsity, k=8)
    result = transfer(CycleRunner(settings, Synthetic()), plain.distilled, seed=1)
    assert result.trained.sae.n_core == len(plain.distilled) > 0
    assert torch.equal(result.trained.sae.W_enc[: len(plain.distilled)], plain.distilled.rows)
    assert result.report.arm == "transfer" and result.report.carryover is not None


def test_the_baseline_of_a_transfer_is_cycle_0_of_the_same_seed(tmp_path, plain):
    store, source = DirectoryCycleStore(tmp_path), Synthetic()
    run(source, store=store)
    empty = Core(torch.empty(0, D), ())
    assert transfer(CycleRunner(small_settings(), source, store=store), empty, seed=3, arm="baseline").report.cached


def test_the_summary_is_json(plain):
    summary = json.loads(json.dumps(plain.summary()))
    assert summary["core_sizes"] == [len(c) for c in plain.cores]
    assert summary["distilled_size"] == len(plain.distilled)
    assert summary["tokens"] == 3 * STEPS * BATCH


def test_what_the_controls_cost_is_counted_apart(plain):
    """By hand: 12 d m FLOP a training token, and 2 d (m + 2 pool) a scored one."""
    history = run(controls=("gaussian",))
    training = 12 * D * 64 * STEPS * BATCH
    scoring = [2 * D * (64 + 2 * report.pool) * 600 for report in history.reports]
    assert history.flops == 3 * training + sum(scoring) == plain.flops
    assert history.tokens == 3 * STEPS * BATCH == 3 * history.control_tokens
    pool = history.control_reports["gaussian"].pool
    assert history.control_flops == training + 2 * D * (64 + 2 * pool) * 600
    summary = history.summary()
    assert (summary["flops"], summary["control_flops"]) == (history.flops, history.control_flops)
    assert plain.control_flops == 0


def test_all_groups_may_give_up_latents_to_the_core(plain):
    """The pool is the core and the first group, which then gives up its share."""
    history = run(settings=small_settings(core_takes="all_groups"), core_size=8, cycles=1)
    assert history.sae.n_core == 8 and history.sae.group_sizes == (11, 17, 28)  # 12, 20, 32 less 8: 10.6, 17.5, 27.9
    assert history.reports[1].pool == 19
    assert history.reports[0].key == plain.reports[0].key
    assert run(core_size=8, cycles=1).sae.group_sizes == (12, 20, 24)


def test_the_key_is_a_function_of_what_decides_the_training():
    settings, rows = small_settings(), torch.ones(2, D)
    base = cycle_key(settings, "f", rows, 1, 0)
    for scoring in ({"quantile": 0.5}, {"intersect": 2}, {"attribution_parts": 3}):
        assert base == cycle_key(small_settings(**scoring), "f", rows, 1, 0)
    # Without a core, a sparse one and a dense one are the same training.
    none = rows[:0]
    sparse = small_settings(core_sparsity="sparse", core_decoder_init="tied", core_takes="all_groups")
    assert cycle_key(settings, "f", none, 1, 0) == cycle_key(sparse, "f", none, 1, 0)
    other = [
        cycle_key(small_settings(k=5), "f", rows, 1, 0),
        cycle_key(small_settings(core_sparsity="sparse"), "f", rows, 1, 0),
        cycle_key(small_settings(core_takes="all_groups"), "f", rows, 1, 0),
        cycle_key(dataclasses.replace(settings, recipe=dataclasses.replace(settings.recipe, lr=1.0)), "f", rows, 1, 0),
        cycle_key(settings, "g", rows, 1, 0),
        cycle_key(settings, "f", rows * 2, 1, 0),
        cycle_key(settings, "f", rows[:1], 1, 0),
        cycle_key(settings, "f", rows, 2, 0),
        cycle_key(settings, "f", rows, 1, 40),
    ]
    assert len({base, *other}) == 10
    assert derive_seed(3, "cycle", 0) != derive_seed(3, "cycle", 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cycles": 0}, "cycles: 0 must be at least 1"),
        ({"coverage": 1.5}, "coverage: 1.5 is not in"),
        ({"core_size": 0}, "core_size: 0 must be at least 1"),
        ({"controls": ("gausian",)}, "controls: 'gausian' is unknown"),
        ({"chains": ("gausian",)}, "control_chains: 'gausian' is unknown"),
        ({"initial_core": Core(torch.ones(1, 5), (LineageId(0, 0),))}, "initial_core: width 5"),
        ({"initial_sae": MatryoshkaSAE(8, 64, [12, 20, 32], 4)}, "initial_sae: width 8"),
        ({"settings": small_settings(score="best")}, "score: 'best' is unknown"),
        ({"window_steps": 0}, "window_steps: 0"),
    ],
)
def test_arguments_that_cannot_work_are_refused_before_training(changes, message):
    source = Synthetic()
    with pytest.raises(ConfigError, match=message):
        run(source, **changes)
    assert source.served == 0


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(ConfigError, match=r"contradicts recipe\.steps"):
        dataclasses.replace(small_settings(), steps=7)
    with pytest.raises(ConfigError, match="pool_groups: 4 is not in"):
        small_settings(pool_groups=4)


def test_an_interrupt_leaves_whole_files_only(tmp_path, plain):
    class Interrupted(Synthetic):
        def batches(self, start, stop):
            for n, x in enumerate(super().batches(start, stop)):
                if start + n == STEPS + 11:
                    raise KeyboardInterrupt
                yield x

    store = DirectoryCycleStore(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(Interrupted(), store=store)
    assert [p.name for p in tmp_path.iterdir()] == [plain.reports[0].key]
    same_cores(run(store=store), plain)


def test_a_damaged_result_is_named(tmp_path):
    store = DirectoryCycleStore(tmp_path)
    key = run(store=store).reports[0].key
    file = store.folder(key) / "tensors.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(DataError, match="delete it to train the cycle again"):
        run(store=store)


def test_a_score_that_needs_more_than_the_attribution_set_is_brought_along(plain):
    def scorer(sae):
        return torch.arange(sae.pool_size(1), dtype=torch.float32)

    with pytest.raises(ConfigError, match="score: 'ablation' is unknown"):
        run(settings=small_settings(score="ablation"))
    history = run(settings=small_settings(score="ablation"), scorer=scorer, coverage=0.2)
    rows = plain.sae.W_enc.shape
    assert len(history.cores[0]) == 2 and history.cores[0].rows.shape[1] == rows[1]
    assert [i.latent for i in history.cores[0].lineage] == [11, 10]


@pytest.mark.parametrize("score", ["mean", "mean_square", "trimmed_mean", "max", "frequency", "random"])
def test_every_score_runs_and_repeats(score):
    settings = small_settings(score=score)
    same_cores(run(settings=settings, cycles=1), run(settings=settings, cycles=1))


def test_half_written_results_of_killed_processes_are_swept_when_old(tmp_path, plain):
    store, key = DirectoryCycleStore(tmp_path), plain.reports[0].key
    old, new = tmp_path / f".{key[:16]}-a", tmp_path / f".{key[:16]}-b"
    for folder in (old, new):
        folder.mkdir()
    os.utime(old, (0, 0))
    run(store=store)
    assert not old.exists() and new.exists()
