"""One, two and four gloo processes do what one process does on the whole batch."""

from typing import Any

import pytest
import torch

from .ranks import everything, on_four_ranks, selected, train

pytestmark = pytest.mark.slow  # starts processes that import torch

CASES: list[tuple[dict[str, Any], int]] = [
    ({}, 48),
    ({"n_core": 7}, 45),
    ({"n_core": 7, "core_sparsity": "sparse"}, 50),
    ({"n_core": 7, "k": 1}, 3),
    ({"n_core": 7, "as_on_cuda": True}, 45),
    ({"k": 30}, 33),
]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[int, Any]]:
    return on_four_ranks(tmp_path_factory.mktemp("ranks"), everything, CASES)


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("case", range(len(CASES)), ids=lambda i: str(CASES[i]))
def test_same_weights_as_one_process(results: list[dict[int, Any]], size: int, case: int) -> None:
    options, rows = CASES[case]
    alone = train(None, 1, options, rows)
    of_ranks = [results[rank][size]["trained"][case] for rank in range(size)]
    for other in of_ranks[1:]:
        for name, tensor in other["state"].items():
            assert torch.equal(tensor, of_ranks[0]["state"][name]), f"ranks differ in {name}"
        assert other["stats"] == of_ranks[0]["stats"]
    for name, tensor in alone["state"].items():
        assert float((of_ranks[0]["state"][name] - tensor).abs().max()) < 1e-5, name
    assert torch.equal(of_ranks[0]["silent"], alone["silent"])
    for ours, theirs in zip(of_ranks[0]["stats"], alone["stats"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_same_selected_set_as_one_process(results: list[dict[int, Any]], size: int) -> None:
    alone = selected(None, 1)
    by_rank = [results[rank][size]["selected"] for rank in range(size)]
    for batch, whole in enumerate(alone):
        assert set().union(*(found[batch] for found in by_rank)) == whole
