"""Rediscovery on real small cycles of two seeds, against plain computations, and on pairs that share a training."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.optimize import linear_sum_assignment

from dmsae_ray.cli.commands import main
from dmsae_ray.config import ActivationSettings
from dmsae_ray.distill import LineageId, mixed_rows
from dmsae_ray.errors import DataError
from dmsae_ray.files import Folder
from dmsae_ray.plan import CycleSetting
from dmsae_ray.report import Rediscovery, rediscovery, rediscovery_findings, write_stability
from dmsae_ray.report.core_rivals import DISTILLED, IN_FIRST, RIVALS, core_sets
from dmsae_ray.report.found_again import BY, Again, CoreLatent
from dmsae_ray.report.rediscovery_tables import Rediscovered, often_found, tables
from dmsae_ray.report.report import make_report
from dmsae_ray.report.trial_cores import trial_cores
from dmsae_ray.results import load_results
from dmsae_ray.sae import MatryoshkaSAE, about_sae, load_sae, save_sae
from dmsae_ray.store import Store
from tests.report.small_output import make_store


@pytest.fixture(scope="module")
def found(small_output: Path) -> Rediscovery:
    return rediscovery(small_output)


def summary(sweep: Path, seed: int) -> dict:
    return json.loads((sweep / "trials" / f"k4-tau0.6-seed{seed}" / "summary.json").read_text())


def sae_of(sweep: Path, seed: int, cycle: int) -> MatryoshkaSAE:
    key = summary(sweep, seed)["records"][cycle]["key"]
    return load_sae(sweep.parent.parent / "cycles" / key / "sae")


def best(rows: torch.Tensor, others: torch.Tensor) -> np.ndarray:
    """One to one: the cosines of the assignment with the largest sum, of normalised rows, by numpy and scipy."""
    a, b = (t.detach().double().numpy() for t in (rows, others))
    cosine = (a / np.linalg.norm(a, axis=1, keepdims=True)) @ (b / np.linalg.norm(b, axis=1, keepdims=True)).T
    return cosine[linear_sum_assignment(-cosine)]


def one(found: Rediscovery, seed: int, name: str) -> Again:
    (again,) = [a for a in found.again if (a.seed, a.set, a.kind) == (seed, name, "another seed")]
    return again


@pytest.mark.parametrize("seed", [0, 1])
def test_the_distilled_core_is_matched_with_cycle_0_of_the_other_seed(
    small_output: Path, found: Rediscovery, seed: int
) -> None:
    told, other = summary(small_output, seed), sae_of(small_output, 1 - seed, 0)
    first, last = sae_of(small_output, seed, 0), sae_of(small_output, seed, 2)
    ids = [tuple(i) for i in told["distilled_lineage"]]
    assert ids and all(cycle == 0 for cycle, _ in ids)
    inside = [[tuple(i) for i in told["lineage"][1]].index(i) for i in ids]  # its rows in the SAE of cycle 2
    born = [latent for _, latent in ids]
    assert torch.equal(last.W_enc[inside], first.W_enc[born])
    star, in_first = one(found, seed, DISTILLED), one(found, seed, IN_FIRST)
    assert star.size == len(ids)
    for by, mine, theirs in (
        ("encoder", last.W_enc[inside], other.W_enc),
        ("decoder", last.W_dec[inside], other.W_dec),
    ):
        cosine = best(mine, theirs)
        assert star.mean[by] == pytest.approx(cosine.mean(), abs=1e-6)
        for limit in (0.7, 0.9):
            assert star.share[f"{by} {limit}"] == pytest.approx((cosine >= limit).mean())
    cosine = best(first.W_dec[born], other.W_dec)
    assert in_first.mean["decoder"] == pytest.approx(cosine.mean(), abs=1e-6)
    assert in_first.mean["encoder"] == pytest.approx(star.mean["encoder"], abs=1e-6)
    latents = {tuple(row.lineage): row.decoder for row in found.latents if row.trial.endswith(f"seed{seed}")}
    assert [latents[i][0] for i in ids] == pytest.approx(cosine.tolist(), abs=1e-6)


def test_rivals_are_of_the_same_size_and_of_cycle_0(small_output: Path, found: Rediscovery) -> None:
    from safetensors.torch import load_file

    first, other = sae_of(small_output, 0, 0), sae_of(small_output, 1, 0)
    key = summary(small_output, 0)["records"][0]["key"]
    stored = load_file(small_output.parent.parent / "cycles" / key / "tensors.safetensors")
    size = one(found, 0, DISTILLED).size
    by_score = sorted(range(32), key=lambda i: -float(stored["scores"][i]))[:size]
    by_frequency = sorted(range(32), key=lambda i: -float(stored["frequency"][i]))[:size]
    for name, latents in ((RIVALS[0], by_score), (RIVALS[1], by_frequency)):
        assert one(found, 0, name).mean["decoder"] == pytest.approx(
            best(first.W_dec[latents], other.W_dec).mean(), abs=1e-6
        )
    assert {a.size for a in found.again if a.seed == 0} == {size}
    chance = one(found, 0, "chance")
    assert chance.mean["decoder"] < 0.7 and chance.share["decoder 0.9"] == 0.0
    assert abs(chance.mean["activations"]) < one(found, 0, DISTILLED).mean["activations"]


def test_activations_are_compared_on_held_out_tokens(small_output: Path, found: Rediscovery) -> None:
    """With every latent of the other SAE as a candidate, the best correlation can only be as large or larger."""
    assert found.tokens > 300
    every = {a.set: a for a in found.again if a.seed == 0}
    for name in (DISTILLED, *RIVALS[:3]):
        assert -0.2 < every[name].mean["activations"] <= 1.0
    without = rediscovery(small_output, tokens=0)
    assert without.tokens == 0 and all("activations" not in a.mean for a in without.again)
    assert [a.mean["decoder"] for a in without.again] == [a.mean["decoder"] for a in found.again]


def copied(small_output: Path, tmp_path: Path) -> Path:
    shutil.copytree(small_output.parent.parent, tmp_path / "out")
    return tmp_path / "out" / "sweeps" / small_output.name


def test_an_sae_that_shares_rows_with_the_core_is_no_witness(small_output: Path, tmp_path: Path) -> None:
    """The SAE of seed 1's cycle 0 is made a copy of that of seed 0: one training under two names."""
    sweep = copied(small_output, tmp_path)
    cycles, keys = sweep.parent.parent / "cycles", [summary(sweep, seed)["records"][0]["key"] for seed in (0, 1)]
    shutil.rmtree(cycles / keys[1])
    shutil.copytree(cycles / keys[0], cycles / keys[1])
    found = rediscovery(sweep)
    assert not any(a.seed == 0 for a in found.again)
    assert any("seed0: " in line and "shares a training with it and is no witness" in line for line in found.lacks)


