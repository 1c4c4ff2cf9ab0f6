"""What further axes change: numbers and paired differences against those of the summaries."""

import csv
import json
from html import escape
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmsae_ray.report.axis_effects import axis_effects
from dmsae_ray.report.core_figures import transfer
from dmsae_ray.report.picture import Picture
from dmsae_ray.report.publishing import publish
from dmsae_ray.report.report import make_report
from dmsae_ray.report.setting_figures import carryover, coverage
from tests.report.summaries import make_summary, write_transfer

QUANTILES, SPARSITIES, SEEDS, TAUS = (0.999, 0.99), ("dense", "sparse"), (0, 1, 2, 3), (0.5, 0.9)


def write(folder: Path, k: int, tau: float, quantile: float, sparsity: str, seed: int) -> dict[str, Any]:
    """A made-up trial; with 'sparse' its FVU is better by about 0.1, and with 0.999 nothing but noise is other."""
    summary = make_summary(k, tau, seed)
    random = np.random.default_rng([int(quantile * 1000), len(sparsity), seed, int(tau * 10)])
    for record in (*summary["records"], *summary["controls"].values()):
        record["metrics"]["fvu"] += random.normal(0, 0.01) - 0.1 * (sparsity == "sparse")
    axes = {"distill.quantile": quantile, "sae.core_sparsity": sparsity}
    name = f"k{k}-tau{tau:g}-quantile{quantile!r}-core_sparsity-{sparsity}-seed{seed}"
    summary |= {"trial_id": name, "params": {**summary["params"], "core_sparsity": sparsity, **axes}}
    place = folder / "trials" / name
    place.mkdir(parents=True)
    (place / "summary.json").write_text(json.dumps(summary))
    return summary


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[tuple[Any, ...], dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("axes") / "axes-12345678"
    points = product((4, 6), TAUS, QUANTILES, SPARSITIES, SEEDS)
    return folder, {point: write(folder, *point) for point in points}


def rows_of(picture: Picture | str | None) -> list[dict[str, str]]:
    assert isinstance(picture, Picture)
    return list(csv.DictReader(picture.csv().splitlines()))


def test_differences_are_paired_by_seed_over_all_other_settings(sweep: Any) -> None:
    folder, summaries = sweep
    report = make_report(folder)
    (table,) = [t for t in report.tables if t.title.startswith("What the axes change")]
    rows = {row[0]: dict(zip(table.names, row, strict=True)) for row in table.rows}
    assert list(rows) == ["quantile", "core_sparsity"] and {row["n"] for row in rows.values()} == {"4"}
    assert rows["core_sparsity"]["values"] == "sparse less dense"

    def fvu(seed: int, sparsity: str) -> float:
        found = [s for point, s in summaries.items() if point[4] == seed and point[3] == sparsity]
        assert len(found) == 8
        return float(np.mean([s["records"][-1]["metrics"]["fvu"] for s in found]))

    differences = [fvu(seed, "sparse") - fvu(seed, "dense") for seed in SEEDS]
    assert rows["core_sparsity"]["FVU"].startswith(f"{np.mean(differences):+.3f}* [")
    assert "*" not in rows["quantile"]["FVU"] and rows["quantile"]["carryover"].startswith("0.00")


def test_the_first_value_of_the_config_is_what_others_are_compared_with(sweep: Any) -> None:
    folder, _ = sweep
    report = make_report(folder)
    object.__setattr__(report, "axes", {"distill.quantile": QUANTILES, "sae.core_sparsity": ("sparse", "dense")})
    (table,) = [t for t in report.tables if t.title.startswith("What the axes change")]
    assert [row[1] for row in table.rows] == ["0.99 less 0.999", "dense less sparse"]


def test_a_figure_has_a_line_for_settings_that_differ_in_one_axis_alone(sweep: Any) -> None:
    folder, summaries = sweep
    picture = axis_effects(make_report(folder), folder)
    rows = rows_of(picture)
    # 8 lines an axis (k, coverage, the other axis), 2 values, 6 quantities.
    assert len(rows) == 2 * 8 * 2 * 6
    one = {"axis": "sae.core_sparsity", "others": "k=4 τ=0.9 quantile=0.99", "value": "sparse", "quantity": "FVU"}
    (row,) = [r for r in rows if all(r[name] == value for name, value in one.items())]
    own = [summaries[4, 0.9, 0.99, "sparse", seed]["records"][-1]["metrics"]["fvu"] for seed in SEEDS]
    assert float(row["mean"]) == pytest.approx(np.mean(own), rel=1e-5) and row["n"] == "4"
    assert isinstance(picture, Picture)
    figure = picture.draw()
    assert len([a for a in figure.axes if a.get_ylabel()]) == 12
    assert make_report(folder).finding().count("core_sparsity=") == 2


def test_other_figures_and_tables_tell_the_points_apart(sweep: Any) -> None:
    folder, _ = sweep
    report = make_report(folder)
    for picture in (carryover(report, folder), coverage(report, folder)):
        rows = rows_of(picture)
        assert {(row["quantile"], row["core_sparsity"]) for row in rows} == set(product(("0.99", "0.999"), SPARSITIES))
    for table in report.tables[:3]:
        assert table.names[:5] == ("k", "τ", "quantile", "core sparsity", "n")
        assert len({row[:4] for row in table.rows}) == len(table.rows) == 16


def test_transfers_are_compared_by_what_they_are_trained_around(tmp_path: Path) -> None:
    """lr touches all trainings, sae.core_takes none without a core."""
    fvu: dict[tuple[Any, ...], float] = {}
    for lr, seed in product((0.001, 0.003), range(4)):
        more = (0.1 + 0.002 * seed) * (lr == 0.003)
        fvu["baseline", lr, seed] = write_transfer(
            tmp_path, 20, "baseline", "dense", seed, axes={"recipe.lr": lr}, more_fvu=2 * more
        )
        for takes in ("last_group", "all_groups"):
            axes = {"recipe.lr": lr, "sae.core_takes": takes}
            fvu["distilled", lr, takes, seed] = write_transfer(
                tmp_path, 20, "distilled", "dense", seed, axes=axes, more_fvu=more
            )
    report = make_report(tmp_path)
    assert "With k = 20, at 4 points of 2 further axes, the share" in report.finding()
    found = {table.title: table for table in report.tables}
    transfers = [dict(zip(found["Transfer"].names, row, strict=True)) for row in found["Transfer"].rows]
    assert sorted((t["core"], t["lr"], t["core takes"], t["n"]) for t in transfers) == sorted(
        [("none", lr, "-", "4") for lr in ("0.001", "0.003")]
        + [("distilled (dense)", lr, takes, "4") for lr in ("0.001", "0.003") for takes in ("last_group", "all_groups")]
    )
    changed = found["What the axes change"]
    rows = {(row[0], row[1]): dict(zip(changed.names, row, strict=True)) for row in changed.rows}
    assert set(rows) == {("lr", "none"), ("lr", "distilled (dense)"), ("core_takes", "distilled (dense)")}
    pairs = [[fvu["baseline", lr, seed] for seed in range(4)] for lr in (0.001, 0.003)]
    assert rows["lr", "none"]["FVU"].startswith(f"{np.mean(pairs[1]) - np.mean(pairs[0]):+.3f}* [")
    around = [
        [np.mean([fvu["distilled", lr, t, s] for t in ("last_group", "all_groups")]) for s in range(4)]
        for lr in (0.001, 0.003)
    ]
    assert rows["lr", "distilled (dense)"]["FVU"].startswith(f"{np.mean(around[1]) - np.mean(around[0]):+.3f}* [")
    assert isinstance(axis_effects(report, tmp_path), Picture)
    picture = transfer(report, tmp_path)
    points = {(row["core"], row["lr"], row["core_takes"]) for row in rows_of(picture)}
    assert len(points) == 6 and ("baseline", "0.001", "-") in points
    assert isinstance(picture, Picture)
    (legend,) = picture.draw().legends
    assert len(legend.get_texts()) == 6


@pytest.mark.parametrize("kind", ["cycles", "transfers"])
def test_the_page_has_every_table_and_figure_of_the_report(kind: str, tmp_path: Path) -> None:
    """What report.md and the terminal show, the HTML page shows."""
    folder = tmp_path / "all-12345678"
    for quantile, seed in product(QUANTILES, range(2)):
        if kind == "cycles":
            write(folder, 4, 0.5, quantile, "dense", seed)
        else:
            write_transfer(folder, 20, "distilled", "dense", seed, axes={"distill.quantile": quantile})
    report, files = publish(folder)
    page, pictures = (folder / "report.html").read_text(), {file.stem for file in files if file.suffix == ".png"}
    assert "axis_effects" in pictures and any(t.title.startswith("What the axes change") for t in report.tables)
    for table in report.tables:
        assert escape(table.title) in page, table.title
    for name in pictures:
        assert f'id="figure-{name.replace("_", "-")}"' in page, name


def test_without_axes_nothing_is_said_of_them(tmp_path: Path) -> None:
    folder = tmp_path / "plain-12345678"
    summary = make_summary(4, 0.5, 0)
    place = folder / "trials" / summary["trial_id"]
    place.mkdir(parents=True)
    (place / "summary.json").write_text(json.dumps(summary))
    report = make_report(folder)
    assert axis_effects(report, folder) is None
    assert not any("axes" in table.title for table in report.tables)
