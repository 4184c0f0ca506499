"""Chameleon's layout of ids, trained and published, and text that survives."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data_pipelines.tokenizers.chameleon import (
    ChameleonVocabulary,
    code_name,
    size_name,
    structure_names,
    train_vocabulary,
)
from data_pipelines.tokenizers.vocabulary import VocabularyError

TEXTS = ["a red heart", "what is this?", "two apples on a blue background", "yes"]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "tokenizer.json"
    path.write_text(train_vocabulary(TEXTS, 32, 280, 4))
    return path


@pytest.fixture(scope="module")
def vocabulary(path):
    return ChameleonVocabulary.from_file(path)


def _published(path):
    """A tokenizer.json with the ids of Chameleon's and text pieces from 16384 on."""
    names = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
    names |= {code_name(code): 4 + code for code in range(8192)}
    names |= {"<eoss>": 8196, "<racm3:break>": 8197}
    names |= {f"<sentinel:{n}>": 8198 + n for n in range(512)}
    names |= {f"<reserved{n:05d}>": n + 4 for n in range(8706, 16380)}
    small = json.loads(train_vocabulary(TEXTS, 1, 256, 1))
    first = len(structure_names(1, 1))
    for piece, index in small["model"]["vocab"].items():
        if index >= first:
            names[piece] = 16384 + index - first
    small["model"]["vocab"] = names
    small["added_tokens"] = [
        token | {"id": names[token["content"]]} for token in small["added_tokens"]
    ]
    small["normalizer"] = None
    path.write_text(json.dumps(small))


def test_layout_of_a_trained_vocabulary(vocabulary):
    v = vocabulary
    names = structure_names(32, 4)
    assert [v.name(i) for i in range(len(names))] == names
    assert (v.bos, v.pad, v.code_ids[0], v.eoi, v.boi) == (0, 1, 4, 36, 37)
    assert v.num_codes == 32
    assert v.size == len(names) + 280
    assert v.size_token(4) == len(names) - 1
    assert v.name(v.size_token(2)) == size_name(2) == "<reserved08802>"
    assert v.is_text.sum() == 280
    with pytest.raises(VocabularyError, match="reserved08805"):
        v.size_token(5)


def test_codes_and_ids_are_inverse(vocabulary):
    codes = np.arange(32).reshape(4, 8)
    np.testing.assert_array_equal(
        vocabulary.codes_of(vocabulary.code_ids[codes]), codes
    )
    markers = [vocabulary.bos, vocabulary.newline, vocabulary.encode("a")[0]]
    np.testing.assert_array_equal(vocabulary.codes_of(markers), -1)


def test_published_layout(tmp_path):
    _published(tmp_path / "tokenizer.json")
    v = ChameleonVocabulary.from_file(tmp_path / "tokenizer.json")
    assert (v.bos, v.pad, v.eoi, v.boi, v.sep) == (0, 1, 8196, 8197, 8198)
    assert (v.end, v.newline, v.size_token(16)) == (8710, 8803, 8820)
    np.testing.assert_array_equal(v.code_ids, np.arange(4, 8196))
    assert code_name(8191) == "IMGIMGIBJBZ"
    assert v.encode("!")[0] >= 16384
    assert v.decode(v.encode("A red Heart ❤")) == "A red Heart ❤"
    assert not v.is_text[:16384].any()


def _lower(text):
    return "".join(character.lower() for character in text)


@given(st.text(st.characters(exclude_categories=("Cs", "Cn"))))
@example("<s>IMGIMGBZ</s> <reserved08706>")
@example("")
@example("  two\n\nlines\t3.14 ❤️ ÅLAND")
def test_text_survives_in_lower_case_and_forges_nothing(vocabulary, text):
    ids = vocabulary.encode(text)
    assert vocabulary.decode(ids) == _lower(text)
    assert vocabulary.is_text[ids].all()
    marked = [vocabulary.bos, *ids, vocabulary.end, int(vocabulary.code_ids[3])]
    assert vocabulary.decode(marked) == _lower(text)


def test_same_texts_give_same_bytes_in_another_process(path):
    code = (
        "import sys;"
        "from data_pipelines.tokenizers.chameleon import train_vocabulary as t;"
        f"sys.stdout.write(t({TEXTS!r}, 32, 280, 4)); assert 'jax' not in sys.modules"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout == path.read_text()


def test_frequent_words_become_pieces():
    text = train_vocabulary(["heart heart heart"] * 9, 4, 300, 1)
    assert "heart" in json.loads(text)["model"]["vocab"]


def test_faults_are_sentences(tmp_path, path):
    with pytest.raises(VocabularyError, match="at least 256"):
        train_vocabulary(TEXTS, 4, 255, 1)
    file = tmp_path / "tokenizer.json"
    with pytest.raises(VocabularyError, match="is missing"):
        ChameleonVocabulary.from_file(file)
    file.write_text("{")
    with pytest.raises(VocabularyError, match=r"not a tokenizer\.json"):
        ChameleonVocabulary.from_file(file)
    file.write_text(path.read_text().replace("<racm3:break>", "<other>"))
    with pytest.raises(VocabularyError, match="has no '<racm3:break>'"):
        ChameleonVocabulary.from_file(file)
    file.write_text(path.read_text().replace('"IMGIMGFZ"', '"word"'))
    with pytest.raises(VocabularyError, match="31 image codes"):
        ChameleonVocabulary.from_file(file)
