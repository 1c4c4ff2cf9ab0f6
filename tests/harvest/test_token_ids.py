"""Chat data and special tokens in a text, against what transformers itself makes of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from dmsae_ray.config.experiment import Experiment, parse_experiment
from dmsae_ray.corpus.conversation import Conversation, conversation
from dmsae_ray.errors import ConfigError
from dmsae_ray.files.folder import Folder
from dmsae_ray.harvest.token_ids import check_documents, token_ids
from dmsae_ray.harvest.tokenising import write_tokens
from dmsae_ray.lm import load_tokenizer
from tests.lm.models import save_random_model
from tests.small_store import TREE

# As Gemma's: BOS first, roles in markers of special tokens, the system's message refused.
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{{ '<eos>' + message['role'] + '\n' + message['content'] + '<unk>\n' }}{% endfor %}"
)
CHATS = [
    [{"role": "user", "content": "What is a list?"}, {"role": "assistant", "content": "A sequence, as <bos>[1, 2]."}],
    [{"role": "user", "content": "And a <eos> dict?"}],
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with the embedded tokenizer and a chat template."""
    folder = save_random_model("gemma2", tmp_path_factory.mktemp("chat"))
    tokenizer = load_tokenizer(str(folder))
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(model: Path) -> Any:
    return load_tokenizer(str(model))


def as_documents(chats: list[Any]) -> list[str]:
    found = [conversation(chat) for chat in chats]
    assert all(isinstance(each, Conversation) for each in found)
    return [str.__str__(each) if each is None else each for each in found]


@pytest.mark.parametrize("special_tokens", ["text", "tokens"])
def test_a_conversation_has_the_tokens_of_its_chat_template(tokenizer: Any, special_tokens: Any) -> None:
    got = token_ids(tokenizer, ["a <bos>", *as_documents(CHATS), "b"], "m", special_tokens=special_tokens)
    want = [tokenizer.apply_chat_template(chat, tokenize=True, return_dict=False) for chat in CHATS]
    assert got[1:3] == want
    assert want[0][:2] == [2, 1] and 3 in want[0]  # the template's markers are the special tokens
    assert got[3] == tokenizer("b", add_special_tokens=False)["input_ids"]


def test_names_of_special_tokens_are_letters_or_tokens(tokenizer: Any) -> None:
    text = "<bos>user says <eos>"
    as_text = token_ids(tokenizer, [text], "m", special_tokens="text")[0]
    as_tokens = token_ids(tokenizer, [text], "m", special_tokens="tokens")[0]
    assert as_tokens == [2, *tokenizer("user says ", add_special_tokens=False)["input_ids"], 1]
    assert not {0, 1, 2, 3} & set(as_text)
    assert tokenizer.decode(as_text) == text == tokenizer.decode(as_tokens)


def test_a_tokenizer_without_template_is_refused_in_one_line() -> None:
    with pytest.raises(
        ConfigError, match=r"^corpus.text_field holds messages, .* 'tiny' has no chat template"
    ) as error:
        token_ids(load_tokenizer("tiny"), as_documents(CHATS), "tiny", special_tokens="text")
    assert "\n" not in str(error.value)


REFUSED = [
    [{"role": "system", "content": "Be short."}],
    [{"role": "assistant", "content": None, "tool_calls": []}, {"role": "user", "content": "a"}],
    [{"role": "user", "content": [{"type": "text", "text": "a"}]}],
]


@pytest.mark.parametrize("chat", REFUSED)
def test_a_conversation_that_the_template_refuses_has_no_ids(tokenizer: Any, chat: Any) -> None:
    got = token_ids(tokenizer, as_documents([CHATS[0], chat, CHATS[1]]), "m", special_tokens="text")
    assert got[1] is None and got[::2] == token_ids(tokenizer, as_documents(CHATS), "m", special_tokens="text")


# --- from a file on ---


def experiment(path: Path, source: str, model: str, **corpus: Any) -> Experiment:
    sizes = {"context": 16, "tokens": 96, "attribution_tokens": 16, "eval_tokens": 16}
    settings = {"source": source, "path": str(path), "text_field": "messages", **sizes, **corpus}
    recipe = {**TREE["recipe"], "batch_size": 64}
    return parse_experiment({**TREE, "model": {"name": model, "layer": 1}, "corpus": settings, "recipe": recipe})


def test_it_is_checked_before_anything_is_tokenised(tmp_path: Path, model: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in CHATS))
    check_documents(experiment(path, "jsonl", str(model)))
    with pytest.raises(ConfigError, match="'tiny' has no chat template"):
        check_documents(experiment(path, "jsonl", "tiny"))


def test_refused_conversations_are_skipped_and_counted(
    ray_cluster: Any, tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in [REFUSED[0], *CHATS * 3]))
    layout = write_tokens(Folder(str(tmp_path / "store")), experiment(path, "jsonl", str(model)))
    assert layout.skipped == 1
    assert "were skipped: 1 refused by the chat template" in caplog.text


def test_a_template_that_refuses_all_first_conversations_is_one_line(tmp_path: Path, model: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in REFUSED))
    with pytest.raises(ConfigError, match=r"refuses the first 3 conversations: TemplateError: System role not suppor"):
        check_documents(experiment(path, "jsonl", str(model)))


@pytest.mark.parametrize("source", ["jsonl", "parquet"])
def test_token_shards_of_chat_data(ray_cluster: Any, tmp_path: Path, model: Path, tokenizer: Any, source: str) -> None:
    chats = CHATS * 3
    path = tmp_path / f"chats.{source}"
    if source == "jsonl":
        path.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    else:
        pq.write_table(pa.table({"messages": chats}), path)
    write_tokens(Folder(str(tmp_path / "store")), experiment(path, source, str(model)))
    contexts = np.concatenate(
        [
            load_file(tmp_path / "store" / "tokens" / f"{split}-000000.safetensors")["tokens"]
            for split in ("eval", "attribution", "train")
        ]
    )
    assert (contexts[:, 0] == 2).all()  # every context begins with BOS
    stream = [token for chat in chats for token in (*tokenizer.apply_chat_template(chat, return_dict=False), 1)]
    got = contexts[:, 1:].flatten().tolist()
    assert got == stream[: len(got)]
