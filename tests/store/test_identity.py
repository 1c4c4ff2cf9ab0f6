"""The address of a store follows what a local model and a local corpus hold, and not where they are."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from dmsae_ray.config.experiment import Experiment, parse_experiment
from dmsae_ray.config.sections import CorpusSettings
from dmsae_ray.corpus.reading import check_corpus
from dmsae_ray.errors import ConfigError
from dmsae_ray.files import cache
from dmsae_ray.lm.tiny import tiny_model
from dmsae_ray.store import identity
from dmsae_ray.store.identity import corpus_content, model_content, store_key, unpinned
from dmsae_ray.store.reader import Store, open_store
from tests.small_store import TREE, prepare

Make = Callable[..., Experiment]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DMSAE_CACHE", str(tmp_path / "cache"))
    shutil.copytree(tiny_model(), tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "text" / "b").mkdir(parents=True)
    (tmp_path / "text" / "a.txt").write_text("one " * 1000)
    (tmp_path / "text" / "b" / "c.txt").write_text("two " * 1000)
    return tmp_path / "text"


def experiment(model: Path | str, text: Path | str) -> Experiment:
    corpus = {**TREE["corpus"], "source": "text", "path": str(text)}
    return parse_experiment({**TREE, "model": {**TREE["model"], "name": str(model)}, "corpus": corpus})


def flip(path: Path, place: int) -> None:
    """Change one byte, and neither the size nor the time."""
    stat = path.stat()
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_the_same_content_elsewhere_is_the_same_store(model: Path, text: Path, tmp_path: Path) -> None:
    key = store_key(experiment(model, text))
    shutil.copytree(model, tmp_path / "moved")
    shutil.copytree(text, tmp_path / "elsewhere")
    assert store_key(experiment(tmp_path / "moved", tmp_path / "elsewhere")) == key
    (model / "README.md").write_text("not read by anyone")
    (model / "trainer_state.json").write_text("{}")
    (text / "notes.json").write_text("{}")
    assert store_key(experiment(model, text)) == key


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors"])
def test_any_byte_of_a_model_counts(model: Path, text: Path, file: str) -> None:
    key = store_key(experiment(model, text))
    size = (model / file).stat().st_size
    for place in (0, size // 2, size - 1):
        flip(model / file, place)
        assert store_key(experiment(model, text)) != key
        flip(model / file, place)
    assert store_key(experiment(model, text)) == key


@pytest.mark.parametrize("file", ["chat_template.jinja", "chat_template.json"])
def test_a_chat_template_counts_where_messages_may_be_read(model: Path, text: Path, file: str) -> None:
    def keys() -> list[str]:
        one = experiment(model, text)
        chat = one.model_copy(update={"corpus": one.corpus.model_copy(update={"source": "jsonl"})})
        return [store_key(one), store_key(chat)]

    (text / "a.jsonl").write_text('{"text": [{"role": "user", "content": "a"}]}')
    (model / file).write_text("{{ messages[0].content }}")
    plain, before = keys()
    (model / file).write_text("{{ messages[0].role }}")
    assert keys()[0] == plain and keys()[1] != before


def test_weights_are_read_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_REMEMBERED_BYTES", 0)
    monkeypatch.setattr(cache, "_SETTLED_SECONDS", -1.0)
    found = model_content(str(model))
    read: list[str] = []
    original = cache._sha256
    monkeypatch.setattr(cache, "_sha256", lambda path: (read.append(Path(path).name), original(path))[1])
    assert model_content(str(model)) == found and read == []
    flip(model / "model.safetensors", 1000)
    assert model_content(str(model)) != found and read == ["model.safetensors"]


@pytest.mark.parametrize("change", ["byte", "rename", "more", "less", "order"])
def test_a_corpus_that_changes_in_place_is_another(text: Path, change: str) -> None:
    corpus = CorpusSettings(source="text", path=str(text))
    found = corpus_content(corpus)
    if change == "byte":
        (text / "b" / "c.txt").write_text("two " * 500 + "Two " + "two " * 499)
    elif change == "rename":
        (text / "a.txt").rename(text / "z.txt")
    elif change == "more":
        (text / "b" / "d.txt").write_text("three")
    elif change == "less":
        (text / "a.txt").unlink()
    else:
        (text / "a.txt").rename(text / "x")
        (text / "b" / "c.txt").rename(text / "a.txt")
        (text / "x").rename(text / "b" / "c.txt")
    assert corpus_content(corpus) != found


def test_a_large_corpus_is_sampled(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = text / "large.txt"
    large.write_bytes(bytes(1 << 20))
    monkeypatch.setattr(identity, "_WHOLE_BYTES", 1 << 20)
    corpus = CorpusSettings(source="text", path=str(text))
    found = corpus_content(corpus)
    for place in (0, (1 << 20) - 1):
        content = bytearray(1 << 20)
        content[place] = 1
        large.write_bytes(content)
        assert corpus_content(corpus) != found
    large.write_bytes(bytes((1 << 20) + 1))
    assert corpus_content(corpus) != found


def test_what_is_not_here_counts_by_name(make_experiment: Make) -> None:
    assert model_content("tiny") is None and model_content("google/gemma-2-2b") is None
    assert corpus_content(CorpusSettings(source="text", path="/no/such/place")) is None
    assert corpus_content(CorpusSettings(source="parquet", path="s3://bucket/text")) is None
    assert corpus_content(CorpusSettings()) is None
    other = make_experiment().model_copy(update={"corpus": CorpusSettings(revision="0" * 40)})
    again = make_experiment().model_copy(update={"corpus": CorpusSettings(revision="1" * 40)})
    assert store_key(other) != store_key(again)


def test_what_is_not_pinned_is_said(make_experiment: Make) -> None:
    assert unpinned(make_experiment()) == ()
    both = unpinned(parse_experiment({"name": "x"}))
    assert [note.partition(" ")[0] for note in both] == ["model.revision", "corpus.revision"]
    pins = {"model": {"revision": "0" * 40}, "corpus": {"revision": "1" * 40}}
    assert unpinned(parse_experiment({"name": "x", **pins})) == ()


def test_changed_weights_are_harvested_anew(store: Store, model: Path, tmp_path: Path) -> None:
    """End to end: the path in the config is the same before and after, and `store` is of the weights before."""
    root = tmp_path / "stores"
    corpus = {**TREE["corpus"], "tokens": 2_048}  # the first of the shards
    tree = {**TREE, "model": {**TREE["model"], "name": str(model)}, "corpus": corpus}
    first = open_store(str(root), parse_experiment(tree))
    shutil.copytree(store.folder.uri, first.folder.uri)
    weights = load_file(model / "model.safetensors")
    weights["model.layers.0.mlp.down_proj.weight"] *= 1.5
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    second = prepare(parse_experiment(tree), str(root))
    assert second.key != first.key
    before, after = first.read("train", 0), second.read("train", 0)
    assert second.layout.token_checksums["train-000000"] == first.layout.token_checksums["train-000000"]
    assert before["x"].shape[1] == after["x"].shape[1] and not before["x"].equal(after["x"])
    # A reader on a machine without the folder is told the key.
    shutil.rmtree(model)
    there = open_store(str(root), parse_experiment(tree), second.key)
    assert there.read("train", 0)["x"].equal(after["x"])


@pytest.mark.parametrize(
    "written", ["data", "./data", "../{here}/data", "{folder}/data", "{folder}/data/a.jsonl", "~/data", "/nowhere"]
)
def test_a_hub_dataset_that_is_a_path_of_this_machine_is_refused(
    make_experiment: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    """`load_dataset` would read it, and its content could change under the same key."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.jsonl").write_text('{"text": "a"}')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    path = written.format(here=tmp_path.name, folder=tmp_path)
    experiment = make_experiment(corpus__source="huggingface", corpus__path=path)
    with pytest.raises(ConfigError, match=r"^corpus.path is '[^\n]*', which is on this machine; source 'huggingface'"):
        store_key(experiment)
    with pytest.raises(ConfigError, match="which is on this machine"):
        check_corpus(experiment.corpus)


