"""What a store promises its readers, on a real one and on damaged copies of it."""

import json
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dmsae_ray.config.experiment import Experiment
from dmsae_ray.errors import DataError
from dmsae_ray.files.folder import Folder
from dmsae_ray.lm.loading import load_tap
from dmsae_ray.store.commit import norm_factor
from dmsae_ray.store.identity import store_key
from dmsae_ray.store.reader import Store, open_store
from dmsae_ray.store.timing import StoreTiming
from dmsae_ray.store.writer import StoreWriter, WriterWatch, has_writer
from tests.small_store import FAST, recommit

Make = Callable[..., Experiment]


@pytest.fixture
def copied(store: Store, stores: Path, tmp_path: Path) -> Path:
    """A copy of the store's folder that a test may damage."""
    shutil.copytree(stores / store.key, tmp_path / store.key)
    return tmp_path / store.key


def reopen(copied: Path, make: Make) -> Store:
    return open_store(str(copied.parent), make())


def test_key_depends_on_what_decides_the_content(make_experiment: Make) -> None:
    base = store_key(make_experiment())
    same = {"resources__model_actors_max": 1, "resources__model_batch_tokens": 64, "activations__shuffle_shards": 9}
    other = {"model__layer": 2, "corpus__tokens": 21_000, "activations__drop_bos": False, "corpus__context": 32}
    assert all(store_key(make_experiment(**{name: value})) == base for name, value in same.items())
    assert len({base, *(store_key(make_experiment(**{name: value})) for name, value in other.items())}) == 5


def test_shards_hold_the_splits_asked_for(store: Store) -> None:
    assert store.layout.contexts == {"eval": 16, "attribution": 32, "train": 313}
    assert store.layout.shards("train") == 10
    assert store.complete
    rows = store.rows("train")
    assert rows == sum(len(store.read("train", i)["x"]) for i in range(10))
    share = store.dropped("train")
    assert share["bos"] == pytest.approx(1 / 64)
    assert rows == round(313 * 64 * (1 - sum(share.values())))


def test_norm_factor_is_the_root_mean_square_norm_of_the_first_rows(store: Store) -> None:
    x = torch.cat([store.read("train", i)["x"] for i in range(3)]).double()  # 5,000 tokens: three shards of 2,048
    assert store.norm_factor == pytest.approx(float(x.square().sum(1).mean().sqrt()), rel=1e-12)


def test_the_manifest_says_the_norm_factor(store: Store, make_experiment: Make, stores: Path) -> None:
    norm = json.loads((stores / store.key / "manifest.json").read_text())["norm"]
    assert norm == {"tokens": 5_000, "factor": store.norm_factor}
    other = open_store(str(stores), make_experiment(activations__norm_tokens=16))
    x = store.read("train", 0)["x"].double()
    assert other.norm_factor == pytest.approx(float(x.square().sum(1).mean().sqrt()), rel=1e-12) != norm["factor"]


def test_eval_tokens_and_mask(store: Store) -> None:
    tokens, mask = store.eval_tokens(), store.eval_loss_mask()
    assert tokens.shape == mask.shape == (16, 64) and tokens.dtype == torch.int64
    assert bool((tokens[:, 0] == store.layout.bos).all()) and not bool(mask[:, -1].any())
    ends = (tokens == store.layout.eos)[:, :-1]
    assert bool(ends.any()) and not bool(mask[:, :-1][ends].any()) and bool(mask[:, :-1][~ends].all())


def test_eval_rows_are_the_activations_at_these_tokens(store: Store) -> None:
    tap = load_tap("tiny", 1, "cpu", "float32")
    kept, x = store.eval_kept().view(-1), tap.activations(store.eval_tokens()).view(-1, store.d_model)
    places = kept.nonzero().view(-1)[torch.tensor([700, 3, 3, 0, 950])]
    torch.testing.assert_close(store.eval_rows(places), x[places])
    assert store.eval_rows(places[:0]).shape == (0, store.d_model)
    dropped = (~kept).nonzero().view(-1)
    with pytest.raises(DataError, match="1 of these tokens have no activation"):
        store.eval_rows(torch.cat([places, dropped[1:2]]))


def test_verify_passes_on_a_sound_store(store: Store) -> None:
    store.verify()


@pytest.mark.parametrize("damage", ["flip", "truncate", "missing", "other_width", "nan"])
def test_damage_is_found_and_the_file_named(copied: Path, make_experiment: Make, damage: str) -> None:
    path = copied / "activations" / "train-000001.safetensors"
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "truncate":
        path.write_bytes(content[:-10])
    elif damage == "missing":
        path.unlink()
    else:
        tensors = load_file(path)
        x = tensors["x"]
        tensors["x"] = (
            x[:, :-1].contiguous() if damage == "other_width" else x.index_fill(0, torch.tensor([5]), torch.nan)
        )
        save_file(tensors, path)
        recommit(path)
    with pytest.raises(DataError, match=r"^[^\n]*train-000001\.safetensors[^\n]*$"):
        reopen(copied, make_experiment).verify()


