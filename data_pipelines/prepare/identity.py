"""Ids of records: short names of pictures that no other picture shares."""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath


def plain_name(name: str) -> str:
    """A file name as it is compared: without `./` and `//`, letters composed."""
    return unicodedata.normalize("NFC", str(PurePosixPath(name)))


def identities(names: Sequence[str]) -> list[str]:
    """Ids of pictures, unique even where case is ignored.

    An id is the picture's name without its suffix. Where another picture would have the
    same, or is called so in full, it is the name in full, and where that is the same
    again (names that differ in case, or in how their letters are composed) a part of
    the digest of the name as it is written follows.

    Args:
        names: Of different files.
    """
    plain = [plain_name(name) for name in names]
    short = [str(PurePosixPath(name).with_suffix("")) for name in plain]
    shared = Counter(map(str.casefold, plain))
    taken = Counter(map(str.casefold, [*plain, *short]))
    chosen = []
    for name, full, brief in zip(names, plain, short, strict=True):
        if taken[brief.casefold()] == 1 + (brief == full):
            chosen.append(brief)
        elif shared[full.casefold()] == 1:
            chosen.append(full)
        else:
            digest = hashlib.sha256(name.encode()).hexdigest()[:12]
            chosen.append(f"{full}#{digest}")
    return chosen
