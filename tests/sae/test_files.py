"""Files: our own, dictionary_learning's and SAELens's layouts, and what is wrong with a file in one line."""

import importlib
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from dmsae_ray.errors import DataError
from dmsae_ray.sae.dictionary import MatryoshkaSAE
from dmsae_ray.sae.dictionary_learning import export_dictionary_learning, load_dictionary_learning
from dmsae_ray.sae.files import load_sae, save_sae
from dmsae_ray.sae.saelens import export_saelens, load_saelens
from dmsae_ray.sae.trainer import SAETrainer
from tests.benchmarks import peers
from tests.optional import left_out

from .worlds import features, make_sae, recipe

OPTIONS = [{}, {"n_core": 6}, {"n_core": 6, "core_sparsity": "sparse"}]


def trained(**options: Any) -> MatryoshkaSAE:
    """As after training: every number is something, and a norm factor waits to be folded in."""
    sae = make_sae(**options)
    g = torch.Generator().manual_seed(3)
    sae.b_enc.data.uniform_(-0.1, 0.1, generator=g)
    sae.b_dec.data.uniform_(-0.5, 0.5, generator=g)
    sae.theta.fill_(0.15)
    sae.norm_factor = 4.0
    return sae


X = features(200, 12, 0) * 4


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_own_round_trip_takes_raw_activations(options: dict[str, Any], tmp_path: Path) -> None:
    sae = trained(**options)
    save_sae(sae, tmp_path / "sae", {"cycle": 3})
    loaded = load_sae(tmp_path / "sae")
    for name, tensor in sae.folded().state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert (loaded.n_core, loaded.group_sizes, loaded.k) == (sae.n_core, sae.group_sizes, sae.k)
    assert (loaded.core_sparsity, loaded.norm_factor) == (sae.core_sparsity, 1.0)
    assert torch.equal(loaded.encode(X), sae.folded().encode(X))
    assert json.loads((tmp_path / "sae" / "config.json").read_text())["extra"] == {"cycle": 3}
    assert sorted(p.name for p in (tmp_path / "sae").iterdir()) == ["config.json", "sae.safetensors"]


