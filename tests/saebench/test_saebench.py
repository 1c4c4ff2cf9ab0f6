"""SAEBench itself on our SAEs: it sees our latents, and its numbers are those of its formulas, written out here."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dmsae_ray.evaluation.metrics import evaluate
from dmsae_ray.evaluation.spliced_loss import Edit
from dmsae_ray.lm.loading import load_tap
from dmsae_ray.lm.tap import Tap
from dmsae_ray.lm.tiny import tiny_model
from dmsae_ray.sae.dictionary import MatryoshkaSAE
from dmsae_ray.sae.files import load_sae, save_sae
from dmsae_ray.saebench.job import Job, run_job
from tests.hub_server import hub_server
from tests.saebench.saebench_here import INSIDE, run_inside, saebench  # noqa: F401 - a fixture

pytestmark = pytest.mark.slow

D, M, LAYER, CONTEXT = 64, 96, 1, 64
ENCODE = """
import sys
import torch
import sae_adapter
from pathlib import Path
from safetensors.torch import load_file, save_file

folder, file, dtype = sys.argv[1:]
sae = sae_adapter.load(Path(folder), "gemma-2-2b", 12, 64, "cpu", getattr(torch, dtype))
sae = sae.to(device="cpu", dtype=getattr(torch, dtype))  # as SAEBench does
x = load_file(file)["x"]
z = sae.encode(x)
norms = sae.W_dec.float().norm(dim=1)
save_file({"z": z, "again": sae(x), "norms": norms, "decoded": sae.decode(z)}, file)
assert sae.cfg.dtype == dtype and sae.cfg.hook_name == "blocks.12.hook_resid_post" and sae.cfg.d_sae == z.shape[-1]
"""
REFUSED = """
import sys
import torch
import sae_adapter
from pathlib import Path

try:
    sae_adapter.load(Path(sys.argv[1]), "gemma-2-2b", 12, 64, "cpu", torch.float32)
except ValueError as error:
    assert str(error) == sys.argv[2] + ": latents [11]"
else:
    raise AssertionError("it was loaded")
"""


PINNED = """
import sys
import hooked_model
import torch
from safetensors.torch import save_file

name, revision, file = sys.argv[1:]
assert hooked_model.is_official(name)
model = hooked_model.load_official(name, revision, "cpu", torch.float32)
save_file({"embedding": model.W_E.detach().contiguous()}, file)
"""


def an_sae(core_sparsity: str = "dense", n_core: int = 7, seed: int = 0, scale: float = 1.0) -> MatryoshkaSAE:
    """An SAE whose latents fire at some of the tokens, as it was trained: with a norm factor to fold."""
    torch.manual_seed(seed)
    core = torch.randn(n_core, D) if n_core else None
    sae = MatryoshkaSAE(D, M, [32, M - 32 - n_core], 8, core=core, core_sparsity=core_sparsity, seed=seed)
    sae.W_enc.copy_(torch.randn(M, D) / 4)
    sae.b_enc.copy_(torch.randn(M) / 4)
    sae.b_dec.copy_(torch.randn(D) / 4)
    sae.W_dec.mul_(scale)
    sae.theta.fill_(0.9)
    sae.norm_factor = 3.7
    return sae


@pytest.mark.parametrize(
    ("core_sparsity", "n_core", "scale"), [("dense", 7, 1.0), ("sparse", 7, 1.0), ("dense", 0, 1.0), ("dense", 5, 2.5)]
)
def test_saebench_sees_exactly_our_latents(
    core_sparsity: str,
    n_core: int,
    scale: float,
    saebench: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    sae = an_sae(core_sparsity, n_core, scale=scale)
    save_sae(sae, tmp_path / "sae")
    ours = load_sae(tmp_path / "sae")
    x = 4 * torch.randn(300, D)
    save_file({"x": x.reshape(3, 100, D)}, tmp_path / "x")
    run_inside(saebench, ENCODE, tmp_path / "sae", tmp_path / "x", "float32")
    theirs = load_file(tmp_path / "x")
    z = ours.encode(x)
    assert 0 < int((z > 0).sum()) < z.numel()
    assert torch.equal(z > 0, theirs["z"].reshape(300, M) > 0)
    # Decoder rows have length 1 there, so that a latent's activation is the length of what it adds.
    exact = 1e-6 if scale == 1 else 1e-5  # rows that had to be scaled are rounded once more
    torch.testing.assert_close(z * scale, theirs["z"].reshape(300, M), rtol=1e-5, atol=exact)
    torch.testing.assert_close(ours.decode(z), theirs["again"].reshape(300, D), rtol=1e-5, atol=1e-5)
    assert torch.equal(theirs["again"], theirs["decoded"])
    torch.testing.assert_close(theirs["norms"], torch.ones(M))


def test_in_bfloat16_the_same_latents_fire(saebench: Path, tmp_path: Path) -> None:  # noqa: F811
    save_sae(an_sae(), tmp_path / "sae")
    ours = load_sae(tmp_path / "sae")
    x = (4 * torch.randn(500, D)).bfloat16()
    save_file({"x": x}, tmp_path / "x")
    run_inside(saebench, ENCODE, tmp_path / "sae", tmp_path / "x", "bfloat16")
    z, theirs = ours.encode(x.float()), load_file(tmp_path / "x")["z"]
    assert theirs.dtype == torch.bfloat16
    assert torch.equal(z > 0, theirs > 0)
    torch.testing.assert_close(z, theirs.float(), rtol=2**-8, atol=1e-3)


@pytest.fixture(scope="module")
def tap() -> Tap:
    return load_tap("tiny", LAYER, "cpu", "float32")


@pytest.fixture(scope="module")
def trained(tap: Tap, tmp_path_factory: pytest.TempPathFactory) -> tuple[MatryoshkaSAE, Path, torch.Tensor]:
    """An SAE that reconstructs something of the embedded model's activations, its folder, and contexts of tokens."""
    torch.manual_seed(3)
    tokens = torch.randint(8, tap.vocab_size, (12, CONTEXT))
    tokens[:, 0], tokens[2, 30] = tap.bos_id, tap.eos_id
    x = tap.activations(tokens)[:, 1:].reshape(-1, D).float()
    sae = an_sae(seed=3)
    sae.norm_factor = 1.0
    sae.b_dec.copy_(x.mean(0))
    rows = (x - x.mean(0))[torch.randperm(len(x))[:M]]
    sae.W_dec.copy_(rows / rows.norm(dim=1, keepdim=True))
    sae.W_enc.copy_(sae.W_dec / 2)
    sae.b_enc.zero_()
    sae.theta.fill_(3.0)
    folder = tmp_path_factory.mktemp("trained") / "sae"
    return sae, save_sae(sae, folder), tokens


