"""All of our own measures of a stored SAE: they are those of its training, and each is what its definition says."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from dmsae_ray.config.experiment import parse_experiment
from dmsae_ray.errors import DataError
from dmsae_ray.evaluation.quality_names import QUALITY
from dmsae_ray.results import experiment_of
from dmsae_ray.sae.files import load_sae
from dmsae_ray.sweep import quality
from dmsae_ray.sweep.quality import QualityTask, measure_quality
from dmsae_ray.sweep.tasks import run_tasks
from tests.report.small_output import CONTEXT, PER_SHARD, make_output
from tests.small_sweep import TRIALS, sweep_folder

LISTS = {
    "prefix_sizes",
    "prefix_fvu",
    "prefix_l0",
    "frequency_edges",
    "frequency_histogram",
    "core_frequency_histogram",
    "rest_frequency_histogram",
    "first_letter_by_letter",
    "first_letter_reason",
}
NAMES = {one.name for one in QUALITY}


def tasks_of(run: Path) -> list[tuple[dict[str, Any], QualityTask]]:
    """The record of each trained cycle of the small sweep, and its task."""
    sweep, found = sweep_folder(run), {}
    experiment = experiment_of(sweep).model_dump(mode="json")
    (store,) = (run / "runs" / "stores").iterdir()
    for trial in TRIALS:
        for record in json.loads((sweep / "trials" / trial / "summary.json").read_text())["records"]:
            cycles = str(run / "runs" / "cycles")
            found[record["key"]] = record, QualityTask(experiment, str(store.parent), store.name, cycles, record["key"])
    return list(found.values())


@pytest.mark.sweep
def test_they_agree_with_what_was_measured_in_training(finished_sweep: Path, ray_cluster: Any) -> None:
    """As Ray tasks, on every SAE of a sweep: same tokens, same masks, same numbers."""
    records, tasks = zip(*tasks_of(finished_sweep), strict=True)
    assert len(tasks) >= 5 and any(record["n_core_in"] for record in records)
    results = dict(run_tasks(measure_quality, [(task,) for task in tasks]))
    for number, record in enumerate(records):
        found, metrics = results[number], record["metrics"]
        assert found.keys() == NAMES | LISTS
        assert json.loads(json.dumps(found, allow_nan=False)) == found
        same = {name: metrics[name] for name in metrics.keys() & found.keys()}
        assert len(same) == 10, sorted(same)
        assert {name: found[name] for name in same} == pytest.approx(same, rel=1e-5)
        assert found["dead_share"] == pytest.approx(metrics["dead_fraction"])
        if record["n_core_in"]:
            assert found["core_dead_share"] == metrics["core_dead_fraction"]
        else:
            assert found["core_dead_share"] is None and found["core_nearest_cosine"] is None


@pytest.fixture(scope="module")
def small_sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep that was made without Ray."""
    return make_output(tmp_path_factory.mktemp("quality"))


def make_task(output: Path, key: str) -> QualityTask:
    tree = {
        "name": "quality",
        "model": {"name": "tiny", "layer": 1, "dtype": "float32"},
        "corpus": {"source": "stdlib", "context": CONTEXT, "tokens": 4096},
        "activations": {"dtype": "float32", "shard_tokens": PER_SHARD * CONTEXT},
        "recipe": {"tokens": 4096, "batch_size": 64, "warmup_steps": 2, "threshold_start_step": 2},
    }
    experiment = parse_experiment(tree).model_dump(mode="json")
    return QualityTask(experiment, str(output / "stores"), "a" * 24, str(output / "cycles"), key)


