"""Captions of one picture: the annotation's own, and a few natural variants of it."""

import hashlib
import html
import re
import unicodedata

from data_pipelines.prepare.colors import SPELLINGS
from data_pipelines.prepare.nouns import Annotation, article, noun_of

_QUOTES = str.maketrans("‘’“”", "''\"\"")
_FRAMES = ("a picture of {}", "an image of {}", "a drawing of {}", "a small {} icon")
_CONTINENTS = frozenset(
    f"signs_and_symbols/flags/{name}"
    for name in ("africa", "america", "asia", "europe", "oceania")
)
_PERSON = re.compile(
    r"(old(er)? |deaf |pregnant )?(man|woman|person|boy|girl|child|baby)\b"
)
_SKIN_TONE = re.compile(r"\b(light|medium-light|medium|medium-dark|dark) skin tone")


def clean(text: str) -> str:
    """Lower case, composed letters, straight quotes, single spaces, no entities."""
    text = unicodedata.normalize("NFC", html.unescape(text))
    plain = text.translate(_QUOTES).lower()
    return " ".join(plain.split())


def skin_tones(caption: str) -> list[str]:
    """The skin tones that a caption names, in order."""
    return _SKIN_TONE.findall(caption) if ":" in caption else []


def country_of(annotation: Annotation) -> str | None:
    """The country or region whose flag a picture shows, if the annotation says so."""
    caption = annotation["caption"]
    if annotation["category"] == "flags":
        name, _, country = caption.partition(": ")
        return country if name == "flag" and country else None
    plain = "flag" not in caption and not caption.startswith("by ")
    return caption if plain and annotation["subcategory"] in _CONTINENTS else None


def head(annotation: Annotation) -> str:
    """What a picture shows without its variants: 'woman surfing', 'flag of denmark'."""
    name, _, rest = annotation["caption"].partition(":")
    if name == "keycap" or not name or not rest or country_of(annotation):
        return phrase(annotation)
    return name


def phrase(annotation: Annotation) -> str:
    """A caption as one would say it: 'woman surfing with dark skin'."""
    if country := country_of(annotation):
        return f"flag of {country}"
    caption = annotation["caption"]
    name, _, rest = (part.strip() for part in caption.partition(":"))
    if not name or not rest:
        return caption
    if name == "keycap":
        return f"keycap {rest}"
    parts = rest.replace("skin tone", "skin").split(", ")
    people = [part for part in parts if _PERSON.fullmatch(part)]
    facing = [part for part in parts if part.startswith("facing")]
    others = [part for part in parts if part not in [*people, *facing]]
    return " ".join(
        [
            name,
            *(["of", _listed(people)] if people else []),
            *(["with", _listed(others)] if others else []),
            *facing,
        ]
    )


def _listed(parts: list[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last


def captions_of(annotation: Annotation, color: str | None) -> list[str]:
    """The captions of a picture, the annotation's own first, without repetitions.

    Args:
        annotation: A line of captions.jsonl with a clean caption.
        color: The name of the picture's colour if it has a single one.
    """
    caption = annotation["caption"]
    spoken = phrase(annotation)
    noun = noun_of(annotation)
    named = set(caption.split()) & SPELLINGS.keys()
    if noun is not None:
        # 'apple' or 'red apple': a single plain thing, so it takes an article
        spoken = caption if named else noun.singular
        if color is not None and not named:
            spoken = f"{color} {spoken}"
        spoken = f"{article(spoken)} {spoken}"
    elif _PERSON.match(spoken):
        spoken = f"{article(spoken)} {spoken}"
    elif country_of(annotation):
        spoken = f"the {spoken}"
    frames = _FRAMES[:-1] if noun is not None or spoken != caption else _FRAMES
    choice = hashlib.sha256(annotation["image"].encode()).digest()[0] % len(frames)
    variants = [caption, spoken, frames[choice].format(spoken)]
    return list(dict.fromkeys(variants))
