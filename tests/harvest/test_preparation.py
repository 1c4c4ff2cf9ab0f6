"""Harvests on a real Ray cluster: what they hold, and that no accident changes a byte."""

import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors.torch import load_file, save_file

from dmsae_ray.config.experiment import Experiment, parse_experiment
from dmsae_ray.corpus.contexts import loss_mask
from dmsae_ray.errors import ConfigError, DataError
from dmsae_ray.files.folder import Folder
from dmsae_ray.files.json_records import encode_record
from dmsae_ray.harvest import harvesting
from dmsae_ray.harvest.actors import HarvestActor, HarvestJob
from dmsae_ray.harvest.model import open_tap
from dmsae_ray.harvest.progress import HarvestProgress
from dmsae_ray.harvest.shard import ActivationShard, compute_shard
from dmsae_ray.lm.tiny import tiny_model
from dmsae_ray.store.identity import store_key
from dmsae_ray.store.layout import Split, shard_name
from dmsae_ray.store.manifest import make_manifest, read_request
from dmsae_ray.store.reader import Store
from dmsae_ray.store.token_shards import read_tokens
from dmsae_ray.store.writer import StoreWriter
from tests.small_store import FALSE_MANIFESTS, FAST, contents, falsify, prepare, unfinished

Make = Callable[..., Experiment]


def test_shards_hold_the_models_own_activations_and_gradients(store: Store, make_experiment: Make) -> None:
    """Every stored row against transformers' model run here, plainly, with full autograd."""
    tap = open_tap(make_experiment().model, full=True)
    tokens = read_tokens(store.folder, store.layout, "attribution-000000")
    ids = torch.from_numpy(tokens.tokens).long()
    mask = torch.from_numpy(loss_mask(tokens, True))
    x, g, valid = tap.gradients(ids, mask)
    shard = store.read("attribution", 0)
    position = shard["position"].long()
    assert torch.allclose(shard["x"], x.reshape(-1, 64)[position].float(), atol=1e-5)
    assert torch.allclose(shard["g"], g.reshape(-1, 64)[position].float(), atol=1e-6)
    left_out = torch.ones(ids.numel(), dtype=torch.bool).index_fill_(0, position, False)
    norms = x.reshape(-1, 64).norm(dim=1)
    not_bos = ids.reshape(-1) != tap.bos_id
    high = norms > 10 * norms[not_bos].median()
    assert torch.equal(left_out, ~(valid.reshape(-1) & not_bos & ~high))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_an_overflow_is_an_error_and_no_high_norm(dtype: str, make_experiment: Make) -> None:
    """One token's embedding so large that its row is infinite in float16, and finite in float32."""
    experiment = make_experiment(activations__dtype=dtype)
    tap = open_tap(experiment.model, full=False)
    embedding: Any = tap._decoder.get_input_embeddings().weight
    with torch.no_grad():
        embedding[500] *= 1e6
    tokens = torch.arange(480, 512).repeat(2, 1)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    settings = experiment.activations

    def shard() -> ActivationShard:
        return compute_shard(tap, tokens, mask, settings, batch_tokens=64, split="train", shard=0)

    if dtype == "float32":
        assert shard().dropped["high_norm"] == 2
    else:
        with pytest.raises(DataError, match=r"^2 of 64 activations of model 'tiny' .* infinite .*'float16'$"):
            shard()


def test_the_same_request_again_is_found_complete(store: Store, stores: Path, make_experiment: Make) -> None:
    before = {path: path.stat().st_mtime_ns for path in stores.rglob("*")}
    assert prepare(make_experiment(), str(stores)).key == store.key
    assert {path: path.stat().st_mtime_ns for path in stores.rglob("*")} == before


def test_other_batches_give_the_same_rows(store: Store, make_experiment: Make) -> None:
    """One context at a time instead of sixteen, in every split; the actor runs here."""
    experiment = make_experiment()
    actor = HarvestActor(HarvestJob(store.folder, store.layout, experiment.model, experiment.activations, 64))
    shards: list[tuple[Split, int]] = [("eval", 0), ("attribution", 0), ("train", 0), ("train", 9)]
    for split, shard in shards:
        content, commit = actor.compute(split, shard)
        mine, theirs = safetensors.torch.load(content), store.read(split, shard)
        assert commit.rows == store.commit(split, shard).rows and mine.keys() == theirs.keys()
        assert torch.equal(mine["position"], theirs["position"])
        assert torch.allclose(mine["x"], theirs["x"], atol=1e-5)


