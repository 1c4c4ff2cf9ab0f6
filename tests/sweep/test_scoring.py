"""`dmsae score` and `dmsae stability` over a finished sweep, as Ray tasks on a real cluster."""

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import trim_mean

from dmsae_ray.cli import score
from dmsae_ray.cli.console import Screen
from dmsae_ray.config import load_experiment
from dmsae_ray.distill.attribution_set import TensorPairs
from dmsae_ray.errors import ConfigError
from dmsae_ray.evaluation import SplicedContexts, integrated_gradients
from dmsae_ray.plan import CycleSetting, Trial
from dmsae_ray.results import experiment_of, folders_of, parse_result, recorded_stores
from dmsae_ray.sae import MatryoshkaSAE
from dmsae_ray.store import open_store
from dmsae_ray.sweep.kept_model import kept_tap
from dmsae_ray.sweep.scoring import ScoreTask, pool_scores_by_name, score_name
from dmsae_ray.sweep.shared_cycles import cycle_store
from tests.report.summaries import make_summary
from tests.small_sweep import TRIALS, Here, sweep_folder, write_config


@pytest.fixture
def copied(finished_sweep: Path, tmp_path: Path) -> Path:
    """A copy of the small sweep's output, since the command writes into it; the copy is somewhere else, too."""
    shutil.copytree(finished_sweep / "runs", tmp_path / "runs")
    return sweep_folder(tmp_path)


def test_stored_saes_are_scored_again_and_nothing_is_trained(copied: Path, dmsae_here: Here) -> None:
    cycles = copied.parent.parent / "cycles"
    before = sorted(path.name for path in cycles.iterdir())
    done = dmsae_here("score", copied, "--contexts", 4, "--quantiles", "0.9,0.999")
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 SAEs, each by 3 quantiles, other scores and ablation\n" in done.stdout  # both trials share cycle 0
    assert sorted(path.name for path in cycles.iterdir()) == before
    records = json.loads((copied / "trials" / TRIALS[0] / "summary.json").read_text())["records"]
    (file,) = (copied / "scores").iterdir()
    found, stored = load_file(file), load_file(cycles / records[0]["key"] / "tensors.safetensors")
    assert found["quantile 0.99"][0].tolist() == stored["scores"].tolist()
    assert found["frequency"][0].tolist() == stored["frequency"][:64].tolist()
    assert {
        "mean_square",
        "quantile 0.9",
        "quantile 0.999",
        "ablation",
        "ablation, text",
        "integrated gradients",
    } <= found.keys()
    silent = found["frequency"][0] == 0
    assert bool((found["mean_square"][0][silent] == 0).all())
    assert {tensor.shape for tensor in found.values()} == {(3, 64)}
    assert_of_other_contexts(copied, records[0]["key"], found["integrated gradients"])
    for name in ("scores.html", "scores.md", "scores.json", "scores.png", "scores.csv", "score_sizes.csv"):
        assert (copied / name).is_file()
    again = dmsae_here("score", copied, "--contexts", 4, "--quantiles", "0.9,0.999")
    assert "1 of them kept from before" in again.stdout and again.returncode == 0
    every = dmsae_here("score", copied, "--contexts", 32, "--quantiles", "0.9")
    assert "no integrated gradients: the store has no held-out contexts beside the 32 for the abl" in every.stdout
    shutil.rmtree(copied / "scores")
    assert dmsae_here("score", copied, "--contexts", 4, "--quantiles", "0.9,0.999").returncode == 0
    few = ("--contexts", 2, "--quantiles", "0.9", "--cycles", 1, "--trial", TRIALS[0], "--pool-groups", 2)
    whole = dmsae_here("score", copied, *few, "--masks", "batch_topk,threshold", "--intersect", "2,1")
    assert whole.returncode == 0 and "1 SAEs, each by 2 quantiles" in whole.stdout
    (other,) = set((copied / "scores").iterdir()) - {file}
    masked = load_file(other)
    names = {name.removesuffix(" (BatchTopK)") for name in masked if name.endswith(" (BatchTopK)")}
    assert {"quantile 0.9", "quantile 0.99", "mean_square", "frequency"} <= names <= masked.keys()
    # Beside a dense core, which is exempt, the pool's other latents fire as often as the budget says.
    core = masked["quantile 0.9"].shape[1] - 2 * 64
    fires = masked["frequency (BatchTopK)"][0][core:].sum().item()
    assert fires == pytest.approx(round(8 * (256 - core) / 256))
    assert fires > masked["frequency"][0][core:].sum().item()
    assert "quantile 0.99 (BatchTopK)" in (copied / "scores.md").read_text()
    # The lowest over two parts: of the whole, its halves; of each half, two parts of that.
    for name in ("mean_square", "quantile 0.9", "frequency (BatchTopK)"):
        whole_set, *halves = masked[name]
        least = masked[f"{name}, least of 2"]
        assert least[0].tolist() == torch.minimum(*halves).tolist() and bool((least[0] <= whole_set + 1e-9).any())
    assert "random, least of 2" not in masked and not [name for name in masked if name.startswith("ablation, least")]
    file.write_bytes(b"damaged")
    broken = dmsae_here("score", copied, "--contexts", 4, "--quantiles", "0.9,0.999")
    assert broken.stderr == f"dmsae: error: scores: {file} is damaged; delete it to score again\n"


