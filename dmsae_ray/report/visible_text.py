"""Text as a reader can see it: line ends, tabs, control and direction characters become visible signs."""

import unicodedata

_SIGNS = {"\n": "↵", "\r": "␍", "\t": "→"}
_HARMLESS = {"\u200c", "\u200d"}  # joiners, which belong to words and to emoji


def visible(text: str) -> str:
    """Return the text with a sign for each character that would not show, or would move what stands beside it."""
    return "".join(map(_sign, text))


def _sign(letter: str) -> str:
    if letter in _SIGNS:
        return _SIGNS[letter]
    kind = unicodedata.category(letter)
    if ord(letter) < 0x20:
        return chr(0x2400 + ord(letter))
    if kind in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") and letter not in _HARMLESS:
        return f"⟨U+{ord(letter):04X}⟩"
    return letter
