"""When two answers say the same: named rules, each reducing an answer to what counts.

Answers are equal if what a rule leaves of them is equal.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

Comparison = Literal["words", "exact", "vqa"]
"""A name of `RULES`."""

Reduce = Callable[[str], str]

_UNSEEN = re.compile("[\u00ad\u200b\u200e\u200f\u2060\ufe0e\ufe0f\ufeff]")
_DASHES = dict.fromkeys(map(ord, "‐‑‒–—−"), "-")
_QUOTES = dict.fromkeys(map(ord, "‘’‚′"), "'") | dict.fromkeys(map(ord, "“”„″«»"), '"')
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
# A number with its sign, a run of letters and digits, or one other character.
_TOKENS = re.compile(
    r"(?:(?<![\w)\]])[+-])?(?:\d+(?:[.,:]\d+)*|\.\d+)(?!\w)|\w+|[^\w\s]"
)
_ARTICLES = ("a", "an", "the")
# What ends or brackets words and says nothing of its own beside them.
_MARKS = frozenset(".,;:!?…¿¡()[]{}\"'-、。「」『』（）")


def words(answer: str) -> str:
    """Reduce an answer to its words, numbers and symbols, in lower case.

    Articles before a word, and marks that only end, quote or bracket words, do not
    count beside others: "A red heart." is "red heart". What carries the meaning stays:
    signs and decimals of numbers, letters of options, symbols and emoji, marks that
    are all there is.
    """
    text = _readable(answer)
    tokens = list(_TOKENS.finditer(text))
    found = [match[0].casefold() for match in tokens]
    kept = [
        word
        for i, word in enumerate(found)
        if not (_is_mark(found, i) or _is_article(tokens, i))
    ]
    return " ".join(kept or found)


def _readable(text: str) -> str:
    """Write a text in one of the ways that look the same."""
    text = _UNSEEN.sub("", unicodedata.normalize("NFC", text))
    text = "".join(map(_narrow, text)).translate(_DASHES | _QUOTES)
    return _THOUSANDS.sub(lambda match: match[0].replace(",", ""), text)


def _narrow(letter: str) -> str:
    """Return the usual form of a letter that East Asian typography widens."""
    kind, _, code = unicodedata.decomposition(letter).partition(" ")
    return chr(int(code, 16)) if kind in ("<wide>", "<narrow>") else letter


def _is_mark(found: Sequence[str], i: int) -> bool:
    """Say whether a token is punctuation that only ends, quotes or joins words."""
    token = found[i]
    if token not in _MARKS:
        return False
    before = found[i - 1] if i else ""
    after = found[i + 1] if i + 1 < len(found) else ""
    if token == "-":  # of "high-speed", not of "3-5" or "AB-"
        return _is_word(before) and _is_word(after)
    if token in "'\"":  # of "dog's", not of 5' or 6"
        return not before[-1:].isdecimal() or found.count(token) > 1
    return True


def _is_word(token: str) -> bool:
    return token[:1].isalpha() and token[-1:].isalpha()


def _is_article(tokens: Sequence[re.Match[str]], i: int) -> bool:
    """Say whether a token is an article: one that a word follows directly."""
    word = tokens[i][0]
    if word.casefold() not in _ARTICLES or i + 1 == len(tokens):
        return False
    if word == "A" and i:  # of "vitamin A tablets"
        return False
    following = tokens[i + 1][0]
    if word.casefold() == "the" and following[:1].isalnum():
        return True
    # "A B" and "A and B" name options.
    return len(following) > 1 and following[0].isalpha() and following != "and"


def exact(answer: str) -> str:
    """Reduce an answer to its letters in lower case; white space is one blank."""
    return " ".join(unicodedata.normalize("NFC", answer).casefold().split())


def vqa(answer: str) -> str:
    """Reduce an answer by the rules of VQA's evaluation (arXiv 1505.00468).

    Punctuation is left out or becomes a blank, number words become digits, articles
    are left out and apostrophes of contractions put back. As published, different
    answers may become equal: "A" is "the", "-5" is "5".
    """
    text = " ".join(answer.split())
    cleaned = text
    joined = re.search(r"\d,\d", text) is not None
    for mark in _VQA_MARKS:
        beside = f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if beside or joined else " ")
    cleaned = re.sub(r"\.(?!\d)", "", cleaned)
    found = (_NUMBERS.get(word, word) for word in cleaned.lower().split())
    return " ".join(
        _CONTRACTIONS.get(word, word) for word in found if word not in _ARTICLES
    )


_VQA_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_NUMBERS = {
    **{"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4"},
    **{"five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10"},
}
# What contractions end in, and what stands before it.
_ENDINGS = {
    "n't": "ai ca sha wo are could did does do had has have is might must need ought "
    "should was were would",
    "n't've": "could had might should would",
    "'ve": "could I might must not should they we what where who would you",
    "'d": "he how it somebody someone something there they where who you",
    "'d've": "he I it she somebody someone something there they we you",
    "'ll": "how it somebody someone something they what who why you",
    "'re": "there they what why you",
    "'s": "he how she somebody someone that there what when where who why",
    "": "let's ma'am o'clock 'twas y'all I'm",
}
_CONTRACTIONS = {
    f"{word}{ending}".lower().replace("'", "", count): f"{word}{ending}"
    for ending, before in _ENDINGS.items()
    for word in before.split()
    for count in (1, 2)
}

RULES: Mapping[Comparison, Reduce] = {"words": words, "exact": exact, "vqa": vqa}
"""By name."""
