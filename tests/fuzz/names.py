"""Random names that try to break what shows them, for tests and fuzz targets."""

from __future__ import annotations

import random

#: Texts that mean something to a terminal, a format or a file system.
FRAGMENTS = (
    *("relu[half]", "[/nope]", "[bold]", "[link=file:///]", ":smile:", "\\[", "[@click=quit]"),
    *("\n", "\r", "\r\n", "\t", "\v", "\f", "\0", "\x07", "\b", "\x7f", "\x85", "\u2028", "\u2029"),
    *("\x1b[31m", "\x1b]0;title\x07", "\x1b[2J", "\x9b1A"),
    *("\u202e", "\u2066", "\u200f", "\u200b", "\u200d", "\ufeff", "\u00ad", "\u034f", "\ufe0f"),
    *("\u3164", "\u2800", "\u115f", "\xa0", "\u3000", " ", "  ", "\U000e0041", "\U000e0100"),
    *("e\u0301", "\u00e9", "\u0301", "\u1112\u1161\u11ab", "\ud55c", "\u2126", "\u03a9"),
    *("\ue000", "\uffff", "\U0010ffff", "\u0378", "网络", "Ωμέγα", "שלום", "مرحبا", "🙂", "👩‍🔬"),
    *("=1+1", "+1", "-1", "@SUM(A1)", "'", '"', ",", ";", "=HYPERLINK()"),
    *("|", "`", "```", "*b*", "_i_", "# h", "- item", "1. item", "---", "![x](y)", "<!--", "-->"),
    *(
        "<script>alert(1)</script>",
        "&amp;",
        "&#27;",
        "]]>",
        "</td>",
        "</style>",
        "{{ 7 }}",
        "{% x %}",
    ),
    *("$x$", "$", "\\frac{", "%", "&", "#", "{", "}", "~", "^", "_", "\\", "\\\\", "\\n", "\\x1b"),
    *("..", "/", "../..", "C:\\new", "nul", "null", "no", "1e-6", "0x10", "~", "? a", "- b", ": c"),
    *("%s", "{0}", "{name}", "\\N{DASH}", "a--b", "--out", "$(id)", "BitFlip(1e-3)", "variant"),
)
LONG = 100_000


def hostile_names(seed: int, number: int) -> list[str]:
    """Return ``number`` different names without lone surrogates, the same for the same seed.

    Some differ from another one in characters that cannot be seen alone. One of a hundred has
    100,000 characters.
    """
    draw = random.Random(seed)
    names: dict[str, None] = {}
    while len(names) < number:
        name = _name(draw)
        names[name] = None
        if draw.random() < 0.3 and len(names) < number:
            place = draw.randint(0, len(name))
            hidden = draw.choice(("\u200b", "\x07", " ", "\u034f", "\ufe0f", "\u2062"))
            names[name[:place] + hidden + name[place:]] = None
    return list(names)


def with_surrogate(name: str, seed: int) -> str:
    """Return the name with half of a surrogate pair in it, which no UTF-8 text can hold."""
    draw = random.Random(seed)
    place = draw.randint(0, len(name))
    return name[:place] + chr(draw.randint(0xD800, 0xDFFF)) + name[place:]


def _name(draw: random.Random) -> str:
    parts = [_part(draw) for _ in range(draw.randint(1, 5))]
    name = "".join(parts)
    if draw.random() < 0.01:
        place = draw.randint(0, LONG)
        name = "a" * place + name + "a" * (LONG - place)
    return name


def _part(draw: random.Random) -> str:
    kind = draw.random()
    if kind < 0.6:
        return draw.choice(FRAGMENTS)
    if kind < 0.8:
        return "".join(chr(draw.randint(0, 0x2FF)) for _ in range(draw.randint(1, 4)))
    signs = (chr(draw.randint(0, 0x10FFFF)) for _ in range(draw.randint(1, 4)))
    return "".join(sign if not "\ud800" <= sign <= "\udfff" else "x" for sign in signs)