def assert_of_other_contexts(sweep: Path, key: str, found: torch.Tensor) -> None:
    """Integrated gradients are of the contexts after the four of the ablations, which are their reference."""
    experiment = experiment_of(sweep)
    folders = folders_of(experiment, sweep.name)
    (name,) = recorded_stores(folders.shared, experiment).values()
    store, trained = open_store(folders.stores, experiment, name), cycle_store(folders.cycles).load(key)
    assert trained is not None
    tap = kept_tap(experiment.model.model_dump_json())
    for half, contexts in zip(found[1:], (slice(4, 6), slice(6, 8)), strict=True):
        model = SplicedContexts(
            tap,
            store.eval_tokens()[contexts],
            keep=~store.eval_kept()[contexts],
            loss_mask=store.eval_loss_mask()[contexts],
            expected=True,
            batch=2,
        )
        torch.testing.assert_close(half, integrated_gradients(model, trained.sae, stop=64), rtol=1e-4, atol=1e-6)


def test_each_sae_is_scored_over_the_pool_of_its_run(tmp_path: Path) -> None:
    """Runs that select from more groups share cycle 0, but not its pool."""
    axes = {"distill.pool_groups": [1, 2]}
    config = write_config(tmp_path, sweep={"k": [8], "coverage": [0.3], "seeds": [0], "axes": axes})
    experiment = load_experiment(config)
    results = []
    for point in experiment.points:
        summary = make_summary(8, 0.3, 0)
        summary["records"][0]["key"] = "shared"
        setting = CycleSetting(8, 0.3, "dense", axes=point)
        results.append(replace(parse_result(summary), trial=Trial(setting, 0, 0)))
    for asked, pools in (((), [1, 2]), ((3,), [3, 3]), ((1, 3), [1, 3, 1, 3])):
        found = score._wanted(results, "0", experiment, asked)
        assert [what for _, _, what in found] == [("shared", groups) for groups in pools]


class Said:
    """A screen that keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def test_scores_over_another_pool_are_rows_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are named beside those of the run's pool, which alone say how the run's score agrees with ablation."""
    config = write_config(tmp_path, distill={"cycles": 2, "score": "trimmed_mean", "quantile": 0.8})
    experiment = load_experiment(config)
    monkeypatch.setattr("dmsae_ray.results.experiment_of", lambda _: experiment)
    summary = make_summary(8, 0.3, 0)
    summary["records"][0]["key"] = "shared"
    result = replace(parse_result(summary), trial=Trial(CycleSetting(8, 0.3, "dense"), 0, 0))
    wanted = score._wanted([result], "0", experiment, score._pools("2, 1", 3))
    places, generator = {}, torch.Generator().manual_seed(0)
    names = ("trimmed_mean", "trimmed_mean 0.8", "quantile 0.99", "ablation")
    for _, _, pool in wanted:
        places[pool] = tmp_path / f"{pool[1]}.safetensors"
        width = 64 * pool[1]
        save_file({name: torch.rand(3, width, generator=generator).double() for name in names}, places[pool])
    parser = argparse.ArgumentParser()
    score.add_arguments(parser)
    screen, arguments = Said(), parser.parse_args([str(tmp_path), "--pool-groups", "2,1"])
    score._write(arguments, cast(Screen, screen), tmp_path, wanted, places, (0.99,), ["seed 3 collapsed"])
    found = json.loads((tmp_path / "scores.json").read_text())
    assert found["settings"]["pool_groups"] == "2,1" and found["own"] == {"k=8 τ=0.3": "trimmed_mean 0.8"}
    rows = [(r["setting"], r["score"]) for r in found["rows"] if "rank" in r]
    labels = ("k=8 τ=0.3", "k=8 τ=0.3, pool of 2 groups")
    assert sorted(rows) == sorted((label, name) for label in labels for name in names)
    assert [line.split(", cycle 0")[0] for line in found["findings"]] == [*labels, "seed 3 collapsed"]
    assert len(found["overlaps"]) == 1 and found["overlaps"][0]["setting"] == "k=8 τ=0.3"
    own = load_file(places["shared", 1])
    sets = [set(own[n][0].topk(result.reports[0].n_core).indices.tolist()) for n in ("trimmed_mean 0.8", "ablation")]
    assert found["overlaps"][0]["overlap"] == len(sets[0] & sets[1]) / result.reports[0].n_core


def test_pools_are_one_or_several() -> None:
    assert score._pools(None, 3) == () and score._pools("2", 3) == (2,) and score._pools("3,1, 1", 3) == (1, 3)
    for text, said in (
        ("4", "--pool-groups is 4; it must be from 1 to 3"),
        ("-1", "--pool-groups is -1; it must be from 1 to 3"),
        ("1,4", "--pool-groups is '1,4'; it must be from 1 to 3, or several of these, as in 1,2"),
        ("1,", "--pool-groups is '1,'; it must be from 1 to 3, or several of these, as in 1,2"),
        ("x", "--pool-groups is 'x'; it must be from 1 to 3, or several of these, as in 1,2"),
    ):
        with pytest.raises(ConfigError) as found:
            score._pools(text, 3)
        assert str(found.value).startswith(said)
    with pytest.raises(ConfigError, match=r"^--pool-groups is '2,3'; it must be from 1 to 1$"):
        score._pools("2,3", 1)