def test_token_damage_is_found(copied: Path, make_experiment: Make) -> None:
    path = copied / "tokens" / "eval-000000.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(DataError, match=r"tokens/eval-000000.safetensors does not have its checksum"):
        reopen(copied, make_experiment).eval_tokens()


def test_no_store_and_nobody_writing_is_an_error(tmp_path: Path, make_experiment: Make) -> None:
    store = Store(Folder(str(tmp_path / "none")), "none", make_experiment().activations, silence=0.2)
    with pytest.raises(DataError, match="is not there and no harvest is writing it"):
        store.layout  # noqa: B018


def test_reader_learns_why_a_harvest_failed(copied: Path, make_experiment: Make) -> None:
    (copied / "manifest.json").unlink()
    (copied / "activations" / "train-000004.json").unlink()
    with pytest.raises(RuntimeError), StoreWriter(Folder(str(copied))):
        raise RuntimeError("the GPU\nfell out")
    with pytest.raises(DataError, match=r"shard train-000004 will not come, .* RuntimeError: the GPU fell out$"):
        reopen(copied, make_experiment).commit("train", 4)


def test_reader_does_not_wait_for_a_dead_process(copied: Path, make_experiment: Make) -> None:
    """The beat names a process of this machine that is gone: no need to sit out the silence."""
    import socket
    import subprocess
    import sys

    (copied / "manifest.json").unlink()
    (copied / "activations" / "train-000004.json").unlink()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (copied / "heartbeat.json").write_text(json.dumps({"host": socket.gethostname(), "pid": gone.pid, "beat": 3}))
    assert not has_writer(Folder(str(copied)))
    with pytest.raises(DataError, match="no harvest is writing it"):
        reopen(copied, make_experiment).commit("train", 4)


def test_reader_follows_a_shard_that_comes_later(copied: Path, make_experiment: Make) -> None:
    (copied / "manifest.json").unlink()
    record = copied / "activations" / "train-000004.json"
    content = record.read_bytes()
    record.unlink()
    with StoreWriter(Folder(str(copied))) as beat:
        assert WriterWatch(beat.folder).alive()
        timer = threading.Timer(0.3, record.write_bytes, [content])
        timer.start()
        assert reopen(copied, make_experiment).commit("train", 4).tokens == 2048
        timer.join()
    assert not (copied / "heartbeat.json").exists() and not (copied / "failed.json").exists()


def test_a_wait_for_the_first_shard_or_for_all(copied: Path, make_experiment: Make) -> None:
    manifest, shards = copied / "manifest.json", copied / "activations"
    kept = {path: path.read_bytes() for path in (manifest, *shards.glob("*.json"))}
    with pytest.raises(DataError, match="no harvest is writing it"):
        Store(Folder(str(copied / "none")), "none", make_experiment().activations, silence=0.2).wait(whole=False)
    reopen(copied, make_experiment).wait(whole=True)
    for path in kept:
        path.unlink()
    with StoreWriter(Folder(str(copied))):
        store, done = reopen(copied, make_experiment), list[str]()
        threads = [
            threading.Thread(target=lambda whole=whole: (store.wait(whole=whole), done.append(str(whole))))
            for whole in (False, True)
        ]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        assert done == []
        first = next(path for path in kept if path.parent == shards)
        first.write_bytes(kept[first])
        threads[0].join(30)
        assert done == ["False"] and threads[1].is_alive()
        for path, content in kept.items():
            path.write_bytes(content)
        threads[1].join(30)
    assert done == ["False", "True"]


def test_of_harvests_that_begin_at_once_one_writes(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    (tmp_path / "failed.json").write_text('{"reason": "of another time"}')
    together = threading.Barrier(4)

    def begin(_: int) -> tuple[StoreWriter, bool]:
        writer = StoreWriter(folder, StoreTiming(beat=0.1))
        together.wait(timeout=60)
        return writer, writer.take_over()

    with ThreadPoolExecutor(4) as harvests:
        found = list(harvests.map(begin, range(4)))
    (winner,) = [writer for writer, mine in found if mine]
    assert WriterWatch(folder).failure() is None
    with winner:
        assert not StoreWriter(folder, FAST).take_over()
    assert StoreWriter(folder, FAST).take_over()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("contexts_per_shard", 0),
        ("context", "64"),
        ("contexts", {"eval": 1}),
        ("contexts", {"eval": 1, "attribution": 1, "train": 0}),
        ("contexts", "x"),
        ("special", 5),
        ("token_checksums", None),
        ("d_model", 64.0),
        ("more", 1),
    ],
)
def test_an_odd_layout_is_one_line(copied: Path, make_experiment: Make, field: str, value: object) -> None:
    path = copied / "tokens" / "layout.json"
    tree = {**json.loads(path.read_text()), field: value}
    path.write_text(json.dumps({name: value for name, value in tree.items() if name != "record_checksum"}))
    with pytest.raises(DataError, match=r"^\S+tokens/layout.json is not a layout; [^\n]*$"):
        reopen(copied, make_experiment).layout  # noqa: B018


def test_norm_factor_of_nothing_is_an_error() -> None:
    with pytest.raises(DataError, match="norm factor"):
        norm_factor([])
