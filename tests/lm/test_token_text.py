from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from dmsae_ray.lm.token_text import TokenText
from dmsae_ray.lm.tokenizer import load_tokenizer

TEXTS = ["Some plain text.", "  naïve “quoted” 日本語 \n\ttail", "🙂🙂 x\x00y \ufffd é", "<b>&amp;</b> </script>", ""]


@pytest.fixture(scope="module")
def tiny() -> Any:
    return load_tokenizer("tiny")


@pytest.fixture(scope="module")
def llama_like() -> Any:
    """A vocabulary as sentencepiece makes them: '▁' for a space, bytes as '<0xE2>', the first space dropped."""
    words = ["<unk>", "▁", "a", "b", "▁the", "cat", "é"] + [f"<0x{n:02X}>" for n in range(256)]
    tokenizer = Tokenizer(models.BPE({word: n for n, word in enumerate(words)}, [], unk_token="<unk>"))
    strip = decoders.Strip(" ", 1, 0)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


@pytest.mark.parametrize("text", TEXTS)
def test_the_pieces_are_the_text(tiny: Any, text: str) -> None:
    ids = tiny.encode(text, add_special_tokens=False)
    pieces = TokenText(tiny).several(ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces).replace("<0xEF><0xBF><0xBD>", "\ufffd") == text


def test_a_character_of_several_tokens_stands_at_the_first(tiny: Any) -> None:
    ids = tiny.encode("日", add_special_tokens=False)
    text = TokenText(tiny)
    assert len(ids) == 3 and text.several(ids) == ["日", "", ""]
    assert [text.one(i) for i in ids] == ["<0xE6>", "<0x97>", "<0xA5>"]
    assert text.several(ids[1:]) == ["<0x97>", "<0xA5>"], "a snippet may begin within a character"


def test_the_space_of_a_word_is_kept_and_bytes_are_joined(llama_like: Any) -> None:
    text = TokenText(llama_like)
    assert text.one(4) == " the"
    euro = [7 + byte for byte in "€".encode()]
    assert text.several([4, 5, *euro, 2]) == [" the", "cat", "€", "", "", "a"]
    assert text.one(euro[0]) == "<0xE2>"