def test_a_run_that_selects_by_a_trimmed_mean_finds_it_among_the_scores(tmp_path: Path) -> None:
    """It trims as the run did, beside the one of q = 0.99; its scores are not taken for those without it."""
    generator = torch.Generator().manual_seed(0)
    sae = MatryoshkaSAE(6, 24, [5, 7, 12], 3, seed=1)
    x, g = (torch.randn(200, 6, generator=generator) for _ in range(2))
    directions = sae.W_dec / sae.W_dec.norm(dim=1, keepdim=True)
    a = ((g @ directions.T).abs() * sae.encode(x)).detach()[:, :5].double().numpy()
    axes = {"distill.quantile": [0.8, 0.9]}
    points = {}
    for name, own in (("trimmed_mean", [0.8, 0.9, 0.99]), ("mean", [0.99])):
        (tmp_path / name).mkdir()
        config = write_config(tmp_path / name, distill={"cycles": 2, "score": name}, sweep={"axes": axes})
        experiment = load_experiment(config)
        points[name] = [experiment.at(point) for point in experiment.points]
        assert list(score._trimmed(points[name])) == own
    known = ScoreTask(points["mean"][0].model_dump(mode="json"), "", "", "", "", 1, (0.5,), 4)
    task = replace(known, trimmed=score._trimmed(points["trimmed_mean"]))
    found = pool_scores_by_name(sae, TensorPairs(x, g), task)
    for name, share in (("trimmed_mean", 0.01), ("trimmed_mean 0.8", 0.2), ("trimmed_mean 0.9", 0.1)):
        for scores, part in zip(found[name], (a, a[:100], a[100:]), strict=True):
            torch.testing.assert_close(scores.numpy(), trim_mean(part, share), rtol=1e-5, atol=1e-9)
    names = [score_name("trimmed_mean", at.distill.quantile) for at in points["trimmed_mean"]]
    assert names == ["trimmed_mean 0.8", "trimmed_mean 0.9"]
    masks = replace(task, masks=("threshold", "batch_topk"), intersects=(1, 2))
    assert score_name("trimmed_mean", 0.8, "batch_topk", 2) in pool_scores_by_name(sae, TensorPairs(x, g), masks)
    assert score_name("random", 0.8, "batch_topk", 2) == "random" and score_name("mean", 0.8) == "mean"
    assert score._digest(task) != score._digest(known) == score._digest(replace(known, trimmed=(0.99,)))


def test_bad_input_is_one_line(copied: Path, dmsae_here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*_: object, **__: object) -> None:
        raise AssertionError("work was given to Ray")

    monkeypatch.setattr("dmsae_ray.sweep.tasks.run_tasks", started)
    for arguments, message in (
        ((copied.parent,), f"'{copied.parent}' is no sweep folder (it has no config.yaml)"),
        ((copied, "--trial", "k9"), f"--trial is 'k9'; finished trials with cores are {', '.join(TRIALS)}"),
        ((copied, "--cycles", "7"), "--cycles is '7'; no finished trial with cores has such a cycle"),
        ((copied, "--cycles", "x"), "--cycles is 'x'; it must be numbers and ranges, as in 0,5,10-12"),
        ((copied, "--pool-groups", 4), "--pool-groups is 4; it must be from 1 to 3"),
        (
            (copied, "--pool-groups", "1,4"),
            "--pool-groups is '1,4'; it must be from 1 to 3, or several of these, as in",
        ),
        ((copied, "--contexts", 1), "--contexts is 1; it must be at least 2, one for each half"),
        ((copied, "--intersect", "0"), "--intersect is '0'; it must be whole numbers from 1 to 256, as in 1,4"),
        ((copied, "--intersect", "1,x"), "--intersect is '1,x'; it must be whole numbers from 1 to 256, as in 1,4"),
        ((copied, "--intersect", "9" * 5000), "--intersect is '999"),
        ((copied, "--masks", "topk"), "--masks is 'topk'; it must be of threshold, batch_topk"),
        ((copied, "--quantiles", "0.5,2"), "--quantiles is '0.5,2'; it must be numbers from 0 to 1, as in 0.9,0.95"),
    ):
        done = dmsae_here("score", *arguments)
        assert done.returncode == 2 and done.stderr.startswith(f"dmsae: error: {message}"), (arguments, done.stderr)
        assert done.stderr.count("\n") == 1


def test_one_seed_has_no_witness(copied: Path, dmsae_here: Here) -> None:
    done = dmsae_here("stability", copied)
    assert done.returncode == 2
    assert done.stderr == (
        f"dmsae: error: '{copied}' has no SAE without a core of another seed than the cores': give sweep.seeds "
        "several, or name another sweep by --against\n"
    )