def test_a_harvest_makes_what_is_missing_or_damaged_and_nothing_else(
    store: Store, stores: Path, tmp_path: Path, make_experiment: Make
) -> None:
    """It was killed, and its files are damaged in every way; the manifest is of another time."""
    shutil.copytree(stores / store.key, tmp_path / store.key)
    damaged = tmp_path / store.key
    for name in ("train-000002.json", "train-000005.safetensors", "eval-000000.json"):
        (damaged / "activations" / name).unlink()
    (damaged / "activations" / "train-000007.json").write_text('{"rows": 20')  # torn
    truncated = [damaged / "activations" / "train-000008.safetensors", damaged / "tokens" / "train-000001.safetensors"]
    for torn in truncated:
        torn.write_bytes(torn.read_bytes()[:1000])
    (damaged / "tokens" / "eval-000000.safetensors").unlink()
    (damaged / "activations" / ".train-000002.safetensors.0.tmp").write_bytes(b"half")
    whole = [path for split, i in store.layout.all_shards() if (split, i) not in MADE for path in files(split, i)]
    kept = {path: (damaged / path).stat().st_mtime_ns for path in whole}
    seen: list[HarvestProgress] = []
    prepare(make_experiment(), str(tmp_path), progress=seen.append)
    assert contents(damaged) == contents(stores / store.key)
    assert {path: (damaged / path).stat().st_mtime_ns for path in kept} == kept
    first = next(state for state in seen if state.stage == "activations")
    assert first.done == first.total - 4 * 2048 - 1024 and seen[-1].done == seen[-1].total


MADE = {("eval", 0), *(("train", i) for i in (2, 5, 7, 8))}


def files(split: str, shard: int) -> list[str]:
    return [f"activations/{shard_name(split, shard)}.{suffix}" for suffix in ("json", "safetensors")]


@pytest.mark.parametrize("damage", ["torn", "no request", "other norm factor"])
def test_a_manifest_that_is_none_or_lies_is_written_again(
    store: Store, stores: Path, tmp_path: Path, make_experiment: Make, damage: str
) -> None:
    """See `tests/store/test_manifest.py` for all the ways to lie."""
    shutil.copytree(stores / store.key, tmp_path / store.key)
    manifest = tmp_path / store.key / "manifest.json"
    if damage == "no request":
        (tmp_path / store.key / "request.json").unlink()
    elif damage in FALSE_MANIFESTS:
        falsify(manifest, damage)
    else:
        manifest.write_text(manifest.read_text()[:300])
    prepare(make_experiment(), str(tmp_path))
    assert contents(tmp_path / store.key) == contents(stores / store.key)


@pytest.mark.parametrize("mode", ["store", "stream"])
def test_a_second_harvest_follows_the_first_to_its_end(
    store: Store, stores: Path, tmp_path: Path, make_experiment: Make, mode: str
) -> None:
    """The first one, in this process too, has one shard to make and ends as `prepare` does."""
    experiment = make_experiment(activations__mode=mode)
    shutil.copytree(stores / store.key, tmp_path / store.key)
    folder = Folder(str(tmp_path / store.key))
    manifest = make_manifest(
        folder,
        read_request(folder),
        store.layout,
        {item: store.commit(*item) for item in store.layout.stored_shards(experiment.activations)},
        5_000,
    )
    folder.delete("manifest.json")
    commit = tmp_path / store.key / "activations" / "eval-000000.json"
    content = commit.read_bytes()
    commit.unlink()
    ended: list[float] = []

    def first() -> None:
        with StoreWriter(folder, FAST):
            time.sleep(1.0)
            commit.write_bytes(content)
            folder.write("manifest.json" if mode == "store" else "partial.json", [encode_record(manifest)])
        ended.append(time.monotonic())

    harvest = threading.Thread(target=first)
    harvest.start()
    while folder.size("heartbeat.json") is None:
        time.sleep(0.01)
    seen: list[HarvestProgress] = []
    prepare(experiment, str(tmp_path), progress=seen.append)
    assert ended and time.monotonic() - ended[0] < 5
    harvest.join()
    wanted = sum(store.layout.shard_tokens(*item) for item in store.layout.stored_shards(experiment.activations))
    assert (seen[0].done, seen[0].total) == (wanted - 1_024, wanted) and seen[-1].done == wanted


def _prepare_at(address: str, tree: dict[str, Any], root: str, together: Any, wrote: Any) -> None:
    """A driver that begins when the others do; tells when it writes."""
    import ray

    from dmsae_ray.harvest import preparation

    def harvest(*arguments: Any, **named: Any) -> Any:
        wrote.put(os.getpid())
        return harvesting.harvest(*arguments, **named)

    preparation.harvest = harvest
    experiment = parse_experiment(tree)
    store_key(experiment)  # the model's content is read once
    ray.init(address=address, log_to_driver=False, configure_logging=False)
    together.wait()
    prepare(experiment, root)


