"""The names behind a decoder's ids, which published configurations list.

`transformers` finds image codes by their names (`IMGIMG` and the code in letters A to
J) and the place of a picture by `<image>`. Chameleon's own tokenizer has no `<image>`:
its published conversion renames a reserved piece, and so does this one.
"""

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unitoken_jax.convert.networks import Ids
from unitoken_jax.convert.tensors import WeightsError
from unitoken_jax.files import read_json

log = logging.getLogger(__name__)

IMAGE = "<image>"
FILE = "tokenizer.json"
_BOS, _PAD = "<s>", "<pad>"
_BOI, _EOI, _END, _EOS = "<racm3:break>", "<eoss>", "<reserved08706>", "</s>"
# Pieces that no text and no layout needs, in the order in which they are taken.
_SPARE = ("<reserved08707>", "<unk>")
_CODE = re.compile(r"IMGIMG([A-J]+)Z")
_DIGITS = str.maketrans("ABCDEFGHIJ", "0123456789")
_LETTERS = str.maketrans("0123456789", "ABCDEFGHIJ")
_PUBLISHED_SIZE, _PUBLISHED_CODES, _PUBLISHED_FIRST = 65_536, 8192, 4


@dataclass(frozen=True)
class Vocabulary:
    """Names and ids.

    Attributes:
        where: the file they are from, for messages.
        ids: name → id, with `<image>`.
        tokenizer: the contents of a tokenizer.json; None if only names are known.
    """

    where: str
    ids: Mapping[str, int]
    tokenizer: Mapping[str, object] | None = None

    @property
    def codes(self) -> dict[int, int]:
        """Code of the image tokenizer → id."""
        return codes_of(self.ids)

    @property
    def end(self) -> str:
        """The name that ends an answer."""
        return _END if _END in self.ids else _EOS

    @property
    def special(self) -> dict[str, int]:
        """The ids that configurations of generation name; those that there are."""
        names = {"bos": _BOS, "eos": self.end, "pad": _PAD}
        return {
            f"{role}_token_id": self.ids[name]
            for role, name in names.items()
            if name in self.ids
        }

    def files(self) -> dict[str, bytes]:
        """What a folder of the Hugging Face hub has of tokenizer and generation."""
        files = {"generation_config.json": _json(self.special)}
        if self.tokenizer is None:
            return files
        roles = {
            "bos_token": _BOS,
            "eos_token": self.end,
            "sep_token": self.end,
            "pad_token": _PAD,
        }
        roles = {role: name for role, name in roles.items() if name in self.ids}
        extra = {"image_token": IMAGE, "boi_token": _BOI, "eoi_token": _EOI}
        described = {
            **roles,
            "extra_special_tokens": {
                role: name for role, name in extra.items() if name in self.ids
            },
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
        }
        return files | {
            FILE: json.dumps(self.tokenizer, ensure_ascii=False, indent=1).encode(),
            "tokenizer_config.json": _json(described),
            "special_tokens_map.json": _json(roles),
        }


def codes_of(ids: Mapping[str, int]) -> dict[int, int]:
    """Code of the image tokenizer → id, of names and ids."""
    return {
        int(match[1].translate(_DIGITS)): index
        for name, index in ids.items()
        if (match := _CODE.fullmatch(name))
    }


def read_vocabulary(path: Path) -> Vocabulary:
    """Read a tokenizer.json, whatever it is of.

    Raises:
        WeightsError: it cannot be read, or is none.
    """
    try:
        tokenizer = read_json(path.read_bytes())
        vocab = tokenizer["model"]["vocab"]
        if isinstance(vocab, list):  # pieces and their scores, in the order of ids
            vocab = {piece: i for i, (piece, _) in enumerate(vocab)}
        added = tokenizer.get("added_tokens") or []
        ids = dict(vocab) | {token["content"]: token["id"] for token in added}
    except OSError as fault:
        raise WeightsError(f"{path} cannot be read: {fault.strerror}") from fault
    except (ValueError, KeyError, TypeError, AttributeError) as fault:
        raise WeightsError(
            f"{path} is no tokenizer.json with a vocabulary of names and ids"
            f" ({type(fault).__name__}: {fault})"
        ) from fault
    if not all(isinstance(i, int) and isinstance(name, str) for name, i in ids.items()):
        raise WeightsError(f"{path} has names without a whole number for an id")
    if codes_of(ids) and IMAGE not in ids:
        tokenizer, ids = _with_image(tokenizer, ids)
    return Vocabulary(str(path), ids, tokenizer)


