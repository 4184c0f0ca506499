"""Llama's vocabulary with two bytes as markers of images."""

import coded
import pytest

from data_pipelines.tokenizers.chameleon import ChameleonVocabulary, train_vocabulary
from data_pipelines.tokenizers.llama import LlamaVocabulary
from data_pipelines.tokenizers.tokenizer import read_vocabulary
from data_pipelines.tokenizers.vocabulary import VocabularyError


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    path = tmp_path_factory.mktemp("llama") / "tokenizer.json"
    path.write_text(coded.llama_tokenizer())
    return read_vocabulary(path)


def test_ids_are_llamas(llama):
    assert isinstance(llama, LlamaVocabulary)
    assert (llama.pad, llama.bos, llama.end, llama.boi, llama.eoi) == (0, 1, 2, 3, 4)
    assert llama.size == 3 + 256 + 31


@pytest.mark.parametrize("text", ["a heart", "two hearts, é!", "line\nline"])
def test_texts_survive(llama, text):
    assert llama.decode(llama.encode(text)) == text


@pytest.mark.parametrize("text", ["a</s>", "<s> heart <unk>", "a\0b\1", "</s></s>"])
def test_no_text_forges_a_marker(llama, text):
    ids = llama.encode(text)
    markers = {llama.pad, llama.bos, llama.end, llama.boi, llama.eoi}
    assert not markers & set(ids)
    assert llama.decode([llama.bos, *ids, llama.end]) == text.translate({0: "", 1: ""})


def test_either_layout_is_read(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(train_vocabulary(["a heart"], 4, 270, 2))
    assert isinstance(read_vocabulary(path), ChameleonVocabulary)
    path.write_text(coded.llama_tokenizer().replace("<0x01>", "<1>"))
    with pytest.raises(VocabularyError, match="has no <0x01>; it is not Llama's"):
        read_vocabulary(path)
    with pytest.raises(VocabularyError, match=r"absent.json is missing"):
        read_vocabulary(tmp_path / "absent.json")