def test_cores_that_share_cycle_0_are_one_replica(small_output: Path, tmp_path: Path) -> None:
    """Seeds 0 and 1 were given one SAE as cycle 0; SAEs of another sweep are the witnesses."""
    other = copied(small_output, tmp_path / "other")
    for seed in (0, 1):  # its SAEs are of other seeds, and other trainings
        told = summary(other, seed)
        told |= {"trial_id": f"k4-tau0.6-seed{seed + 7}", "params": {**told["params"], "seed": seed + 7}}
        (other / "trials" / f"k4-tau0.6-seed{seed}" / "summary.json").write_text(json.dumps(told))
    sweep, key = copied(small_output, tmp_path), summary(small_output, 0)["records"][0]["key"]
    whole = rediscovery(sweep, against=[other])
    told = summary(sweep, 1)
    told["records"][0]["key"] = key
    (sweep / "trials" / "k4-tau0.6-seed1" / "summary.json").write_text(json.dumps(told))
    found = rediscovery(sweep, against=[other])
    assert {a.seed for a in whole.again} == {0, 1} and {a.seed for a in found.again} == {0}
    assert any(
        "seeds 0, 1 share cycle 0: their cores are choices from one SAE, and count as one" in x for x in found.lacks
    )
    health = make_report(sweep).health
    assert any("seeds 0, 1 share cycle 0" in line for line in health)


