"""The three tokenizers behind one interface."""

from pathlib import Path

import coded
import pytest
import vocabularies

from data_pipelines.tokenizers.chameleon import train_vocabulary
from data_pipelines.tokenizers.clip import ClipVocabulary
from data_pipelines.tokenizers.tokenizer import open_tokenizer
from data_pipelines.tokenizers.vocabulary import Vocabulary, VocabularyError

MERGES = Path(__file__).parents[2] / "golden" / "clip_merges.txt.gz"


@pytest.fixture(scope="module", params=["json", "llama.json", "model", "gz"])
def path(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    if request.param == "gz":
        return MERGES
    file = folder / f"tokenizer.{request.param}"
    if request.param == "llama.json":
        file.write_text(coded.llama_tokenizer())
    elif request.param == "json":
        file.write_text(train_vocabulary(["a red heart"], 8, 256, 1))
    else:
        file.write_bytes(vocabularies.llama_model())
    return file


def test_all_are_used_alike(path):
    tokenizer: Vocabulary = open_tokenizer(path)
    text = "a red heart , what is this"
    ids = tokenizer.encode(text)
    assert tokenizer.decode([tokenizer.bos, *ids, tokenizer.end]) == text
    markers = {tokenizer.bos, tokenizer.end}
    assert not markers & set(ids)
    assert max(markers | {*ids, tokenizer.pad}) < tokenizer.size


def test_the_file_says_which():
    for name in ("tokenizer.json", "tokenizer.model", "merges.txt"):
        with pytest.raises(VocabularyError, match=f"{name} is missing"):
            open_tokenizer(f"nowhere/{name}")
    assert isinstance(open_tokenizer(MERGES), ClipVocabulary)
    with pytest.raises(VocabularyError, match=r"vocab\.bin is no tokenizer that is kn"):
        open_tokenizer("vocab.bin")