def test_of_two_harvests_at_the_same_instant_one_writes_and_the_other_goes_on_when_it_is_killed(
    ray_cluster: Any, store: Store, stores: Path, tmp_path: Path, make_experiment: Make
) -> None:
    folder = unfinished(store, tmp_path)
    context = multiprocessing.get_context("spawn")
    together, wrote = context.Barrier(2), context.Queue()
    address, tree = ray_cluster.get_runtime_context().gcs_address, make_experiment().model_dump(mode="json")
    drivers = [
        context.Process(target=_prepare_at, args=(address, tree, str(tmp_path), together, wrote)) for _ in range(2)
    ]
    for driver in drivers:
        driver.start()
    first = wrote.get(timeout=120)
    deadline = time.monotonic() + 120
    while len(list(folder.glob("activations/*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    (writer,) = [driver for driver in drivers if driver.pid == first]
    (other,) = [driver for driver in drivers if driver.pid != first]
    writer.kill()
    writer.join()
    assert wrote.empty() and other.is_alive() and not (folder / "manifest.json").exists()
    other.join(timeout=120)
    assert (writer.exitcode, other.exitcode) == (-signal.SIGKILL, 0)
    assert wrote.get(timeout=10) == other.pid and wrote.empty()
    assert contents(folder) == contents(stores / store.key)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"corpus__path": "short"}, DataError, r"corpus.tokens 20000 \+ .* = 23000 tokens .* holds only \d+"),
        ({"model__layer": 4}, ConfigError, r"layer.*4.*0\.\.3"),
        ({"model__name": "/no/such/model"}, ConfigError, r"model.*'/no/such/model'"),
        ({"corpus__path": "/no/such/corpus"}, DataError, r"corpus.path '/no/such/corpus'"),
    ],
)
def test_bad_requests_end_before_any_model_actor(
    ray_cluster: Any, tmp_path: Path, make_experiment: Make, changes: dict[str, Any], error: type, message: str
) -> None:
    if "corpus__path" in changes:
        (tmp_path / "short").mkdir()
        (tmp_path / "short" / "a.jsonl").write_text(json.dumps({"text": "A few words. " * 1000}) + "\n")
        experiment = make_experiment()
        place = str(tmp_path / changes["corpus__path"])  # as it is if it is absolute
        corpus = experiment.corpus.model_copy(update={"source": "jsonl", "path": place})
        experiment = experiment.model_copy(update={"corpus": corpus})
    else:
        experiment = make_experiment(**changes)
    with pytest.raises(error, match=message) as caught:
        prepare(experiment, str(tmp_path / "stores"))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("stores/*/activations"))
    (reason,) = tmp_path.glob("stores/*/failed.json")
    assert json.loads(reason.read_text())["reason"] == str(caught.value)


def test_unwritable_output_is_named(tmp_path: Path, make_experiment: Make) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"^output: .* cannot be written"):
        prepare(make_experiment(), str(tmp_path / "file"))


def test_disk_that_is_too_small(
    store: Store, tmp_path: Path, make_experiment: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Folder, "free_bytes", lambda self: 1_000_000)
    """23,104 tokens of 4 bytes, and 64 values in float32 (in `attribution` twice) with 8 bytes more for each."""
    with pytest.raises(DataError, match=r"^output .* needs 6\.7 MB more .* the disk has 1\.0 MB free"):
        harvesting.check_space(
            Folder(str(tmp_path)), store.layout, make_experiment().activations, store.layout.all_shards()
        )
    with pytest.raises(DataError, match=r"^output .* needs 6\.6 MB more .* the disk has 1\.0 MB free"):
        harvesting.check_space(store.folder, store.layout, make_experiment().activations, store.layout.all_shards())


def test_a_disk_that_is_too_small_is_said_before_anything_is_read(
    tmp_path: Path, make_experiment: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Folder, "free_bytes", lambda self: 1_000_000)
    with pytest.raises(DataError, match=r"^output .* needs 6\.7 MB more .* 1\.0 MB free"):
        prepare(make_experiment(), str(tmp_path))
    assert not list(tmp_path.glob("*/tokens"))


def test_nan_in_the_model_is_an_error_of_the_actor(store: Store, tmp_path: Path, make_experiment: Make) -> None:
    """A model whose weights hold NaN; see `test_attempts.py` for how an actor's error arrives at the driver."""
    broken = tmp_path / "model"
    shutil.copytree(tiny_model(), broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"].fill_(torch.nan)
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    experiment = make_experiment(model__name=str(broken))
    actor = HarvestActor(HarvestJob(store.folder, store.layout, experiment.model, experiment.activations, 1024))
    for split, shard in (("attribution", 0), ("train", 1)):
        with pytest.raises(DataError, match=r"^\d+ of \d+ activations of model .* are NaN or infinite[^\n]*$"):
            actor.compute(split, shard)