def _with_image(
    tokenizer: dict[str, Any], ids: dict[str, int]
) -> tuple[dict[str, Any], dict[str, int]]:
    """Rename a spare piece to `<image>`, as the published conversion does."""
    spare = next((name for name in _SPARE if name in ids), None)
    if spare is None:
        return tokenizer, ids
    renamed = {IMAGE if name == spare else name: i for name, i in ids.items()}
    model = dict(tokenizer["model"])
    model["vocab"] = {
        IMAGE if name == spare else name: i for name, i in model["vocab"].items()
    }
    if model.get("unk_token") == spare:
        model["unk_token"] = None
    added = [
        {**token, "content": IMAGE} if token["content"] == spare else token
        for token in tokenizer["added_tokens"]
    ]
    return {**tokenizer, "model": model, "added_tokens": added}, renamed


def fitting_vocabulary(
    format: str,
    ids: Ids,
    given: Vocabulary | None,
    said: Mapping[str, object],
    codes: int | None,
) -> Vocabulary | None:
    """The names of a decoder's ids, as far as they are known, checked.

    Args:
        format: what is written, for messages.
        ids: those of the decoder.
        given: a tokenizer's names.
        said: what a published source said of the model.
        codes: how many codes the image tokenizer has that goes along, if one does.

    Raises:
        WeightsError: they do not fit the decoder or the image tokenizer; or an image
            tokenizer goes along and its codes or `<image>` have no name.
    """
    found = given or known_vocabulary(ids.size, said, ids.codes)
    where = found.where if found else "nothing"
    # What a tokenizer adds beyond the vocabulary has no embedding.
    names = {
        name: i
        for name, i in (found.ids if found else {}).items()
        if not isinstance(i, int)
        or i < ids.size
        or name == IMAGE
        or codes_of({name: i})
    }
    if not all(isinstance(i, int) and 0 <= i < ids.size for i in names.values()):
        raise WeightsError(
            f"vocabulary_map: {where} has ids that are none of the decoder's"
            f" vocab_size={ids.size}; give the tokenizer.json of its data as"
            " --vocabulary"
        )
    named = codes_of(names)
    _check_codes(where, ids, named)
    if codes is not None:
        if IMAGE not in names or sorted(named) != list(range(codes)):
            raise WeightsError(
                f"vocabulary_map: the image tokenizer has {codes} codes (n_embed), and"
                f" {where} names {len(named)} and"
                f" {'' if IMAGE in names else 'no '}{IMAGE}; without all of them"
                f" {format} cannot see a picture. Give the tokenizer.json of its data"
                " as --vocabulary"
            )
    elif IMAGE not in names or not named:
        log.warning(
            "%s: the names of the decoder's ids are not known, so that its class cannot"
            " be shown a picture; give the tokenizer.json of its data as --vocabulary.",
            format,
        )
    return replace(found, ids=names) if found else None


def _check_codes(where: str, ids: Ids, named: Mapping[int, int]) -> None:
    """Refuse names whose image codes lie elsewhere than the model's."""
    if ids.codes is None or not named:
        return
    first, last = min(named.values()), max(named.values())
    if (first, last) != ids.codes:
        raise WeightsError(
            f"vocabulary_map: {where} has its image codes at {first}..{last}, and"
            f" the model has first_image_code={ids.codes[0]} and"
            f" last_image_code={ids.codes[1]}; give the tokenizer.json of its data as"
            " --vocabulary"
        )


def known_vocabulary(
    size: int, said: Mapping[str, object], codes: tuple[int, int] | None
) -> Vocabulary | None:
    """The names that are known without a tokenizer.json.

    Args:
        size: of the vocabulary.
        said: what a published source said of the model: its `vocabulary_map`.
        codes: first and last id of the image codes, if they are known.

    Returns:
        The source's names; or those of Chameleon's published vocabulary, if it is of
        that size; or those of the codes; or None.
    """
    names = said.get("vocabulary_map")
    if isinstance(names, Mapping) and names:
        return Vocabulary("the source's vocabulary_map", dict(names))
    first, last = codes or (None, None)
    if size == _PUBLISHED_SIZE and first in (None, _PUBLISHED_FIRST):
        ids = {_BOS: 0, _PAD: 1, _EOS: 2, "<unk>": 3, _EOI: 8196, _BOI: 8197}
        ids |= {"<sentinel:0>": 8198, _END: 8710, IMAGE: 8711}
        ids |= _code_names(_PUBLISHED_FIRST, _PUBLISHED_CODES)
        return Vocabulary("Chameleon's published vocabulary", ids)
    if first is not None and last is not None:
        return Vocabulary(
            "the model's image codes", _code_names(first, last - first + 1)
        )
    return None


def _code_names(first: int, count: int) -> dict[str, int]:
    return {
        f"IMGIMG{str(code).translate(_LETTERS)}Z": first + code for code in range(count)
    }


def _json(content: Mapping[str, object]) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()
