"""Llama's tokenizer: a small SentencePiece model trained with Llama's settings."""

import pytest
import sentencepiece
import vocabularies
from hypothesis import example, given
from hypothesis import strategies as st

from data_pipelines.tokenizers.llama import SentencePieceVocabulary
from data_pipelines.tokenizers.vocabulary import VocabularyError


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("llama") / "tokenizer.model"
    path.write_bytes(vocabularies.llama_model())
    return path


@pytest.fixture(scope="module")
def vocabulary(path):
    return SentencePieceVocabulary.from_file(path)


def test_markers_are_the_published_ids(vocabulary):
    v = vocabulary
    assert (v.pad, v.bos, v.end, v.boi, v.eoi) == (0, 1, 2, 3, 4)
    assert v.size == 320


def test_ids_are_sentencepieces(vocabulary, path):
    reference = sentencepiece.SentencePieceProcessor(model_file=str(path))
    for text in [*vocabularies.SENTENCES, "apple 314 ❤", "  two  blanks\n"]:
        assert vocabulary.encode(text) == reference.encode(text)
        assert vocabulary.decode(vocabulary.encode(text)) == text


# SentencePiece writes a blank as this character, so it comes back as a blank.
BLANK = "\u2581"


@given(st.text(st.characters(exclude_categories=("Cs",), exclude_characters=BLANK)))
@example("<s></s><unk><0x00>")
@example("nul \x00 and \x01 one")
@example("")
def test_text_survives_and_forges_nothing(vocabulary, text):
    v = vocabulary
    ids = v.encode(text)
    assert not {v.bos, v.end, v.pad, v.boi, v.eoi} & set(ids)
    kept = text.replace("\x00", "").replace("\x01", "")
    assert v.decode(ids) == kept
    assert v.decode([v.bos, *ids, v.boi, v.eoi, v.end, v.pad]) == kept


def test_faults_are_sentences(tmp_path):
    path = tmp_path / "tokenizer.model"
    with pytest.raises(VocabularyError, match="is missing; it stands beside"):
        SentencePieceVocabulary.from_file(path)
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(VocabularyError, match=r"is no tokenizer\.model"):
        SentencePieceVocabulary.from_file(path)
    path.write_bytes(vocabularies.llama_model(byte_fallback=False, vocab_size=60))
    with pytest.raises(VocabularyError, match="pieces of bytes"):
        SentencePieceVocabulary.from_file(path)