def peer_files(folder: Path, sae: MatryoshkaSAE, trainer_class: str, **changes: Any) -> None:
    """ae.pt and config.json with the peer's layout, W_enc a transposed view."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        "W_enc": sae.W_enc.detach().T,
        "b_enc": sae.b_enc.detach(),
        "W_dec": sae.W_dec.detach(),
        "b_dec": sae.b_dec.detach(),
        "k": torch.tensor(sae.k, dtype=torch.int32),
        "threshold": torch.tensor(0.15),
        "group_sizes": torch.tensor(sae.group_sizes),
    }
    state.update(changes)
    torch.save({name: value for name, value in state.items() if value is not None}, folder / "ae.pt")
    config = {"trainer": {"trainer_class": trainer_class, "k": sae.k, "group_sizes": list(sae.group_sizes)}}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("spelling", ["MatryoshkaBatchTopKTrainer", "MatroyshkaBatchTopKTrainer"])
def test_reads_dictionary_learning(spelling: str, tmp_path: Path) -> None:
    sae = make_sae()
    sae.theta.fill_(0.15)
    peer_files(tmp_path, sae, spelling)
    loaded = load_dictionary_learning(tmp_path)
    assert torch.equal(loaded.encode(X), sae.encode(X))
    assert (loaded.group_sizes, loaded.k, loaded.n_core) == ((8, 16, 40), 4, 0)
    assert loaded.W_enc.is_contiguous() and not loaded.W_enc.requires_grad


def test_reads_the_linear_layer_spelling(tmp_path: Path) -> None:
    sae = make_sae()
    sae.theta.fill_(0.15)
    linear = {
        "encoder.weight": sae.W_enc.detach(),
        "encoder.bias": sae.b_enc.detach(),
        "decoder.weight": sae.W_dec.detach().T,
    }
    gone = dict.fromkeys(("W_enc", "b_enc", "W_dec", "group_sizes"))
    peer_files(tmp_path, sae, "MatryoshkaBatchTopKTrainer", **linear, **gone)
    assert torch.equal(load_dictionary_learning(tmp_path).encode(X), sae.encode(X))


@pytest.mark.parametrize("options", [{}, {"n_core": 6, "core_sparsity": "sparse"}], ids=str)
def test_matryoshka_export_is_read_back(options: dict[str, Any], tmp_path: Path) -> None:
    sae = trained(**options)
    export_dictionary_learning(sae, tmp_path, "google/gemma-2-2b", 12)
    assert torch.equal(load_dictionary_learning(tmp_path).encode(X), sae.folded().encode(X))
    state = torch.load(tmp_path / "ae.pt", weights_only=True)
    assert list(state) == ["W_enc", "b_enc", "W_dec", "b_dec", "k", "threshold", "group_sizes"]
    assert state["threshold"].shape == () and state["k"].dtype == torch.int32
    config = json.loads((tmp_path / "config.json").read_text())["trainer"]
    assert (config["lm_name"], config["layer"]) == ("google/gemma-2-2b", 12)
    assert config["trainer_class"] == "MatryoshkaBatchTopKTrainer"


def test_dense_core_is_exported_as_jump_relu(tmp_path: Path) -> None:
    sae = trained(n_core=6)
    export_dictionary_learning(sae, tmp_path, "google/gemma-2-2b", 12)
    state = torch.load(tmp_path / "ae.pt", weights_only=True)
    # JumpReluAutoEncoder.encode of dictionary_learning: no b_dec before the encoder, strict >.
    pre = X @ state["W_enc"] + state["b_enc"]
    z = torch.relu(pre) * (pre > state["threshold"])
    assert torch.allclose(z, sae.folded().encode(X), atol=1e-5)
    assert torch.allclose(z @ state["W_dec"] + state["b_dec"], sae.folded()(X), atol=1e-5)
    assert state["threshold"].shape == (64,) and bool((state["threshold"][:6] == 0).all())
    config = json.loads((tmp_path / "config.json").read_text())
    del config["dmsae_ray"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match="'JumpReluTrainer', which has no groups unless"):
        load_dictionary_learning(tmp_path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(1, 9),
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.integers(0, 6),
    st.sampled_from(["dense", "sparse"]),
    st.booleans(),
    st.sampled_from([-1.0, 0.0, 0.3]),
    st.sampled_from([1.0, 4.0]),
    st.integers(0, 2**31),
)
def test_an_export_comes_back_with_its_core(
    tmp_path: Path,
    d: int,
    sizes: list[int],
    n_core: int,
    sparsity: Any,
    linear: bool,
    theta: float,
    norm: float,
    seed: int,
) -> None:
    """Either layout, in either spelling of its keys: same core rows bit for bit, same latents and reconstruction."""
    g = torch.Generator().manual_seed(seed)
    core = torch.randn(n_core, d, generator=g) if n_core else None
    sae = MatryoshkaSAE(d, sum(sizes) + n_core, sizes, 1, core=core, core_sparsity=sparsity, seed=seed % 97)
    sae.b_enc.data.normal_(generator=g)
    sae.b_dec.data.normal_(generator=g)
    sae.theta.fill_(theta)
    sae.norm_factor = norm
    export_dictionary_learning(sae, tmp_path, "model", 3)
    if linear:
        state = torch.load(tmp_path / "ae.pt", weights_only=True)
        state["encoder.weight"], state["encoder.bias"] = state.pop("W_enc").T, state.pop("b_enc")
        state["decoder.weight"] = state.pop("W_dec").T
        torch.save(state, tmp_path / "ae.pt")
    loaded, raw = load_dictionary_learning(tmp_path), sae.folded()
    assert (loaded.n_core, loaded.core_sparsity, loaded.group_sizes) == (n_core, sparsity, sae.group_sizes)
    assert (loaded.k, loaded.seed, loaded.norm_factor) == (sae.k, sae.seed, 1.0)
    for name in ("W_enc", "W_dec", "b_dec"):
        assert torch.equal(getattr(loaded, name), getattr(raw, name)), name
    jump_relu = n_core > 0 and sparsity == "dense"
    assert torch.allclose(loaded.b_enc, raw.b_enc, rtol=0, atol=1e-5 if jump_relu else 0)
    assert float(loaded.theta) == (max(0.0, float(raw.theta)) if jump_relu else float(raw.theta))
    x = torch.randn(50, d, generator=g) * norm
    near = ((x - raw.b_dec) @ raw.W_enc.T + raw.b_enc - raw.threshold).abs() < 1e-4
    assert torch.allclose(loaded.encode(x).masked_fill(near, 0), raw.encode(x).masked_fill(near, 0), atol=1e-4)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_saelens_export(options: dict[str, Any], tmp_path: Path) -> None:
    sae = trained(**options)
    export_saelens(sae, tmp_path, "gemma-2-2b", "blocks.12.hook_resid_post", context_size=128)
    config = json.loads((tmp_path / "cfg.json").read_text())
    tensors = load_file(tmp_path / "sae_weights.safetensors")
    assert config["architecture"] == "jumprelu" and config["normalize_activations"] == "none"
    assert config["apply_b_dec_to_input"] is True
    assert config["metadata"]["sae_lens_version"] >= "6" and config["metadata"]["context_size"] == 128
    shapes = {"W_enc": (12, 64), "b_enc": (64,), "W_dec": (64, 12), "b_dec": (12,), "threshold": (64,)}
    assert {name: tuple(t.shape) for name, t in tensors.items()} == shapes
    # JumpReLUSAE.encode and decode of sae_lens.
    pre = (X - tensors["b_dec"]) @ tensors["W_enc"] + tensors["b_enc"]
    z = torch.relu(pre) * (pre > tensors["threshold"])
    assert torch.allclose(z, sae.folded().encode(X), atol=1e-6)
    assert torch.allclose(z @ tensors["W_dec"] + tensors["b_dec"], sae.folded()(X), atol=1e-5)


@pytest.fixture
def sae_lens() -> Iterator[Any]:
    """SAELens itself; what it imports for language models, and does not need here, may be missing."""
    try:
        with peers.empty_modules():
            yield importlib.import_module("sae_lens")
    except ImportError as error:
        left_out(f"{error}: see tests/benchmarks/peers.py for what to install to compare with SAELens itself")
    finally:
        for name in [name for name, module in sys.modules.items() if isinstance(module, peers.EmptyModule)]:
            del sys.modules[name]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_saelens_itself_gives_the_same_latents(sae_lens: Any, options: dict[str, Any], tmp_path: Path) -> None:
    sae = trained(**options)
    export_saelens(sae, tmp_path, "gemma-2-2b", "blocks.12.hook_resid_post")
    theirs = sae_lens.SAE.load_from_disk(str(tmp_path))
    assert torch.allclose(theirs.encode(X), sae.folded().encode(X), atol=1e-6)
    assert torch.allclose(theirs(X), sae.folded()(X), atol=1e-6)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_what_is_written_for_saelens_is_read_again(options: dict[str, Any], tmp_path: Path) -> None:
    raw = trained(**options).folded()
    export_saelens(raw, tmp_path, "gemma-2-2b", "blocks.12.hook_resid_post")
    loaded = load_saelens(tmp_path, k=99)
    assert (loaded.n_core, loaded.group_sizes, loaded.k) == (raw.n_core, raw.group_sizes, raw.k)
    assert (loaded.core_sparsity, loaded.norm_factor) == (raw.core_sparsity, 1.0)
    for name, tensor in raw.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def of_saelens(sae_lens: Any, folder: Path, how: str, **options: Any) -> Any:
    """Have SAELens write a dictionary with random weights; return what it reads again for use."""
    kind = "MatryoshkaBatchTopK" if "matryoshka_widths" in options else "BatchTopK"
    saes = importlib.import_module("sae_lens.saes")
    config = getattr(saes, f"{kind}TrainingSAEConfig")(d_in=12, d_sae=64, k=5.0, **options)
    sae = getattr(saes, f"{kind}TrainingSAE")(config)
    g = torch.Generator().manual_seed(3)
    for weights in sae.parameters():
        weights.data.copy_(torch.randn(weights.shape, generator=g) * 0.4)
    sae.topk_threshold.fill_(0.6)
    sae.save_inference_model(folder)
    theirs = sae_lens.SAE.load_from_disk(str(folder))
    if how == "of a training":
        sae.save_model(folder)
    elif how != "for use":  # as older versions of SAELens did
        written = json.loads((folder / "cfg.json").read_text())
        (folder / "cfg.json").write_text(json.dumps({**written, "metadata": {"sae_lens_version": "6.0.0"}}))
        if how == "with its runner":
            (folder / "runner_cfg.json").write_text(json.dumps({"sae": config.to_dict()}))
    return theirs


@pytest.mark.parametrize("how", ["for use", "with its runner", "of a training"])
@pytest.mark.parametrize(
    "options",
    [
        {"matryoshka_widths": [8, 24, 64]},
        {"matryoshka_widths": [8, 24], "apply_b_dec_to_input": False},
        {"matryoshka_widths": [8, 24], "rescale_acts_by_decoder_norm": False},
    ],
    ids=str,
)
def test_a_dictionary_of_saelens_gives_its_latents(
    sae_lens: Any, options: dict[str, Any], how: str, tmp_path: Path
) -> None:
    theirs = of_saelens(sae_lens, tmp_path, how, **options)
    ours = load_saelens(tmp_path, k=99)
    assert (ours.group_sizes, ours.n_core, ours.k) == ((8, 16, 40), 0, 5)
    z = theirs.encode(X)
    assert 0.1 < float((z > 0).float().mean()) < 0.9
    near = ((X - ours.b_dec) @ ours.W_enc.T + ours.b_enc - ours.theta).abs() < 1e-4
    assert torch.allclose(ours.encode(X).masked_fill(near, 0), z.masked_fill(near, 0), atol=1e-4)
    assert torch.allclose(ours.decode(z), theirs.decode(z), atol=1e-3)


def test_a_dictionary_of_saelens_without_groups_is_one_group(
    sae_lens: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = of_saelens(sae_lens, tmp_path / "a", "alone", matryoshka_widths=[8, 64])
    ours = load_saelens(tmp_path / "a", k=7)
    assert (ours.group_sizes, ours.k) == ((64,), 7) and "does not say in which Matryoshka groups" in caplog.text
    assert torch.allclose(ours.encode(X), theirs.encode(X), atol=1e-4)
    caplog.clear()
    for how in ("for use", "with its runner", "of a training"):
        of_saelens(sae_lens, tmp_path / how, how)
        assert (load_saelens(tmp_path / how, k=7).group_sizes, caplog.records) == ((64,), [])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"architecture": "gated"}, "cfg.json: architecture is 'gated', must be 'jumprelu' or 'batchtopk' or 'matr"),
        ({"architecture": None}, "cfg.json: architecture is None, must be"),
        ({"normalize_activations": "layer_norm"}, "cfg.json: normalize_activations is 'layer_norm', must be 'none'"),
        ({"reshape_activations": "hook_z"}, "cfg.json: reshape_activations is 'hook_z', must be 'none'"),
        ({"apply_b_dec_to_input": 1}, "cfg.json: apply_b_dec_to_input is 1, must be True or False"),
        ({"architecture": "batchtopk"}, "sae_weights.safetensors: holds .*'threshold'.* must hold .*'topk_threshold'"),
        ({"d_sae": 65}, "cfg.json: group_sizes.* add up to 64, not to 65"),
        ({"d_in": 13}, r"W_enc has shape \[64, 12\] in our order, must have \[64, 13\]"),
        ({"d_in": "13"}, "cfg.json: "),
        ({"metadata": {}, "matryoshka_widths": [9, 8]}, r"cfg.json: matryoshka_widths is \[9, 8\]; it must rise"),
        ({"thresholds": 0}, "safetensors: threshold is from 0.1 to 0.9, must be one number.*a JumpReLU"),
        ({"thresholds": 3}, "safetensors: threshold has 3 numbers, must have 64"),
    ],
    ids=str,
)
def test_another_dictionary_of_saelens_is_refused_in_one_line(
    changes: dict[str, Any], says: str, tmp_path: Path
) -> None:
    export_saelens(trained(), tmp_path, "gemma-2-2b", "blocks.12.hook_resid_post")
    count = changes.pop("thresholds", None)
    if count is not None:
        tensors = load_file(tmp_path / "sae_weights.safetensors")
        tensors["threshold"] = torch.linspace(0.1, 0.9, count or 64)
        save_file(tensors, tmp_path / "sae_weights.safetensors")
    config = json.loads((tmp_path / "cfg.json").read_text())
    (tmp_path / "cfg.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(DataError, match=f"^[^\n]*{says}[^\n]*$"):
        load_saelens(tmp_path, k=5)


def damage(folder: Path, what: str) -> None:
    weights = next(p for p in folder.iterdir() if p.suffix in (".safetensors", ".pt"))
    config = folder / "config.json"
    if what == "no weights":
        weights.unlink()
    elif what == "truncated weights":
        weights.write_bytes(weights.read_bytes()[:-200])
    elif what == "half of the weights":
        weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    elif what == "empty weights":
        weights.write_bytes(b"")
    elif what == "garbage weights":
        weights.write_bytes(b"not a file of weights" * 100)
    elif what == "no config":
        config.unlink()
    elif what == "truncated config":
        config.write_text(config.read_text()[:20])
    elif what == "config of something else":
        config.write_text("[" * 100_000)
    elif what == "config without its fields":
        format_only = {"format": "dmsae_ray.sae/1"}
        config.write_text(json.dumps(format_only))


DAMAGES = [
    "no weights", "truncated weights", "half of the weights", "empty weights", "garbage weights",
    "no config", "truncated config", "config of something else", "config without its fields",
]  # fmt: skip


@pytest.mark.parametrize("what", DAMAGES)
@pytest.mark.parametrize("kind", ["own", "dictionary_learning", "jump_relu"])
def test_a_damaged_file_is_a_one_line_error(kind: str, what: str, tmp_path: Path) -> None:
    folder = tmp_path / "sae"
    if kind == "own":
        save_sae(trained(), folder)
    else:
        export_dictionary_learning(trained(n_core=6 if kind == "jump_relu" else 0), folder, "model", 1)
    damage(folder, what)
    with pytest.raises(DataError, match=str(folder)) as error:
        (load_sae if kind == "own" else load_dictionary_learning)(folder)
    assert "\n" not in str(error.value)


def named_keys(value: dict[str, Any] | str) -> str:
    return value if isinstance(value, str) else "+".join(value)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"b_enc": torch.zeros(63)}, "b_enc"),
        ({"W_dec": torch.zeros(64, 11)}, "W_dec"),
        ({"threshold": torch.zeros(64)}, "theta"),
        ({"group_sizes": torch.tensor([8, 16, 41])}, "group_sizes"),
        ({"k": torch.tensor(65)}, "k: 65"),
        ({"W_dec": None}, "W_dec"),
        ({"surplus": torch.zeros(1)}, "surplus"),
        ({"optimizer": {"state": 1}}, "backup"),
        ({"W_enc": torch.zeros(64)}, "W_enc"),
        ({"W_dec": torch.zeros(64, 12, dtype=torch.complex64)}, "floating"),
        ({"W_dec": torch.zeros(64, 12).to_sparse()}, "ae.pt"),
        ({"encoder.bias": torch.zeros(64)}, "both ways"),
        ({"k": torch.tensor(torch.inf)}, "infinity"),
        ({"k": torch.tensor(4.5)}, "whole number"),
        ({"W_dec": torch.zeros(1).expand(10**6, 10**6)}, "larger than the file"),
        ({"W_dec": torch.zeros(64, 12, device="meta")}, "plain numbers"),
    ],
    ids=named_keys,
)
def test_a_peer_file_of_another_shape_is_a_one_line_error(changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    peer_files(tmp_path, make_sae(), "MatryoshkaBatchTopKTrainer", **changes)
    with pytest.raises(DataError, match=named) as error:
        load_dictionary_learning(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"threshold": torch.zeros(())}, "theta"),
        ({"threshold": torch.zeros(63)}, "theta"),
        ({"threshold": torch.rand(64)}, "thresholds"),
        ({"b_enc": torch.zeros(63)}, "b_enc"),
        ({"b_dec": torch.zeros(11)}, "b_dec"),
        ({"W_enc": torch.zeros(12, 63)}, "group_sizes"),
        ({"W_enc": torch.zeros(64)}, "W_enc"),
        ({"W_dec": None}, "W_dec"),
        ({"surplus": torch.zeros(1)}, "surplus"),
    ],
    ids=named_keys,
)
def test_a_jump_relu_file_of_another_shape_is_a_one_line_error(
    changes: dict[str, Any], named: str, tmp_path: Path
) -> None:
    export_dictionary_learning(trained(n_core=6), tmp_path, "model", 1)
    state = {**torch.load(tmp_path / "ae.pt", weights_only=True), **changes}
    torch.save({name: value for name, value in state.items() if value is not None}, tmp_path / "ae.pt")
    with pytest.raises(DataError, match=named) as error:
        load_dictionary_learning(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        {"n_core": 7},
        {"n_core": -1},
        {"n_core": "six"},
        {"group_sizes": {"a": 1}},
        {"k": {"a": 1}},
        {"k": 4.5},
        {"k": None},
        {"k": 65},
        {"group_sizes": 3},
        {"core_sparsity": "half"},
    ],
    ids=str,
)
def test_what_config_says_of_the_core_is_checked(change: dict[str, Any], tmp_path: Path) -> None:
    export_dictionary_learning(trained(n_core=6), tmp_path, "model", 1)
    config = json.loads((tmp_path / "config.json").read_text())
    config["dmsae_ray"].update(change)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match=str(tmp_path)) as error:
        load_dictionary_learning(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("legacy", [False, True])
def test_whatever_is_wrong_with_the_bytes_is_a_one_line_error(legacy: bool, tmp_path: Path) -> None:
    peer_files(tmp_path, make_sae(), "MatryoshkaBatchTopKTrainer")
    path = tmp_path / "ae.pt"
    torch.save(torch.load(path, weights_only=True), path, _use_new_zipfile_serialization=not legacy)
    whole, order = path.read_bytes(), random.Random(0)
    refused = 0
    for trial in range(300):
        content = bytearray(whole[: order.randrange(len(whole))] if trial % 3 == 0 else whole)
        if trial % 3 and content:
            content[order.randrange(min(len(content), 1400))] ^= 1 << order.randrange(8)
        path.write_bytes(content)
        try:
            load_dictionary_learning(tmp_path)
        except DataError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 100


@pytest.mark.parametrize("odd", ["strided", "expanded", "overlapping", "tied"])
def test_weights_that_share_memory_are_trained_apart(odd: str, tmp_path: Path) -> None:
    plain = make_sae()
    changes: dict[str, Any] = {
        "strided": {"b_enc": torch.zeros(128)[::2], "b_dec": torch.zeros(24)[::2]},
        "expanded": {"b_enc": torch.zeros(1).expand(64), "b_dec": torch.zeros(1).expand(12)},
        "overlapping": {"b_enc": (both := torch.zeros(70))[:64], "b_dec": both[58:]},
        "tied": {"W_dec": (rows := plain.W_dec.detach().clone()), "W_enc": rows.T},
    }[odd]
    peer_files(tmp_path, plain, "MatryoshkaBatchTopKTrainer", **changes)
    loaded = load_dictionary_learning(tmp_path)
    plain.theta.copy_(loaded.theta)
    ours, expected = SAETrainer(loaded, recipe()), SAETrainer(plain, recipe())
    for step in range(6):
        assert ours.step(features(48, 12, step)).floats() == expected.step(features(48, 12, step)).floats()
    save_sae(loaded, tmp_path / "own")


def test_a_peer_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    peer_files(tmp_path, make_sae(), "MatryoshkaBatchTopKTrainer")
    torch.save({"W_enc": pytest.raises}, tmp_path / "ae.pt")
    with pytest.raises(DataError, match=r"ae\.pt: not a whole torch file of tensors alone") as error:
        load_dictionary_learning(tmp_path)
    assert "False" not in str(error.value), "PyTorch's own text advises to run it"
    torch.save({7: torch.zeros(1)}, tmp_path / "ae.pt")
    with pytest.raises(DataError, match="not a flat dictionary"):
        load_dictionary_learning(tmp_path)


def test_tensors_of_another_dictionary_are_refused(tmp_path: Path) -> None:
    save_sae(make_sae(), tmp_path / "a")
    save_sae(make_sae(m=65, groups=(8, 57)), tmp_path / "b")
    (tmp_path / "a" / "sae.safetensors").write_bytes((tmp_path / "b" / "sae.safetensors").read_bytes())
    with pytest.raises(DataError, match=r"has shape \[65"):
        load_sae(tmp_path / "a")


def test_a_large_peer_file_is_not_held_twice(tmp_path: Path) -> None:
    """In a process of its own: the peak above what torch takes, for 151 MB of weights in the peer's layout."""
    code = """
import sys
from pathlib import Path
import torch
from dmsae_ray.sae import load_dictionary_learning
from dmsae_ray.sae.dictionary import MatryoshkaSAE
def mib(name):
    return int(Path("/proc/self/status").read_text().split(name + ":")[1].split()[0]) / 1024
load_dictionary_learning(sys.argv[2])  # what torch imports for it
before = mib("VmRSS")
sae = load_dictionary_learning(sys.argv[1])
assert float(sae.W_enc.sum() + sae.W_dec.sum()) != 0  # every page was read
print(mib("VmHWM") - before)
"""
    if not Path("/proc/self/status").exists():
        left_out("no /proc here to read memory from")
    sae = MatryoshkaSAE(576, 32_768, [1024, 31_744], 16)
    sae.theta.fill_(0.1)
    small = tmp_path / "small"
    small.mkdir()
    peer_files(small, make_sae(), "MatryoshkaBatchTopKTrainer")
    peer_files(tmp_path, sae, "MatryoshkaBatchTopKTrainer")
    size = (tmp_path / "ae.pt").stat().st_size / 2**20
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), str(small)], capture_output=True, text=True, check=True
    )
    assert size > 140 and 0.9 * size < float(done.stdout) < 1.4 * size
