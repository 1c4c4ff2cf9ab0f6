"""int8 rows: their error, and what an SAE that is trained on them loses by it."""

import json
from pathlib import Path

import pytest
import torch

from dmsae_ray.store.int8 import dequantise, quantise

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_an_element_is_off_by_at_most_half_a_step_of_its_row() -> None:
    x = torch.randn(500, 32, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.01, 300, 32) + 50
    parts = quantise(x)
    step = parts["scale"][:, None] * parts["spread"]
    assert parts["x"].dtype == torch.int8
    assert bool(((dequantise(parts) - x).abs() <= 0.501 * step + 1e-5 * x.abs()).all())


def test_an_sae_trained_on_int8_explains_as_much_as_one_on_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real training on real activations; the committed figure is of a longer one."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import bench_int8

    found = bench_int8.compare(30_000, 1, [(512, 8)], 150)
    (setting,) = found["settings"]
    assert setting["fvu"]["bfloat16"][0] < 0.5  # it has learnt something
    assert abs(found["largest_change"]) < bench_int8.ALLOWED
    measured = json.loads((BENCHMARKS / "results" / "int8.json").read_text())
    assert abs(measured["largest_change"]) < bench_int8.ALLOWED == measured["allowed"]
