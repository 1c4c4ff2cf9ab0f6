"""Tokenising that is interrupted goes on behind its last shard, and the bytes are those of an undisturbed one."""

import json
import multiprocessing
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmsae_ray.config.experiment import Experiment, parse_experiment
from dmsae_ray.errors import DataError
from dmsae_ray.files.folder import Folder
from dmsae_ray.harvest.cursor import CorpusCursor, TokenDraft, read_draft
from dmsae_ray.harvest.token_writer import DocumentGroup, TokenShardWriter
from dmsae_ray.harvest.tokenising import write_tokens
from dmsae_ray.lm.text import stdlib_documents
from dmsae_ray.store.layout import DRAFT
from dmsae_ray.store.token_shards import damaged_shards
from tests.small_store import TREE, contents

CONTEXT = 5
Units = list[list[int]]
"""For each unit the tokens of its documents; 0 is a document without text."""


def groups(units: Units, start: CorpusCursor, size: int) -> Iterator[DocumentGroup]:
    """What tokenising gives from a position on, `size` documents at a time; a token is its place in the text."""
    lengths = [(u, n) for u, unit in enumerate(units) for n in unit]
    first = sum(len(unit) for unit in units[: start.unit]) + start.document
    value = sum(n for _, n in lengths[:first])
    for begin in range(first, len(lengths), size):
        part = lengths[begin : begin + size]
        count = sum(n for _, n in part)
        tokens = np.arange(value, value + count, dtype=np.int32) + 10
        value += count
        yield tokens, np.array([n for _, n in part], np.int32), np.array([u for u, _ in part], np.int32)


def written(
    folder: Path, plan: dict[str, int], units: Units, draft: TokenDraft, size: int, bos: int | None, eos: int | None
):  # type: ignore[no-untyped-def]
    packing = TokenShardWriter(Folder(str(folder)), plan, draft, CONTEXT, bos, eos)
    return packing.run(groups(units, draft.cursor, size)), packing


@settings(deadline=None, max_examples=15)
@given(
    st.lists(st.lists(st.integers(0, 13), max_size=5), min_size=1, max_size=4),
    st.integers(1, 3),
    st.sampled_from([None, 1]),
    st.sampled_from([None, 2]),
    st.integers(1, 4),
    st.integers(1, 4),
)
def test_going_on_behind_any_shard_gives_the_same_shards(
    tmp_path_factory: pytest.TempPathFactory,
    units: Units,
    per_shard: int,
    bos: int | None,
    eos: int | None,
    size: int,
    other_size: int,
) -> None:
    folder = tmp_path_factory.mktemp("tokens")
    plan = {f"train-{i:06d}": per_shard for i in range(200)}  # more than there is: the text runs out
    whole, packing = written(folder, plan, units, TokenDraft("u"), size, bos, eos)
    undisturbed = contents(folder)
    names = list(whole.token_checksums)
    assert set(names) == set(list(plan)[: len(names)])
    after = TokenDraft("u")
    for i, name in enumerate(names):
        # The draft as it stood behind this shard, from a run that was to end there.
        stopped, _ = written(folder, dict(list(plan.items())[: i + 1]), units, after, size, bos, eos)
        assert read_draft(Folder(str(folder)), "u", list(plan)) == stopped
        later, again = written(folder, plan, units, stopped, other_size, bos, eos)
        assert later == whole, name
        assert contents(folder) == undisturbed
        assert (again.tokens_seen, again.documents_seen, again.reasons_seen) == (
            packing.tokens_seen,
            packing.documents_seen,
            packing.reasons_seen,
        )
        after = stopped


def test_counts_are_those_of_the_text_that_was_used(tmp_path: Path) -> None:
    units = [[3, 0, 4], [0, 0, 9], [0, 5]]
    # Without BOS and EOS, 10 tokens: documents 3, 4 and three tokens of the 9; three empty ones before that.
    draft, _ = written(tmp_path, {"a": 2}, units, TokenDraft("u"), 2, None, None)
    assert draft.cursor == CorpusCursor(unit=1, document=2, offset=3, documents=3, reasons={"OTHER": 3})
    draft, _ = written(tmp_path, {"a": 2, "b": 1}, units, draft, 2, None, None)
    assert draft.cursor == CorpusCursor(unit=1, document=2, offset=8, documents=3, reasons={"OTHER": 3})