def test_each_number_is_that_of_its_part(small_sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an SAE with a core, against sums written out over all held-out tokens."""
    output = small_sweep.parent.parent
    summary = json.loads((small_sweep / "trials" / "k4-tau0.6-seed0" / "summary.json").read_text())
    (key,) = {record["key"] for record in summary["records"] if record["cycle"] == 2}
    task = make_task(output, key)
    quality._held_out.cache_clear()
    found = measure_quality(task)
    sae = load_sae(output / "cycles" / key / "sae")
    store = quality._held_out(json.dumps(task.experiment, sort_keys=True), task.stores, task.store).store
    c, kept = sae.n_core, store.eval_kept().view(-1)
    assert c > 1
    x = store.eval_rows(kept.nonzero().view(-1))
    with torch.no_grad():
        on, parts = sae.encode(x) > 0, sae.prefix_reconstructions(x).double()
    fired, n = on.sum(0), len(x)
    variance = (x.double() - x.double().mean(0)).square().sum()
    fvu = [float((x.double() - part).square().sum() / variance) for part in parts]
    sizes = [c + size for size in sae.prefix_sizes]
    assert (found["tokens"], found["prefix_sizes"]) == (n, sizes)
    assert found["prefix_fvu"] == pytest.approx(fvu, rel=1e-5)
    assert (found["fvu"], found["fvu_first_prefix"]) == (found["prefix_fvu"][-1], found["prefix_fvu"][0])
    assert found["prefix_l0"] == pytest.approx([float(on[:, :size].sum()) / n for size in sizes])
    assert (found["l0"], found["l0_first_prefix"]) == (found["prefix_l0"][-1], found["prefix_l0"][0])
    assert found["l0_core"] == pytest.approx(float(on[:, :c].sum()) / n)
    assert found["l0_core"] + found["l0_non_core"] == pytest.approx(found["l0"])
    live, unit = fired > 0, torch.nn.functional.normalize(sae.W_dec.detach().double())
    cosines = (unit @ unit.T).fill_diagonal_(-2)
    cosines[:, ~live] = -2
    for name, part, others in (
        ("", slice(None), slice(None)),
        ("core_", slice(c), slice(c)),
        ("core_rest_", slice(c), slice(c, None)),
    ):
        nearest = cosines[part, others].amax(1)[live[part]]
        assert found[f"{name}nearest_cosine"] == pytest.approx(float(nearest.mean()), abs=1e-5)
        assert found[f"{name}redundant_07"] == pytest.approx(float((nearest >= 0.7).double().mean()))
        assert found[f"{name}nearest_cosine_chance"] < 1
    for name, part in (("", fired), ("core_", fired[:c]), ("rest_", fired[c:])):
        assert found[f"{name}dead_share"] == pytest.approx(float((part == 0).double().mean()))
        assert found[f"{name}dense_share"] == pytest.approx(float((part > 0.1 * n).double().mean()))
        assert found[f"{name}live_frequency_median"] == pytest.approx(float(part[part > 0].double().median()) / n)
        assert sum(found[f"{name}frequency_histogram"]) == int((part > 0).sum())
    assert found["kl"] > 0 and found["first_letter_letters"] == 0 and found["first_letter_absorption"] is None
    assert found["first_letter_reason"].startswith("of ")

    # Batches of another size, and a process that has measured another SAE before: the same numbers.
    (other,) = {record["key"] for record in summary["records"] if record["cycle"] == 0}
    assert measure_quality(make_task(output, other))["core_dead_share"] is None
    monkeypatch.setattr(quality, "_BATCH", 7)
    assert measure_quality(task) == {
        name: pytest.approx(value, rel=1e-5) if isinstance(value, float) or "fvu" in name else value
        for name, value in found.items()
    }


def test_what_is_not_there_is_one_line(small_sweep: Path, tmp_path: Path) -> None:
    task = make_task(small_sweep.parent.parent, "f" * 64)
    with pytest.raises(DataError, match=f"^cycle {'f' * 64} is not in "):
        measure_quality(task)
    shutil.copytree(small_sweep.parent.parent / "cycles", tmp_path / "cycles")
    key = next(path.name for path in (tmp_path / "cycles").iterdir())
    with pytest.raises(DataError, match="the tokens is not there and no harvest is writing it"):
        measure_quality(make_task(tmp_path, key))


def test_names_are_told_apart() -> None:
    assert len(NAMES) == len(QUALITY) == len({one.label for one in QUALITY})
    for one in QUALITY:
        assert one.better in ("higher", "lower", "neither") and one.label and one.meaning and "\n" not in one.meaning
