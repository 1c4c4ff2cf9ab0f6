"""What the evaluations need is checked before anything is paid, and said in one line."""

import json
from pathlib import Path

import pytest

from dmsae_ray.errors import ConfigError
from dmsae_ray.saebench.suite import SUITE, Given, check_needs, check_reachable, chosen

TEXTS = [{"text": f"text {n}", "label": "ab"[n % 2]} for n in range(80)]


def written(folder: Path, rows: list[object], name: str = "own.jsonl") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join(json.dumps(row) for row in rows))
    return folder


def test_evaluations_are_named_once() -> None:
    assert chosen(["core", "own", "core"], ["own"]) == ("core", "own")
    with pytest.raises(ConfigError, match=r"^--evals is 'core,probing'; 'probing' is none: there are own, core, "):
        chosen(["core", "probing"], ["own"])


@pytest.mark.parametrize(
    ("name", "model", "message"),
    [
        ("ravel", "HuggingFaceTB/SmolLM2-135M", "SAEBench 0.6.0 offers for gemma-2-2b and pythia-160m-deduped only"),
        ("unlearning", "tiny", "SAEBench 0.6.0 offers for gemma-2-2b and gemma-2-2b-it only; model.name is 'tiny'"),
        ("unlearning", "google/gemma-2-2b", "needs --forget-corpus FILE"),
        (
            "sparse_probing",
            "google/gemma-2-2b",
            "codeparrot/github-code is loaded by a script of its own, which is code",
        ),
        ("absorption", "tiny", "asks a language model to spell"),
        ("autointerp", "google/gemma-2-2b", "set OPENAI_API_KEY in the environment"),
    ],
)
def test_an_evaluation_says_what_it_lacks(name: str, model: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigError) as raised:
        check_needs([name], Given(model))
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_what_is_there_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a-key")
    corpus = tmp_path / "bio.jsonl"
    corpus.write_text("{}")
    data = written(tmp_path / "data", list(TEXTS))
    check_needs([name for name in SUITE if name != "ravel"], Given("google/gemma-2-2b-it", data, forget_corpus=corpus))
    check_needs(list(SUITE), Given("google/gemma-2-2b", data, forget_corpus=corpus))
    check_needs(list(SUITE), Given("google/gemma-2-2b", forget_corpus=corpus, run_code=True))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "a"}], "whose line 1 is no {text, label} (KeyError: 'label')"),
        ([*TEXTS, {"text": 3, "label": "a"}], "whose line 81 is no {text, label} (TypeError: its text is no text)"),
        (TEXTS[:60], "with texts by label a: 30, b: 30; it must have at least two labels, each with at least 40 texts"),
        ([row for row in TEXTS if row["label"] == "a"], "with texts by label a: 40; it must have at least two labels"),
    ],
)
def test_texts_of_one_s_own_are_looked_at(rows: list[object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        check_needs(["tpp"], Given("tiny", written(tmp_path / "data", rows)))
    assert message in str(raised.value) and str(raised.value).startswith("--data has own.jsonl")


def test_lines_are_those_of_json(tmp_path: Path) -> None:
    rows = [{**row, "text": f"{row['text']}\u2028\x85"} for row in TEXTS]
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "own.jsonl").write_text(f"{text}\n\n", encoding="utf-8")
    check_needs(["tpp"], Given("tiny", tmp_path))
    (tmp_path / "own.jsonl").write_bytes(b'{"text": "\xff"}')
    with pytest.raises(ConfigError, match=r"^--data has own.jsonl, which cannot be read as UTF-8 \("):
        check_needs(["tpp"], Given("tiny", tmp_path))


def test_a_folder_without_texts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--data is '.*'; it must be a folder with <name>.jsonl files"):
        check_needs(["tpp"], Given("tiny", tmp_path))


def test_what_is_given_is_not_asked_of_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[str] = []
    monkeypatch.setattr("dmsae_ray.saebench.suite._unreachable", lambda name: asked.append(name))
    check_reachable(["core", "tpp", "sparse_probing"], Given("tiny", tmp_path, own_text=True))
    assert asked == []
    check_reachable(["core", "tpp", "scr"], Given("tiny"))
    assert asked == ["Skylion007/openwebtext", "LabHC/bias_in_bios", "canrager/amazon_reviews_mcauley_1and5"]


def test_without_a_network_it_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConfigError) as raised:
        check_reachable(["sparse_probing"], Given("tiny"))
    said = str(raised.value)
    assert said.startswith(
        "--evals has 'sparse_probing', which reads the data set LabHC/bias_in_bios: the Hub does not"
    )
    assert said.endswith("; --data FOLDER takes texts of your own") and "\n" not in said
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        ConfigError, match=r"openwebtext: HF_HUB_OFFLINE is set, and it is not in the Hub's cache; --text"
    ):
        check_reachable(["core"], Given("tiny"))
    (tmp_path / "datasets--Skylion007--openwebtext").mkdir()
    check_reachable(["core"], Given("tiny"))
