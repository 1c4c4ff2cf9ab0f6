"""Against dictionary_learning's own MatryoshkaBatchTopKTrainer, where that package is installed (--no-deps will do)."""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from dmsae_ray.sae.dictionary import MatryoshkaSAE
from dmsae_ray.sae.dictionary_learning import export_dictionary_learning, load_dictionary_learning
from dmsae_ray.sae.recipe import Recipe
from dmsae_ray.sae.trainer import SAETrainer
from tests.optional import left_out

from .worlds import features


@pytest.fixture(scope="module")
def peer() -> Any:
    """The module of the peer's trainer; its package's __init__ is passed by, which imports language-model tools."""
    spec = importlib.util.find_spec("dictionary_learning")
    if spec is None or spec.origin is None or importlib.util.find_spec("einops") is None:
        left_out("pip install --no-deps dictionary-learning einops to compare with dictionary_learning itself")
    root = Path(spec.origin).parent
    for name, folder in (("dictionary_learning", root), ("dictionary_learning.trainers", root / "trainers")):
        if name not in sys.modules:
            shell = ModuleType(name)
            shell.__path__ = [str(folder)]
            sys.modules[name] = shell
    return importlib.import_module("dictionary_learning.trainers.matryoshka_batch_top_k")


CASES = [
    {"d": 24, "m": 160, "fractions": [1 / 16, 1 / 8, 1 / 4, 9 / 16], "k": 5, "batch": 64, "dead": 300},
    {"d": 32, "m": 256, "fractions": [1 / 32, 1 / 16, 1 / 8, 1 / 4, 17 / 32], "k": 12, "batch": 33, "dead": 60},
    {"d": 7, "m": 41, "fractions": [1.0], "k": 1, "batch": 128, "dead": 100},
    {"d": 16, "m": 64, "fractions": [1 / 64, 63 / 64], "k": 4, "batch": 32, "dead": 100},
    {"d": 16, "m": 96, "fractions": [1 / 32, 1 / 32, 30 / 32], "k": 8, "batch": 31, "dead": 60},
    {"d": 16, "m": 64, "fractions": [0.5, 0.5], "k": 4, "batch": 2, "dead": 20},
    {"d": 19, "m": 67, "fractions": [0.3, 0.7], "k": 5, "batch": 3, "dead": 1},
    {"d": 32, "m": 512, "fractions": [0.25, 0.75], "k": 2, "batch": 16, "dead": 16},
    {"d": 32, "m": 128, "fractions": [0.5, 0.5], "k": 4, "batch": 32, "dead": 100, "k_aux": 3, "weights": [0.9, 0.3]},
    {"d": 64, "m": 168, "fractions": [0.2, 0.8], "k": 50, "batch": 64, "dead": 64, "aux": False},
    {"d": 16, "m": 32, "fractions": [0.25, 0.75], "k": 32, "batch": 16, "dead": 50, "aux": False},
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_fifty_steps_follow_dictionary_learning(peer: Any, case: dict[str, Any]) -> None:
    schedule: dict[str, Any] = {"lr": 1e-3, "warmup_steps": 5, "decay_start": 40, "threshold_start_step": 10}
    theirs = peer.MatryoshkaBatchTopKTrainer(
        steps=60,
        activation_dim=case["d"],
        dict_size=case["m"],
        k=case["k"],
        layer=0,
        lm_name="none",
        group_fractions=case["fractions"],
        group_weights=case.get("weights"),
        seed=3,
        device="cpu",
        **schedule,
    )
    theirs.dead_feature_threshold = case["dead"]
    theirs.top_k_aux = case.get("k_aux", theirs.top_k_aux)
    sae = MatryoshkaSAE(case["d"], case["m"], theirs.group_sizes, case["k"], seed=3)
    assert torch.equal(sae.W_dec, theirs.ae.W_dec.detach()), "the same seed gives the peer's initial weights"
    how = Recipe(
        steps=60,
        dead_after_tokens=case["dead"],
        k_aux=case.get("k_aux"),
        group_weights=case.get("weights"),
        **schedule,
    )
    ours = SAETrainer(sae, how)
    aux_steps = 0
    for step in range(50):
        x = features(case["batch"], case["d"], step)
        their_loss, stats = theirs.update(step, x.clone()), ours.step(x)
        assert float(stats.loss) == pytest.approx(their_loss, rel=1e-4)
        aux_steps += float(stats.aux_loss) > 0
    assert (aux_steps > 5) == case.get("aux", True)
    for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
        weights = getattr(theirs.ae, name).detach()
        error = (getattr(sae, name) - (weights.T if name == "W_enc" else weights)).abs().max()
        assert error < 1e-4, f"{name} differs by {float(error)}"
    assert float(sae.theta) == pytest.approx(float(theirs.ae.threshold), rel=1e-4, abs=1e-6)
    assert torch.equal(ours.state_dict()["silence"]["tokens"], theirs.num_tokens_since_fired)


def test_the_peer_reads_what_we_write_and_we_read_what_it_writes(peer: Any, tmp_path: Path) -> None:
    sae = MatryoshkaSAE(24, 160, [10, 50, 100], 5, seed=1)
    sae.b_enc.data.uniform_(-0.1, 0.1)
    sae.theta.fill_(0.05)
    sae.norm_factor = 3.0
    export_dictionary_learning(sae, tmp_path / "ours", "model", 3)
    theirs = peer.MatryoshkaBatchTopKSAE.from_pretrained(tmp_path / "ours" / "ae.pt")
    x = features(50, 24, 0) * 3
    assert torch.allclose(theirs.encode(x), sae.folded().encode(x), atol=1e-6)
    assert torch.allclose(theirs(x), sae.folded()(x), atol=1e-6)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "config.json").write_text((tmp_path / "ours" / "config.json").read_text())
    torch.save(theirs.state_dict(), tmp_path / "theirs" / "ae.pt")
    assert torch.equal(load_dictionary_learning(tmp_path / "theirs").encode(x), sae.folded().encode(x))