def test_a_given_sae_and_a_collapsed_trial_are_no_witnesses(small_output: Path, tmp_path: Path) -> None:
    sweep = copied(small_output, tmp_path)
    for change in ("given", "collapsed"):
        for seed in (0, 1):
            told = summary(small_output, seed)
            if change == "given":
                told["records"][0]["seed"] = 0
            elif seed == 1:
                told |= {"collapse": "no_latent_fires", "collapsed_at": 0}
                told["records"] = [{**told["records"][0], "collapsed": "no_latent_fires"}]
            (sweep / "trials" / f"k4-tau0.6-seed{seed}" / "summary.json").write_text(json.dumps(told))
        with pytest.raises(DataError, match="no SAE without a core of another seed"):
            rediscovery(sweep)


def test_other_sweeps_can_be_looked_into(small_output: Path, tmp_path: Path) -> None:
    """The same trials as another sweep: its SAE of seed 1 is another witness of the core of seed 0, its own is not."""
    other = copied(small_output, tmp_path)
    found = rediscovery(small_output, against=[other], tokens=0)
    own, theirs = ([a for a in found.again if a.kind == kind and a.seed == 0] for kind in ("another seed", other.name))
    assert [a.mean for a in own] == [a.mean for a in theirs] and len(theirs) > 0
    assert {a.other for a in theirs} == {f"{other.name}/k4-tau0.6-seed1"}


def noted_otherwise(small_output: Path, tmp_path: Path, **noted: Any) -> Path:
    """The same SAEs under other keys, as those of another sweep, with something else noted of each."""
    other = copied(small_output, tmp_path)
    for seed in (0, 1):
        told = summary(other, seed)
        for record in told["records"]:
            folder = other.parent.parent / "cycles" / record["key"] / "sae"
            record["key"] = f"of-another-{seed}-{record['cycle']}"
            save_sae(
                load_sae(folder),
                other.parent.parent / "cycles" / record["key"] / "sae",
                {**about_sae(folder), **noted},
            )
        (other / "trials" / f"k4-tau0.6-seed{seed}" / "summary.json").write_text(json.dumps(told))
    return other


def at_another_layer(small_output: Path, tmp_path: Path, **of_store: Any) -> Path:
    """The same SAEs as those of another sweep, noted as of layer 2; and a store of that layer."""
    other = noted_otherwise(small_output, tmp_path, layer=2)
    shutil.rmtree(other.parent.parent / "stores")
    make_store(other.parent.parent / "stores", "b" * 24, layer=2, **of_store)
    return other


