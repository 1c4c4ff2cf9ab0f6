"""What SAELens, SAEDashboard and Neuronpedia read about an SAE follows from the note with it."""

from typing import Any

import pytest

from dmsae_ray.config.experiment import parse_experiment
from dmsae_ray.sae.saelens_fields import saelens_metadata, saelens_name
from dmsae_ray.store.layout import Layout
from dmsae_ray.store.sae_note import note_of


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("google/gemma-2-2b", "gemma-2-2b"),
        ("google/gemma-2-9b-it", "gemma-2-9b-it"),
        ("google/gemma-2b", "gemma-2b"),
        ("google/gemma-3-1b-pt", "google/gemma-3-1b-pt"),
        ("openai-community/gpt2", "gpt2-small"),
        ("gpt2", "gpt2-small"),
        ("EleutherAI/pythia-70m-deduped", "pythia-70m-deduped"),
        ("Qwen/Qwen3-0.6B", "qwen3-0.6b"),
        ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
        ("someone/google/gemma-2-2b", "someone/google/gemma-2-2b"),
        ("tiny", "tiny"),
    ],
)
def test_models_have_the_names_of_saelens_lists(model: str, name: str) -> None:
    assert saelens_name(model) == name


def noted(bos: int | None, eos: int | None, **sections: Any) -> dict[str, Any]:
    experiment = parse_experiment({"name": "x", "model": {"name": "google/gemma-2-2b", "layer": 5}, **sections})
    layout = Layout(8, 64, bos, eos, (0, 1, 2), 4, {"eval": 1}, 1, 0, {})
    return saelens_metadata(note_of(experiment, "key", layout))


@pytest.mark.parametrize(
    ("bos", "eos", "filters", "begins", "separator", "excluded"),
    [
        (2, 1, {}, True, "eos", [2]),
        (2, 1, {"drop_special": True}, True, "eos", [0, 1, 2]),
        (2, 1, {"drop_bos": False, "drop_special": True}, True, "eos", [0, 1]),
        (2, 1, {"drop_bos": False}, True, "eos", False),
        (None, 0, {}, False, "eos", False),
        (2, None, {}, True, None, [2]),
    ],
)
def test_how_contexts_begin_is_what_the_tokenizer_has(
    bos: int | None, eos: int | None, filters: dict[str, Any], begins: bool, separator: str | None, excluded: object
) -> None:
    found = noted(bos, eos, activations=filters)
    assert (found["prepend_bos"], found["context_size"]) == (begins, 1024)
    assert found["metadata"]["sequence_separator_token"] == separator
    assert found["metadata"]["exclude_special_tokens"] == excluded


@pytest.mark.parametrize(
    ("corpus", "dataset"),
    [
        ({"path": "monology/pile-uncopyrighted", "revision": "abc"}, "monology/pile-uncopyrighted"),
        ({"source": "parquet", "path": "hf://datasets/a/b@main/x.parquet"}, "a/b"),
        ({"source": "text", "path": "s3://bucket/texts"}, None),
        ({"source": "stdlib"}, None),
    ],
)
def test_the_dataset_is_named_where_it_is_one(corpus: dict[str, Any], dataset: str | None) -> None:
    found = noted(2, 1, corpus=corpus)
    assert found["dataset_path"] == dataset
    assert found["metadata"]["dataset_revision"] == corpus.get("revision")


def test_a_note_of_version_0_1_0_is_read() -> None:
    old = {"model": "gpt2", "revision": "r", "layer": 3, "context": 128, "corpus": "a/b", "store": "k"}
    found = saelens_metadata(old)
    assert (found["model_name"], found["hook_name"]) == ("gpt2-small", "blocks.3.hook_resid_post")
    assert (found["context_size"], found["prepend_bos"], found["dataset_path"]) == (128, True, None)