def job(evaluation: str, sae: Path, **more: object) -> Job:
    place = Job(evaluation, str(sae), str(tiny_model()), None, "tiny-test", LAYER, CONTEXT, "float32", 8)
    return Job(**{**vars(place), **more})  # type: ignore[arg-type]


@torch.no_grad()
def test_core_and_our_own_numbers(
    trained: tuple[MatryoshkaSAE, Path, torch.Tensor],
    tap: Tap,
    saebench: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    sae, folder, tokens = trained
    save_file({"tokens": tokens.int()}, tmp_path / "tokens")
    outcome = run_job(job("core", folder, tokens=str(tmp_path / "tokens")), saebench)
    assert outcome.error == "" and outcome.versions["sae-bench"] == "0.6.0", outcome.log
    theirs = outcome.metrics

    special = torch.isin(tokens, torch.tensor([t for t in (tap.bos_id, tap.eos_id) if t is not None]))
    x = tap.activations(tokens).float()[~special]
    z = sae.encode(x)
    error = (x - sae.decode(z)).double().square().sum(1)
    ours = evaluate(sae, [x])
    assert theirs["l0"] == pytest.approx(ours.l0, rel=1e-5)
    assert theirs["l1"] == pytest.approx(float(z.sum(1).mean()), rel=1e-4)
    assert theirs["frac_alive"] == pytest.approx(1 - ours.dead_fraction, rel=1e-5)
    # Per batch of contexts the squared errors are divided by that batch's tokens; all batches together are one here.
    assert theirs["mse"] == pytest.approx(float((error / len(x)).mean()), rel=1e-4)
    # Its explained variance takes from E|x|^2 the square of the mean of x_i^2, which is no variance of x.
    mean = x.double().square().mean()
    assert theirs["explained_variance"] == pytest.approx(
        1 - float(error.mean() / (x.double().square().sum(1).mean() - mean**2)), rel=1e-4
    )
    assert abs(theirs["explained_variance"] - ours.explained_variance) > 0.01, "it differs from ours"
    # And the old one is a mean over tokens of ratios; FVU is the ratio of the sums.
    about = (x - x.mean(0)).double().square().sum(1)
    assert theirs["explained_variance_legacy"] == pytest.approx(1 - float((error / about).mean()), rel=1e-4)
    assert 1 - float(error.sum() / about.sum()) == pytest.approx(ours.explained_variance, rel=1e-5)

    def loss(edit: Edit | None) -> float:
        # Nothing is predicted at tokens that are special themselves; in ours, nothing across documents.
        total, targets = tap.loss(tokens, edit, ~special)
        return float(total) / targets

    def spliced(h: torch.Tensor) -> torch.Tensor:
        flat = sae.decode(sae.encode(h.reshape(-1, D))).reshape(h.shape)
        return torch.where(special[..., None], h, flat)

    clean, through, zero = loss(None), loss(spliced), loss(torch.zeros_like)
    assert theirs["ce_loss_without_sae"] == pytest.approx(clean, rel=1e-4)
    assert theirs["ce_loss_with_sae"] == pytest.approx(through, rel=1e-4)
    assert theirs["ce_loss_with_ablation"] == pytest.approx(zero, rel=1e-4)
    assert theirs["ce_loss_score"] == pytest.approx((zero - through) / (zero - clean), rel=1e-3)


def test_probes_on_texts_of_one_s_own(
    trained: tuple[MatryoshkaSAE, Path, torch.Tensor],
    saebench: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    data = tmp_path / "data"
    data.mkdir()
    rows = [
        {"label": label, "text": f"{word} " * (5 + n % 7) + f"number {n} of the list"}
        for n in range(50)
        for label, word in (("return", "return the value"), ("import", "import module name"))
    ]
    (data / "words.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = run_job(job("sparse_probing", trained[1], data=str(data)), saebench)
    assert found.error == "", found.log
    # Words that differ in every text: a probe on all of the activations tells them apart.
    assert found.metrics["llm_test_accuracy"] >= 0.95
    assert {"sae_top_1_test_accuracy", "sae_top_2_test_accuracy", "sae_top_5_test_accuracy"} <= found.metrics.keys()
    assert all(0 <= value <= 1 for value in found.metrics.values())
    removed = run_job(job("tpp", trained[1], data=str(data)), saebench)
    assert removed.error == "", removed.log
    assert removed.metrics["tpp_threshold_10_total_metric"] == pytest.approx(
        removed.metrics["tpp_threshold_10_intended_diff_only"]
        - removed.metrics["tpp_threshold_10_unintended_diff_only"]
    )


def test_a_model_that_transformer_lens_knows_is_read_at_its_revision(saebench: Path, tmp_path: Path) -> None:  # noqa: F811
    """From a Hub whose main has moved on since."""
    from transformers import AutoTokenizer, GPTNeoXConfig, GPTNeoXForCausalLM

    name = "EleutherAI/pythia-14m"
    tokenizer = AutoTokenizer.from_pretrained(tiny_model())
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    embeddings = []
    with hub_server() as hub:
        commits = []
        for seed in range(2):
            torch.manual_seed(seed)
            model = GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **shape))
            embeddings.append(model.gpt_neox.embed_in.weight.detach().clone())
            folder = tmp_path / str(seed)
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            commits.append(hub.commit(name, {path.name: path.read_bytes() for path in folder.iterdir()}))
        variables = {**hub.environment(str(tmp_path / "cache")), "HF_HUB_OFFLINE": "0"}
        run_inside(saebench, PINNED, name, commits[0], tmp_path / "read.safetensors", **variables)
    assert load_file(tmp_path / "read.safetensors")["embedding"].equal(embeddings[0])
    assert not embeddings[0].equal(embeddings[1])


def test_it_ends_with_the_process_that_waits_for_it(saebench: Path, tmp_path: Path) -> None:  # noqa: F811
    for name, stays in (("dmsae-eval-1", False), ("another", True)):
        job = tmp_path / name / "job.json"
        job.parent.mkdir()
        # 1 is not the process that starts it: as if that had ended while it was being loaded.
        done = subprocess.run([str(saebench), str(INSIDE), str(job), "1"], capture_output=True, timeout=60)
        assert (done.returncode, done.stderr) == (1, b"") and job.parent.exists() is stays


def test_what_saebench_cannot_evaluate_is_said(
    trained: tuple[MatryoshkaSAE, Path, torch.Tensor],
    saebench: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    save_sae(MatryoshkaSAE(32, M, [32, M - 32], 8), tmp_path / "narrow")
    outcome = run_job(job("core", tmp_path / "narrow", tokens="gone"), saebench)
    assert outcome.error.startswith("ValueError: the SAE is for activations of width 32; ")
    assert outcome.error.endswith(" has 64")
    lost = an_sae()
    lost.W_dec[11] = 0
    save_sae(lost, tmp_path / "lost")
    run_inside(saebench, REFUSED, tmp_path / "lost", "the SAE's decoder has rows of length 0, which SAEBench refuses")


def test_an_evaluation_that_gives_nothing_is_told(
    trained: tuple[MatryoshkaSAE, Path, torch.Tensor],
    saebench: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    outcome = run_job(job("core", trained[1].with_name("gone"), tokens="gone"), saebench)
    assert outcome.metrics == {} and outcome.error.startswith("FileNotFoundError: ")
    assert "Traceback" in outcome.log
