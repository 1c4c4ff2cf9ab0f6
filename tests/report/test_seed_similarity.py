"""PW-MCC between the cores of seeds: against matchings by hand, with shared rows, and its chance level."""

import json
from itertools import permutations
from pathlib import Path

import pytest
import torch

from dmsae_ray.distill.core import Core, load_core, save_core
from dmsae_ray.distill.lineage import LineageId, Origin
from dmsae_ray.report.core_latents import _with_nearest, sweep_latents
from dmsae_ray.report.report import make_report
from dmsae_ray.report.seed_similarity import Consistency, consistency
from dmsae_ray.results.trial import load_results
from dmsae_ray.sae.dictionary import MatryoshkaSAE
from dmsae_ray.sae.files import save_sae

from .summaries import POOL, WIDTH, make_summary, write_trial


def rows(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(seed))


def core(values: torch.Tensor, key: str = "") -> Core:
    origins = tuple(Origin(key, i) for i in range(len(values))) if key else ()
    return Core(values, tuple(LineageId(0, i) for i in range(len(values))), {}, origins)


def seeds_with(sweep: Path, cores: list[Core]) -> Consistency:
    """What is said of trials that have these cores."""
    for seed, given in enumerate(cores):
        name = write_trial(sweep, 4, 0.9, seed)
        save_core(given, sweep / "trials" / name / "core.safetensors")
    found = consistency(load_results(sweep))
    assert found is not None
    return found


def plain_mcc(a: torch.Tensor, b: torch.Tensor) -> float:
    """Every way to match, one by one."""
    cosine = torch.nn.functional.cosine_similarity(a.double()[:, None], b.double()[None], dim=2)
    if len(a) > len(b):
        cosine = cosine.T
    ways = permutations(range(cosine.shape[1]), len(cosine))
    return max(float(sum(cosine[i, j] for i, j in enumerate(way))) / len(cosine) for way in ways)


def test_a_seed_without_a_core_is_said(tmp_path: Path) -> None:
    found = seeds_with(tmp_path / "sweep", [core(rows(4, 0)), core(rows(4, 1)), core(rows(0, 2))])
    assert found.pairs == 1
    table = next(t for t in make_report(tmp_path / "sweep").tables if t.title.startswith("Cores against"))
    row = dict(zip(table.names, table.rows[0], strict=True))
    assert row["n"] == "3" and row["PW-MCC of the seeds"] == f"{found.mean:.2f}, 1 of 3 pairs"


def test_shared_rows_do_not_count(tmp_path: Path) -> None:
    """Six rows that both cores have would give 0.6 of the figure by themselves."""
    shared, one, two = rows(6, 0), rows(4, 1), rows(3, 2)
    found = seeds_with(tmp_path / "sweep", [core(torch.cat([shared, one])), core(torch.cat([two, shared]))])
    assert found.mean == pytest.approx(plain_mcc(one, two)) and found.mean < 0.4
    assert (found.shared, found.matched, found.pairs, found.not_comparable) == (6, 3, 1, 0)
    table = next(t for t in make_report(tmp_path / "sweep").tables if t.title.startswith("Cores against"))
    assert table.rows[0][table.names.index("shared rows left out")] == "6 of 9"
    assert table.rows[0][table.names.index("PW-MCC of the seeds")] == f"{found.mean:.2f}"


@pytest.mark.parametrize("of_one_sae", [False, True], ids=["the same rows", "other rows of one given SAE"])
def test_cores_that_share_all_are_not_comparable(of_one_sae: bool, tmp_path: Path) -> None:
    given = rows(10, 0)
    second = core(given[4:], "given") if of_one_sae else core(given[:6])
    found = seeds_with(tmp_path / "sweep", [core(given[:6], "given"), second])
    assert (found.mean, found.low, found.high, found.chance) == (None, None, None, None)
    assert (found.shared, found.pairs, found.not_comparable) == (6, 0, 1)
    report = make_report(tmp_path / "sweep")
    table = next(t for t in report.tables if t.title.startswith("Cores against"))
    assert table.rows[0][table.names.index("PW-MCC of the seeds")] == "not comparable"
    assert "0.9" not in table.rows[0][table.names.index("PW-MCC of the seeds") :]


def test_a_latent_that_points_the_other_way_is_another_one(tmp_path: Path) -> None:
    one = rows(5, 3)
    found = seeds_with(tmp_path / "sweep", [core(one), core(-one)])
    assert found.mean == pytest.approx(plain_mcc(one, -one)) and found.mean < 0.3


def test_chance_is_that_of_random_subsets_of_the_same_pools(tmp_path: Path) -> None:
    """Pools whose rows lie in a cone: any two cores of them are alike, and Gaussian rows would hide it."""
    axis = torch.zeros(WIDTH)
    axis[0] = 3 * WIDTH**0.5
    pools = [rows(POOL, 10 + seed) + axis for seed in range(2)]
    for seed, pool in enumerate(pools):
        key = make_summary(4, 0.9, seed)["records"][-1]["key"] + str(seed)
        sae = MatryoshkaSAE(WIDTH, POOL + 8, [POOL, 8], 4)
        sae.W_enc[:POOL] = pool
        save_sae(sae, tmp_path / "cycles" / key / "sae")
    sweep = tmp_path / "sweeps" / "made-00000000"
    for seed, pool in enumerate(pools):
        name = write_trial(sweep, 4, 0.9, seed)
        summary = sweep / "trials" / name / "summary.json"
        tree = json.loads(summary.read_text())
        tree["records"][-1]["key"] += str(seed)
        summary.write_text(json.dumps(tree))
        save_core(core(pool[:12]), sweep / "trials" / name / "core.safetensors")
    found = consistency(load_results(sweep))
    assert found is not None and found.mean is not None and found.chance is not None
    assert found.chance_low is not None and found.chance_high is not None
    assert found.mean == pytest.approx(found.chance, abs=0.02) and found.mean > 0.85, "by chance alone"
    assert found.chance_low < found.chance < found.chance_high
    assert found == consistency(load_results(sweep)), "the draws are seeded"


def test_of_real_cycles_the_core_file_has_the_rows_of_the_pool(small_output: Path) -> None:
    found = consistency(load_results(small_output))
    cores = [load_core(path) for path in sorted(small_output.glob("trials/*/core.safetensors"))]
    assert found is not None and found.shared == 0 and found.chance is not None
    assert found.matched == min(len(c) for c in cores) > 0


def test_a_row_that_both_cores_have_has_no_nearest_in_the_other(small_output: Path) -> None:
    three = list(sweep_latents(small_output, most=0).rows[:3])
    assert all(row.nearest for row in three), "seeds without a common SAE"
    own = rows(3, 0)
    other = torch.stack([own[1], rows(1, 1)[0]])
    found = _with_nearest(three, own, [("other", (LineageId(0, 7), LineageId(0, 8)), other)])
    assert [[near.anchor for near in row.nearest] for row in found] == [["other-0.8"], [], ["other-0.8"]]
    cosine = torch.nn.functional.cosine_similarity(own[2].double(), other[1].double(), dim=0)
    assert found[2].nearest[0].cosine == pytest.approx(float(cosine))
