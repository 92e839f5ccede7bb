"""In which words an edit is asked for: what people write, brought to one spelling, beside the sentences that a kind of edit is known by.

The sentences are ours, the first of each kind the one that it is trained under. Pure functions of text.
"""

import re
from functools import lru_cache

_PAINTED = ("red", "green", "blue", "yellow", "purple", "white", "black")

COLOURS = (*_PAINTED, "orange", "pink", "brown", "grey", "violet", "turquoise", "cyan", "magenta", "golden", "silver", "beige")
"""Names that stand for `{colour}`: those that edits paint in, and others that mean a colour all the same."""

_SENTENCES = {
    "grey": "make it black and white | make it grey | make it greyscale | make it monochrome | make it colourless | "
    "desaturate it | show it in black and white | remove its colours | remove the colour | remove the colours | take the colours away | take its colours away",
    "brighter": "make it brighter | make it lighter | make it bright | brighten it | brighten it up",
    "darker": "make it darker | make it dark | make it dimmer | darken it | dim it",
    "warmer": "make the colours warmer | make its colours warmer | make it warmer | warm it up | warm the colours",
    "cooler": "make the colours cooler | make its colours cooler | make it cooler | make the colours colder | make it colder | "
    "cool the colours",
    "inverted": "invert the colours | invert its colours | invert it | make it a negative | show it as a negative",
    "mirrored": "mirror it | mirror it horizontally | flip it | flip it horizontally | swap left and right | exchange left and right",
    "upside_down": "turn it upside down | make it upside down | flip it upside down | flip it vertically | mirror it vertically",
    "blurred": "blur it | make it blurry | make it blurred | make it soft | make it out of focus",
    "mosaic": "show it as a mosaic | make it a mosaic | pixelate it | make it pixelated | show it in large pixels",
    "outlined": "draw only its outlines | draw its outlines | show only its outlines | make it a line drawing | make it a sketch | "
    "make it a drawing",
    "posterised": "make it a poster of few colours | make it a poster | posterise it | posterize it | show it in few colours",
    "framed": "put a {colour} frame around it | put a frame around it | put a {colour} border around it | "
    "put a border around it | add a {colour} frame | add a frame | add a {colour} border | add a border | frame it in {colour}",
    "recoloured": "make the object {colour} | colour the object {colour} | paint the object {colour} | turn the object {colour}",
    "lettered": "write {words} on it | write {words} | add the word {words} | add the words {words} | add the text {words} | "
    "put {words} on it",
    "segment": "mark the object with {colour} | mark the object in {colour} | highlight the object in {colour} | mark the object",
}

ASKS = {name: tuple(sentences.split(" | ")) for name, sentences in _SENTENCES.items()}
"""Kind of edit -> sentences; `{colour}` is the name of a colour, `{words}` what stands in quotes."""

_SPELT = (
    (r"[“”„«»]", '"'),
    (r"\bcolor", "colour"),
    (r"\bgray", "grey"),
    (r"\b(please|kindly)\b,?|^(can|could|would) you\b", " "),
    (r"\b(the|this|my|that) (whole |entire )?(video|clip|film|movie|picture|image|photo|footage|scene)\b|\bthis\b", "it"),
    (r"\bblack[ -](and|&|n)[ -]white\b|\bb ?(&|and) ?w\b", "black and white"),
    (r"^(turn|convert|change|transform|render) it (in|to|into)\b|^(turn|render) it (?!upside)", "make it "),
    (r"^give it (a|an) (?=(blurred|blurry|grey|black and white|monochrome)\b)", "make it "),
    (r"^(get rid of|delete|drop) ", "remove "),
    (r"\b(grey|black and white|monochrome|greyscale) (look|video|film|style)$", r"\1"),
    (r"^make it (a bit|a little|much|slightly|somewhat) ", "make it "),
)
"""What is read as what, in this order, before an instruction is looked up: other spellings, politeness, names of what is edited, and verbs."""


def known_as(name: str, instruction: str) -> bool:
    """Whether the instruction asks for that kind of edit, whatever its case, end mark and politeness, and whatever colour or words it names."""
    said = plain(instruction)
    return any(re.fullmatch(_pattern(ask), said) for ask in ASKS[name])


def examples() -> list[str]:
    """A sentence of every kind of edit as a model is trained under it, for those who ask what can be asked."""
    return [asks[0].format(colour="red", words='"HELLO"') for asks in ASKS.values()]


def plain(instruction: str) -> str:
    """The instruction in one spelling, in small letters, without end mark."""
    said = " ".join(instruction.casefold().split())
    for pattern, by in _SPELT:
        said = " ".join(re.sub(pattern, by, said).split())
    return said.strip(" .!?…,;")


@lru_cache(maxsize=256)
def _pattern(ask: str) -> str:
    colour = f"(?:(?:light|dark|bright) )?(?:{'|'.join(COLOURS)})"
    return re.escape(ask).replace(r"\{colour\}", colour).replace(r"\{words\}", '"[^"]+"')
