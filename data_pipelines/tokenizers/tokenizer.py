"""Tokenizers opened by their files: the ending and the contents say which it is."""

from pathlib import Path

from data_pipelines.tokenizers import llama
from data_pipelines.tokenizers.chameleon import ChameleonVocabulary, read_tokenizer
from data_pipelines.tokenizers.clip import ClipVocabulary
from data_pipelines.tokenizers.llama import LlamaVocabulary, SentencePieceVocabulary
from data_pipelines.tokenizers.vocabulary import ImageTextVocabulary, VocabularyError

_CLIP = (".txt", ".gz")
_OTHERS = (".json", ".model")


def open_tokenizer(path: str | Path) -> ImageTextVocabulary | ClipVocabulary:
    """Reads the tokenizer of a file; its ending says which it is.

    Args:
        path: tokenizer.json (Chameleon, UniToken, our own, Llama), tokenizer.model
            (Llama), or CLIP's list of merges in .txt or .txt.gz. A CLIP in a
            tokenizer.json is opened by `ClipVocabulary.from_file`.

    Raises:
        VocabularyError: another ending, or a file that is missing or damaged.
    """
    ending = Path(path).suffix
    if ending in _CLIP:
        return ClipVocabulary.from_file(path)
    if ending in _OTHERS:
        return read_vocabulary(path)
    raise VocabularyError(
        f"{path} is no tokenizer that is known: name a tokenizer.json (Chameleon,"
        " Llama), a tokenizer.model (Llama) or a list of merges in .txt or .txt.gz"
        " (CLIP)"
    )


def read_vocabulary(path: str | Path) -> ImageTextVocabulary:
    """Reads a tokenizer.json of Chameleon's layout or Llama's, or a tokenizer.model.

    Raises:
        VocabularyError: The file is missing, damaged or none of these.
    """
    if Path(path).suffix == ".model":
        return SentencePieceVocabulary.from_file(path)
    tokenizer = read_tokenizer(path)
    if llama.is_llama(tokenizer):
        return LlamaVocabulary(tokenizer, str(path))
    return ChameleonVocabulary(tokenizer, str(path))