def test_a_hub_id_is_no_path(make_experiment: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(store_key(make_experiment(corpus__source="huggingface", corpus__path="team/data"))) == 24


@pytest.mark.parametrize("name", ["json", "text", "parquet", "imagefolder"])
def test_a_reader_of_datasets_is_no_hub_dataset(
    make_experiment: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """`load_dataset("json")` would read what lies in the folder where the command runs."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=rf"^corpus.path is '{name}', by which `load_dataset` reads files of this m"):
        store_key(make_experiment(corpus__source="huggingface", corpus__path=name))


@pytest.mark.parametrize("name", ["s3://bucket/x", "a/b/c", "a b", "$HOME/x", "https://host/a.jsonl", "a\\b"])
def test_what_is_no_hub_id_is_refused(make_experiment: Make, name: str) -> None:
    with pytest.raises(ConfigError, match=r"^corpus.path is '[^\n]*', which is no id of a dataset on the Hub[^\n]*$"):
        check_corpus(make_experiment(corpus__source="huggingface", corpus__path=name).corpus)


@pytest.mark.parametrize("name", ["squad", "monology/pile-uncopyrighted", "a.b/c_d-e.f"])
def test_a_hub_id_is_taken(make_experiment: Make, name: str) -> None:
    check_corpus(make_experiment(corpus__source="huggingface", corpus__path=name).corpus)


def test_a_corpus_given_by_a_file_uri_counts_by_content(model: Path, text: Path, tmp_path: Path) -> None:
    folder = text.rename(tmp_path / "my text")
    key = store_key(experiment(model, folder))
    assert store_key(experiment(model, folder.as_uri())) == key  # file:///.../my%20text
    assert store_key(experiment(model, f"file://{folder}")) == key
    (folder / "a.txt").write_text("six " * 1000)
    assert store_key(experiment(model, folder.as_uri())) == store_key(experiment(model, folder)) != key