def test_activations_of_another_layer_are_compared_at_the_same_tokens(
    small_output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dmsae_ray.report.found_again.CANDIDATES", 96)  # all latents
    other = at_another_layer(small_output, tmp_path, max_norm_multiple=1.1)
    found = rediscovery(small_output, against=[other])
    (star,) = [a for a in found.again if (a.seed, a.set, a.kind) == (0, IN_FIRST, other.name)]
    here, there = (
        Store(Folder(str(output.parent.parent / "stores")) / key, key, ActivationSettings())
        for output, key in ((small_output, "a" * 24), (other, "b" * 24))
    )
    both = (here.eval_kept() & there.eval_kept()).flatten().nonzero().flatten()
    assert 0 < len(both) < int(here.eval_kept().sum())  # the other layer's filter dropped some
    latents = [latent for _, latent in summary(small_output, 0)["distilled_lineage"]]
    mine = sae_of(small_output, 0, 0).encode(here.eval_rows(both))[:, latents].double().numpy()
    theirs = sae_of(other, 1, 0).encode(there.eval_rows(both)).double().numpy()
    with np.errstate(invalid="ignore", divide="ignore"):
        table = np.nan_to_num(np.corrcoef(mine.T, theirs.T)[: len(latents), len(latents) :])
    expected = table[linear_sum_assignment(-table)].mean()
    assert star.mean["activations"] == pytest.approx(expected, abs=1e-4)
    own = one(found, 0, IN_FIRST)  # the very same SAE, at the core's own layer
    assert abs(own.mean["activations"] - expected) > 0.01 and own.mean["decoder"] == pytest.approx(star.mean["decoder"])
    assert found.lacks == ()


def test_of_other_text_at_another_layer_no_activations_are_compared(small_output: Path, tmp_path: Path) -> None:
    other = at_another_layer(small_output, tmp_path, text_seed=1)
    found = rediscovery(small_output, against=[other])
    assert not any("activations" in a.mean for a in found.again if a.kind == other.name)
    assert all("activations" in a.mean for a in found.again if a.kind != other.name and a.set != "chance")
    (line,) = found.lacks
    assert line.startswith("activations are not compared with SAEs of layer 2: stores aaaaaaaaaaaaaaaa and bbbbbbbb")


def test_an_sae_of_other_text_reads_the_same_activations(small_output: Path, tmp_path: Path) -> None:
    """It reads the same layer of the same model, so that the core's own held-out tokens serve both."""
    other = noted_otherwise(small_output, tmp_path, store="c" * 24)
    found = rediscovery(small_output, against=[other])
    own, theirs = ([a for a in found.again if a.kind == kind and a.seed == 0] for kind in ("another seed", other.name))
    assert [a.mean for a in own] == [a.mean for a in theirs] and found.lacks == ()


def test_an_sae_of_another_width_is_left_out_and_said(small_output: Path, tmp_path: Path) -> None:
    other = copied(small_output, tmp_path)
    for seed in (0, 1):
        told = summary(other, seed)
        told["records"][0]["key"] = f"narrow-{seed}"
        (other / "trials" / f"k4-tau0.6-seed{seed}" / "summary.json").write_text(json.dumps(told))
        save_sae(MatryoshkaSAE(32, 96, [32, 64], 4), other.parent.parent / "cycles" / f"narrow-{seed}" / "sae")
    found = rediscovery(small_output, against=[other], tokens=0)
    assert {a.kind for a in found.again} == {"another seed"}
    for seed in (0, 1):
        told = f"{other.name}/k4-tau0.6-seed{seed}: its SAE cannot be looked into (it has width 32, the cores 64)"
        assert told in found.lacks


def made(count: int, lead: Callable[[int], float]) -> Rediscovery:
    """A made-up result of one setting: the distilled core is found again `lead` more than the best of cycle 0."""
    setting = CycleSetting(4, 0.9, "dense")
    again = [
        Again(
            trial=f"seed{seed}",
            setting=setting,
            seed=seed,
            set=name,
            other=f"seed{(seed + step) % count}",
            kind="another seed",
            size=5,
            mean=dict.fromkeys(BY, 0.5),
            share={
                f"{by} {limit}": 0.5 + (lead(seed) if "distilled" in name else 0) for by in BY for limit in (0.7, 0.9)
            },
        )
        for seed in range(count)
        for step in range(1, max(2, count))
        for name in (DISTILLED, IN_FIRST, RIVALS[0])
    ]
    latents = [CoreLatent("seed0", (0, n), (0.8, 0.95, 0.1 * n), ()) for n in range(10)]  # type: ignore[arg-type]
    return Rediscovery(tuple(again), tuple(latents))


def test_seeds_of_cores_are_what_is_counted() -> None:
    """Each of six cores is looked for in five SAEs: n is six, not thirty."""
    found = made(6, lambda seed: 0.2 + 0.01 * seed)
    numbers = Rediscovered(found)
    ((setting, kind),) = numbers.places
    assert numbers.estimate(setting, kind, DISTILLED, "decoder 0.7").n == 6
    assert "more in 1, less in 0 of 1 comparisons" in "\n".join(rediscovery_findings(found))
    tie = rediscovery_findings(made(6, lambda seed: 0.1 * (-1) ** seed))
    assert "more in 0, less in 0 of 1 comparisons" in tie[0]
    few = rediscovery_findings(made(2, lambda seed: 0.4))
    assert "fewer than 3 seeds, so that nothing is shown" in few[0]
    assert "Of 10 latents of distilled cores, SAEs of other seeds have 3 always, 7 often" in few[-1]


def test_every_latent_is_found_always_often_seldom_or_never() -> None:
    found = [(0.9, 0.9, 0.9), (0.9, 0.9, 0.1), (0.9, 0.1, 0.1), (0.1, 0.1, 0.1), (0.7, 0.6, 0.6)]
    latents = [CoreLatent("k8", LineageId(0, n), cosines, ()) for n, cosines in enumerate(found)]
    assert "Of 5 latents of distilled cores, SAEs of other seeds have 1 always, 1 often (at least half of them), " in (
        said := often_found(latents)
    )
    assert "2 seldom, 1 never" in said


def test_chance_keeps_what_all_rows_share() -> None:
    """Rows in a cone: unrelated ones have a cosine of 0.9 with their partners, and chance says so."""
    generator = torch.Generator().manual_seed(0)
    axis = torch.zeros(64)
    axis[0] = 24.0
    pool, other = (torch.randn(n, 64, generator=generator) + axis for n in (200, 400))
    unrelated = best(pool[:20], other).mean()
    chance = [best(mixed_rows(pool, 20, draw), other).mean() for draw in range(20)]
    assert unrelated > 0.9 and abs(np.mean(chance) - unrelated) < 0.01
    # Without a cone they have little to do with each other; and a row that is found again is far above.
    flat = pool - axis
    far = np.mean([best(mixed_rows(flat, 20, draw), other - axis).mean() for draw in range(20)])
    assert far == pytest.approx(best(flat[:20], other - axis).mean(), abs=0.03) and far < 0.5
    again = torch.cat([other - axis, flat[:20]])
    assert best(flat[:20], again).mean() > 0.99


def test_a_core_larger_than_the_pool_of_cycle_0_has_no_rivals(small_output: Path, tmp_path: Path) -> None:
    """With distill.min_cycles it may outgrow that; a smaller rival would be compared with it otherwise."""
    sweep, lacks = copied(small_output, tmp_path), list[str]()
    results = load_results(sweep)
    (own, *_) = trial_cores(results, None, lacks)
    key = own.keys[0]
    place = sweep.parent.parent / "cycles" / key / "tensors.safetensors"
    tensors = load_file(place)
    fewer = len([i for i in own.ids if i in own.distilled]) - 1
    save_file({n: t[:fewer] if n == "scores" else t for n, t in tensors.items()}, place)
    found = core_sets(own, Folder(str(sweep.parent.parent)), lacks)
    assert found is not None and set(found.sets) <= {DISTILLED, IN_FIRST}
    assert any(f"cycle 0 has {fewer} latents, its distilled core {fewer + 1}: there are no rivals" in x for x in lacks)


def test_collapsed_seeds_are_named(small_output: Path, tmp_path: Path) -> None:
    sweep = copied(small_output, tmp_path)
    (first, *_) = sorted((sweep / "trials").iterdir())
    told = json.loads((first / "summary.json").read_text())
    (first / "summary.json").write_text(json.dumps(told | {"collapsed_at": 1, "collapse": "not_finite in cycle 1"}))
    found = rediscovery(sweep)
    assert any(line.startswith(f"{first.name} collapsed (") and "in no number" in line for line in found.lacks)
    assert first.name not in {a.trial for a in found.again}


def test_the_files(small_output: Path, found: Rediscovery, tmp_path: Path) -> None:
    page = write_stability(replace(found, lacks=("<gone>",)), tmp_path, name="a<b", report="report.html")
    html = page.read_text()
    assert "&lt;gone&gt;" in html and "<gone>" not in html and "a&lt;b" in html
    for latent in found.latents:
        assert f'href="report.html#latent-{latent.anchor}"' in html
    assert (tmp_path / "stability.png").stat().st_size > 5000
    assert len((tmp_path / "stability_latents.csv").read_text().splitlines()) == 1 + len(found.latents)
    numbers = json.loads((tmp_path / "stability.json").read_text())
    assert len(numbers["again"]) == len(found.again) and numbers["findings"] == rediscovery_findings(found)
    assert tables(found)[0].title.startswith("Found again: ")


def test_the_command(small_output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stability", str(small_output), "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "fewer than 3 seeds" in out and f"report: {tmp_path / 'stability.html'}" in out
    for arguments, message in (
        ([str(tmp_path)], f"SWEEP is '{tmp_path}'; it must be the folder of a sweep with finished trials"),
        ([str(small_output), "--against", "x"], "--against is 'x'; it must be the folder of a sweep"),
        ([str(small_output), "--tokens", "-1"], "--tokens is -1; it must be at least 0"),
    ):
        assert main(["stability", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"dmsae: error: {message}") and error.count("\n") == 1
