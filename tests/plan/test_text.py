"""What `plan` says of the text, before anything is started: a column that is not there, too little text, chat data."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dmsae_ray.cli.commands import main
from dmsae_ray.config.experiment import Experiment, parse_experiment
from dmsae_ray.corpus import sample as sample_module
from dmsae_ray.errors import ConfigError, DataError
from dmsae_ray.plan.text import check_text
from dmsae_ray.sweep.inputs import check_inputs

CHAT = [{"role": "user", "content": "a"}]
FEW = {"context": 64, "tokens": 2_000, "attribution_tokens": 64, "eval_tokens": 64}


def experiment(source: str, path: Path | str | None, model: str = "tiny", **more: Any) -> Experiment:
    corpus = {"source": source, "path": None if path is None else str(path), **FEW, **more}
    recipe = {"tokens": 2_000, "batch_size": 64, "warmup_steps": 1, "threshold_start_step": 1}
    tree = {"name": "test", "model": {"name": model, "layer": 1, "dtype": "float32"}, "corpus": corpus}
    return parse_experiment({**tree, "recipe": recipe, "sae": {"n_latents": 128, "k": 8}})


def write(folder: Path, source: str, cells: list[Any], field: str = "text") -> Path:
    folder.mkdir(exist_ok=True)
    if source == "parquet":
        pq.write_table(pa.table({field: cells}), folder / "a.parquet")
    else:
        (folder / "a.jsonl").write_text("".join(json.dumps({field: cell, "n": 1}) + "\n" for cell in cells))
    return folder


@pytest.mark.parametrize("source", ["parquet", "jsonl"])
def test_a_column_that_is_not_there_is_refused(tmp_path: Path, source: str) -> None:
    write(tmp_path, source, ["word " * 5000] * 3)
    with pytest.raises(DataError, match=r"^corpus.text_field is 'body'[^\n]* (has|columns) text[^\n]*$"):
        check_text(experiment(source, tmp_path, text_field="body"))
    assert check_text(experiment(source, tmp_path)) == ()


def test_text_that_is_certainly_too_little_is_refused(tmp_path: Path) -> None:
    # 34 contexts with 63 tokens of text each.
    write(tmp_path, "jsonl", ["x" * 1000, "y" * 500])
    with pytest.raises(DataError, match=r"^corpus.tokens 2000 \+ [^\n]* = 2128 tokens were asked of corpus.path '"):
        check_text(experiment("jsonl", tmp_path))
    (tmp_path / "b.txt").write_text("z" * (34 * 63 - 1))  # and EOS: just enough, if every byte is a token
    (note,) = check_text(experiment("text", tmp_path))
    assert "has about 535 tokens of 4 bytes; 2.13k are asked" in note
    (tmp_path / "b.txt").write_text("z" * (34 * 63 - 2))
    with pytest.raises(DataError, match=r"which has at most 2,141: one a byte$"):
        check_text(experiment("text", tmp_path))
    (tmp_path / "b.txt").write_bytes(b"\xe9" * (34 * 63 // 4 + 1))  # cp437: up to three bytes of UTF-8 each
    assert len(check_text(experiment("text", tmp_path, encoding="cp437"))) == 1
    with pytest.raises(DataError, match=r"asked of the standard library's text, which has at most 10,000,000: one a b"):
        check_text(experiment("stdlib", None, tokens=500_000_000))


def test_files_whose_size_says_little_are_not_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "a.jsonl.gz").write_bytes(gzip.compress(json.dumps({"text": "word " * 10_000}).encode()))
    assert check_text(experiment("jsonl", tmp_path / "a")) == ()
    same = ["the same text, again and again"] * 2000
    assert check_text(experiment("parquet", write(tmp_path / "b", "parquet", same))) == ()
    assert (tmp_path / "b" / "a.parquet").stat().st_size < 2128
    (note,) = check_text(experiment("parquet", tmp_path / "b", tokens=100_000))
    assert note.endswith("are asked") and "tokens of 4 bytes" in note


def test_chat_data_needs_a_chat_template(tmp_path: Path) -> None:
    text = write(tmp_path / "text", "jsonl", [CHAT] * 10, "messages")
    with pytest.raises(ConfigError, match=r"model.name 'tiny' has no chat template; give a model that has one[^\n]*$"):
        check_text(experiment("jsonl", text, text_field="messages"))
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    asked = experiment("jsonl", text, str(model), text_field="messages")
    assert len(check_text(asked)) == 1  # no tokenizer here: not known
    (model / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ConfigError, match="has no chat template"):
        check_text(asked)
    (model / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    assert len(check_text(asked)) == 1  # the little text is a note, since a template adds tokens
    (model / "tokenizer_config.json").write_text("{}")
    (model / "chat_template.jinja").write_text("{{ messages }}")
    assert len(check_text(asked)) == 1


def test_documents_that_are_skipped_are_a_note_and_no_text_is_refused(tmp_path: Path) -> None:
    for i in range(10):
        (tmp_path / f"{i}.txt").write_bytes(("caf\u00e9 " * 2000).encode("latin-1" if i else "utf-8"))
    (note,) = check_text(experiment("text", tmp_path))
    assert "9 of 10 documents (90.0%) were skipped: 9 not utf-8 (90.0%)" in note
    little, _ = check_text(experiment("text", tmp_path, tokens=5_000))
    assert little.endswith("has about 2.55k tokens of 4 bytes; 5.13k are asked")  # what is skipped does not count
    (tmp_path / "0.txt").unlink()
    with pytest.raises(DataError, match=r"^corpus.path '[^\n]*': no text in its first documents: 9 of 9 documents"):
        check_text(experiment("text", tmp_path))


def test_text_behind_many_documents_without_any_is_found(tmp_path: Path) -> None:
    lines = [json.dumps({"text": ""})] * 300 + [json.dumps({"text": "word " * 40})] * 2000
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    assert any("300 empty" in note for note in check_text(experiment("jsonl", tmp_path)))


def test_only_a_sample_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "jsonl", ["word " * 100] * 5000)
    with open(tmp_path / "a.jsonl", "a") as file:
        file.write("{torn\n" * 100)
    read = []

    def counted(*arguments: Any) -> Any:
        for document in real(*arguments):
            read.append(document)
            yield document

    real = sample_module.read_unit
    monkeypatch.setattr(sample_module, "read_unit", counted)
    assert check_text(experiment("jsonl", tmp_path)) == () and len(read) == 256


@pytest.mark.parametrize(("source", "path"), [("huggingface", "a/b"), ("text", "s3://bucket/x")])
def test_what_is_not_on_this_machine_is_not_looked_at(source: str, path: str) -> None:
    assert check_text(experiment(source, path)) == ()


def test_a_path_that_is_not_on_this_machine_is_a_note() -> None:
    """A plan may be made elsewhere than the sweep."""
    (note,) = check_text(experiment("text", "not-here/at"))
    assert note == "corpus.path 'not-here/at' is not on this machine: nothing of it was looked at"


@pytest.mark.parametrize("kind", ["{}", "file://{}", "{}/"])
def test_what_source_huggingface_would_read_from_this_machine_is_refused_by_the_plan(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ConfigError, match=r"which is on this machine; source 'huggingface' reads the Hub"):
        check_text(experiment("huggingface", kind.format(write(tmp_path / "data", "jsonl", ["x" * 4000]))))


def test_a_later_file_without_the_column_is_refused(tmp_path: Path) -> None:
    texts = ["word " * 500] * 300
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"body": texts}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"^corpus.text_field is 'text'; '[^\n]*b.parquet' has the columns body$"):
        check_text(experiment("parquet", tmp_path))
    pq.write_table(pa.table({"text": list(range(300))}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"^corpus.text_field is 'text', of type int64 in '[^\n]*b.parquet'; it must "):
        check_text(experiment("parquet", tmp_path))
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-50])
    with pytest.raises(DataError, match=r"^corpus file '[^\n]*b.parquet' is truncated or of another format: [^\n]*$"):
        check_text(experiment("parquet", tmp_path))


def test_a_later_file_of_a_saved_dataset_is_looked_at(tmp_path: Path) -> None:
    from datasets import Dataset

    Dataset.from_dict({"text": ["word " * 500] * 600}).save_to_disk(tmp_path / "saved", num_shards=2)
    assert check_text(experiment("arrow", tmp_path / "saved")) == ()
    last = max((tmp_path / "saved").glob("*.arrow"))
    last.write_bytes(b"")
    with pytest.raises(DataError, match=rf"^corpus file '{last}' is truncated or of another format: [^\n]*$"):
        check_text(experiment("arrow", tmp_path / "saved"))


def test_text_of_another_encoding_that_is_read_as_utf_8_is_a_note(tmp_path: Path) -> None:
    """UTF-16 without a mark at its beginning is valid UTF-8, each second letter NUL."""
    (tmp_path / "a.txt").write_bytes(("word " * 2000).encode("utf-16-le"))
    (note,) = check_text(experiment("text", tmp_path))
    assert "1 of the first 1 documents of corpus.path" in note and "hold the character NUL, as text in UTF-16 " in note
    assert check_text(experiment("text", tmp_path, encoding="utf-16-le")) == ()


def test_messages_of_another_form_are_named(tmp_path: Path) -> None:
    write(tmp_path, "jsonl", [[{"from": "human", "value": "a" * 400}]] * 20, "conversations")
    with pytest.raises(
        DataError,
        match=r"^corpus.text_field is 'conversations'; of '[^\n]*' it holds neither text nor messages in the first 20 "
        r"documents; it must be a text, or a list of messages \{role, content\}$",
    ):
        check_text(experiment("jsonl", tmp_path, text_field="conversations"))


def test_a_file_uri_is_on_this_machine(tmp_path: Path) -> None:
    write(tmp_path, "jsonl", ["x"])
    with pytest.raises(DataError, match=r"tokens were asked of corpus\.path 'file:///"):
        check_text(experiment("jsonl", tmp_path.as_uri()))


def test_a_json_array_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps([{"text": "x" * 400}] * 100))
    with pytest.raises(
        DataError, match=r"a\.jsonl' begins with a JSON array; one object a line is read \(JSON lines\)"
    ):
        check_text(experiment("jsonl", tmp_path))


def test_the_commands_say_it_in_one_line_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = write(tmp_path / "text", "jsonl", ["x" * 1000])
    asked = experiment("jsonl", text)
    (tmp_path / "a.yaml").write_text(asked.to_yaml())
    assert main(["plan", str(tmp_path / "a.yaml")]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "tokens were asked of corpus.path" in said.err
    with pytest.raises(DataError, match="tokens were asked of corpus"):
        check_inputs(asked)
    write(text, "jsonl", ["x" * 4000])
    assert main(["plan", str(tmp_path / "a.yaml")]) == 0
    assert "note        corpus.path" in capsys.readouterr().out
