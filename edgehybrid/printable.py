"""Text for people: what others wrote made safe to print, and nouns that agree with their number."""

import unicodedata

_BIDI = {"\u202a", "\u202b", "\u202c", "\u202d", "\u202e", "\u2066", "\u2067", "\u2068", "\u2069", "\u200e", "\u200f"}


def plain(text: str) -> str:
    """Text on one line without control characters, which could drive a terminal or reverse what is read after them."""
    return "".join(
        "\ufffd" if unicodedata.category(c) in ("Cc", "Cs") or c in _BIDI else c
        for c in text.replace("\n", " ").replace("\t", " ")
    )


def counted(number: int, noun: str) -> str:
    """A number with its noun: 1 core, 2 cores, 1,000 classes."""
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{ending}"
