"""What tokens are as text: also those that are half a character, and those whose space the tokenizer would swallow."""

import re
from collections.abc import Sequence
from typing import Any

_UNDECODED = "\ufffd"
_LONGEST = 4
"""A character has at most four bytes, and so at most four tokens."""


class TokenText:
    """The text of tokens of one tokenizer; what was decoded is remembered.

    Args:
        tokenizer: of transformers.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._known: dict[tuple[int, ...], str] = {}
        # Behind another token a decoder keeps the space that begins a word, which some drop at the start of a text.
        self._lead: list[int] = list(tokenizer.encode("a", add_special_tokens=False))[-1:]
        self._lead_text = self._decode(self._lead)

    def __len__(self) -> int:
        return len(self._tokenizer)

    def one(self, token: int) -> str:
        """Return the text of one token; a part of a character is written as its bytes, '<0xE2><0x82>'."""
        text = self._text(token)
        return self._bytes(token) if _UNDECODED in text else text

    def several(self, tokens: Sequence[int]) -> list[str]:
        """Return the text of each of successive tokens.

        Where several tokens are one character, the first one has it and the others are ''.
        """
        found: list[str] = []
        while len(found) < len(tokens):
            at = len(found)
            text = self._text(tokens[at])
            if _UNDECODED not in text:
                found.append(text)
                continue
            for end in range(at + 2, min(at + _LONGEST, len(tokens)) + 1):
                text = self._text(*tokens[at:end])
                if _UNDECODED not in text:
                    found += [text, *[""] * (end - at - 1)]
                    break
            else:
                found.append(self._bytes(tokens[at]))
        return found

    def _text(self, *tokens: int) -> str:
        if tokens not in self._known:
            text = self._decode([*self._lead, *tokens])
            behind = text.startswith(self._lead_text)
            self._known[tokens] = text[len(self._lead_text) :] if behind else self._decode(tokens)
        return self._known[tokens]

    def _decode(self, tokens: Sequence[int]) -> str:
        text = self._tokenizer.decode(
            [int(token) for token in tokens], skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return str(text)

    def _bytes(self, token: int) -> str:
        piece = str(self._tokenizer.convert_ids_to_tokens(int(token)))
        if re.fullmatch("<0x[0-9A-F]{2}>", piece) or any(letter not in _BYTE_OF for letter in piece):
            return piece  # a byte in a vocabulary of sentencepiece
        return "".join(f"<0x{_BYTE_OF[letter]:02X}>" for letter in piece)


def _byte_alphabet() -> dict[str, int]:
    """Return the byte of each letter of byte-level BPE.

    Bytes that are printable in Latin-1 are their own letter; the others have the letters from U+0100 on, in order.
    """
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in own]
    return {chr(byte): byte for byte in own} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()