def test_a_draft_without_reasons_is_gone_on_with(tmp_path: Path) -> None:
    draft, _ = written(tmp_path, {"a": 1}, [[3, 0, 0, 9]], TokenDraft("u"), 2, None, None)
    tree = json.loads((tmp_path / DRAFT).read_text())
    tree["position"].update(skipped=sum(tree["position"].pop("reasons").values()))
    (tmp_path / DRAFT).write_text(json.dumps(tree))
    assert tree["position"]["skipped"] == 2 and read_draft(Folder(str(tmp_path)), "u", ["a"]) == draft


@pytest.mark.parametrize("change", ["missing shard", "truncated shard", "other text", "torn", "none"])
def test_a_draft_that_does_not_fit_is_not_believed(tmp_path: Path, change: str) -> None:
    draft, _ = written(tmp_path, {"a": 1, "b": 1}, [[20]], TokenDraft("u"), 1, 1, 2)
    if change == "missing shard":
        (tmp_path / "a.safetensors").unlink()
    elif change == "truncated shard":
        (tmp_path / "a.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:-1])
    elif change == "torn":
        (tmp_path / DRAFT).write_text((tmp_path / DRAFT).read_text()[:50])
    found = read_draft(Folder(str(tmp_path)), "v" if change == "other text" else "u", ["a", "b", "c"])
    assert found == (draft if change == "none" else TokenDraft("v" if change == "other text" else "u"))


# --- through Ray, with the driver killed ---


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real text in several files, with lines that are none."""
    folder = tmp_path_factory.mktemp("corpus")
    texts = stdlib_documents()[:120]
    for part in range(6):
        lines = [json.dumps({"text": text}) for text in texts[part::6]]
        lines[5:5] = ["{torn", '{"text": ""}']
        (folder / f"{part}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def experiment(corpus: Path) -> Experiment:
    sizes = {"context": 64, "tokens": 100_000, "attribution_tokens": 2_000, "eval_tokens": 1_000}
    changes = {"corpus": {"source": "jsonl", "path": str(corpus), **sizes}}
    return parse_experiment({**TREE, **changes, "activations": {**TREE["activations"], "shard_tokens": 1024}})


@pytest.fixture(scope="module")
def undisturbed(ray_cluster: Any, experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    write_tokens(Folder(str(folder)), experiment)
    return folder


def _tokenise(address: str, tree: dict[str, Any], folder: str, pause: float) -> None:
    """A driver to be killed; it pauses after each shard, so that there is time to."""
    import ray
    from ray.data import DataContext, ExecutionResources

    from dmsae_ray.harvest import token_writer

    original = token_writer.write_draft

    def slow(*arguments: Any) -> None:
        original(*arguments)
        time.sleep(pause)

    token_writer.write_draft = slow
    ray.init(address=address, log_to_driver=False, configure_logging=False)
    # One task that tokenises at a time: its processes are new, and take long to begin.
    DataContext.get_current().execution_options.resource_limits = ExecutionResources(cpu=1.5)
    write_tokens(Folder(folder), parse_experiment(tree))


def test_a_killed_driver_goes_on_behind_its_last_shard(
    ray_cluster: Any, experiment: Experiment, undisturbed: Path, tmp_path: Path
) -> None:
    address = ray_cluster.get_runtime_context().gcs_address
    place = tmp_path / "tokens"
    moments = random.Random(time.time_ns())
    print("seed of the moments:", moments.getstate()[1][:2])
    half = place / ".other.safetensors.0.tmp"  # of another writer
    half.parent.mkdir()
    half.write_bytes(b"half")
    driver = multiprocessing.get_context("spawn").Process(
        target=_tokenise, args=(address, experiment.model_dump(mode="json"), str(tmp_path), 0.02)
    )
    driver.start()
    wanted = moments.randint(1, 40)
    while len(list(place.glob("*.safetensors"))) < wanted and driver.is_alive():
        time.sleep(0.001)
    time.sleep(moments.random() * 0.04)
    driver.kill()
    driver.join()
    done = json.loads((place / DRAFT).read_text())["token_checksums"]
    assert len(done) >= wanted - 1  # the draft is written after its shard
    assert not (place / "layout.json").exists()
    made = {path: path.stat().st_mtime_ns for path in place.glob("*.safetensors")}
    write_tokens(Folder(str(tmp_path)), experiment)
    assert half.read_bytes() == b"half"
    half.unlink()
    assert contents(tmp_path) == contents(undisturbed)
    kept = [path for path, time_ns in made.items() if path.stat().st_mtime_ns == time_ns]
    assert len(kept) >= len(done)  # nothing is made twice but the shard that was under way


def test_what_is_used_up_is_not_read_again(
    ray_cluster: Any, experiment: Experiment, undisturbed: Path, corpus: Path, tmp_path: Path
) -> None:
    """Files before the position may even be unreadable by then."""

    class Enough(Exception):
        pass

    folder = Folder(str(tmp_path))

    def stop(state: Any) -> None:
        if (tmp_path / "tokens" / DRAFT).exists():
            unit = json.loads((tmp_path / "tokens" / DRAFT).read_text())["position"]["unit"]
            if unit >= 1:
                raise Enough

    with pytest.raises(Enough):
        write_tokens(folder, experiment, progress=stop)
    unit = json.loads((tmp_path / "tokens" / DRAFT).read_text())["position"]["unit"]
    assert unit >= 1
    aside = tmp_path / "aside"
    shutil.copytree(corpus, aside)
    try:
        for part in range(unit):
            (corpus / f"{part}.jsonl").write_bytes(b"\xff not text any more")
        write_tokens(folder, experiment)
    finally:
        shutil.copytree(aside, corpus, dirs_exist_ok=True)
    assert contents(tmp_path / "tokens") == contents(undisturbed / "tokens")


@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped", "none"])
def test_a_damaged_shard_is_found(tmp_path: Path, damage: str) -> None:
    """See below for how the tokens are then made again."""
    draft, _ = written(tmp_path, {"a": 1, "b": 1, "c": 1}, [[30]], TokenDraft("u"), 1, 1, 2)
    shard = tmp_path / "b.safetensors"
    content = shard.read_bytes()
    if damage == "missing":
        shard.unlink()
    elif damage != "none":
        shard.write_bytes(content[:-1] if damage == "truncated" else content[:-1] + bytes([content[-1] ^ 1]))
    assert damaged_shards(Folder(str(tmp_path)), draft.token_checksums) == ([] if damage == "none" else ["b"])


@pytest.mark.parametrize("changed", [False, True])
def test_a_damaged_shard_is_made_again_and_activations_of_another_text_go(
    ray_cluster: Any, experiment: Experiment, corpus: Path, undisturbed: Path, tmp_path: Path, changed: bool
) -> None:
    """A Hub dataset without a revision may change between the first harvest and the mending of a token shard."""
    shutil.copytree(undisturbed, tmp_path / "store")
    shutil.copytree(corpus, tmp_path / "corpus")
    if changed:
        first = tmp_path / "corpus" / "0.jsonl"
        first.write_text(json.dumps({"text": "Another beginning."}) + "\n" + first.read_text())
    moved = experiment.corpus.model_copy(update={"path": str(tmp_path / "corpus")})
    shard = tmp_path / "store" / "tokens" / "train-000003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x7f")
    (tmp_path / "store" / "activations").mkdir()
    (tmp_path / "store" / "activations" / "train-000000.json").write_text("{}")
    write_tokens(Folder(str(tmp_path / "store")), experiment.model_copy(update={"corpus": moved}))
    assert (tmp_path / "store" / "activations").exists() != changed
    assert (contents(tmp_path / "store" / "tokens") == contents(undisturbed / "tokens")) != changed


def test_the_shards_that_are_there_are_counted_as_found(
    ray_cluster: Any, experiment: Experiment, tmp_path: Path
) -> None:
    folder = Folder(str(tmp_path))
    short = experiment.model_copy(update={"corpus": experiment.corpus.model_copy(update={"tokens": 10_000_000})})
    with pytest.raises(DataError, match="holds only") as first:
        write_tokens(folder, short)
    seen: list[int] = []
    with pytest.raises(DataError, match="holds only") as second:
        write_tokens(folder, short, progress=lambda state: seen.append(state.done))
    assert str(second.value) == str(first.value) and seen[0] > 100_000
