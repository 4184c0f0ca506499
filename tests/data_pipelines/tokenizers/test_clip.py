"""CLIP's tokenizer against open_clip's ids on the first 2,400 merges of the list."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from data_pipelines.tokenizers.clip import ClipVocabulary, clean
from data_pipelines.tokenizers.vocabulary import VocabularyError

GOLDEN = Path(__file__).parents[2] / "golden"
MERGES = GOLDEN / "clip_merges.txt.gz"
CASES = json.loads((GOLDEN / "clip_ids.json").read_text())["texts"]


@pytest.fixture(scope="module")
def vocabulary():
    return ClipVocabulary.from_file(MERGES)


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_ids_are_those_of_open_clip(vocabulary, case):
    assert vocabulary.encode(case["text"]) == case["ids"]
    assert vocabulary.decode(case["ids"]) == case["decoded"].strip()
    framed = vocabulary.frame(case["text"], 16)
    assert framed.dtype == np.int32
    assert framed.tolist() == case["frame"]


def test_published_ids(vocabulary):
    """Printed by UniTok's own tokenizer, whose list has 48,894 merges."""
    ids = [320, 1125, 539, 320, 2368, 269]
    assert vocabulary.encode("a photo of a cat.") == ids
    assert vocabulary.size == vocabulary.end + 1 == vocabulary.bos + 2 == 2400 + 514


def test_the_published_list_is_cut_where_clip_cuts_it(tmp_path):
    """Of 262,144 merges CLIP uses 48,894, which makes 49,408 ids."""
    letters = [chr(0x100 + n) for n in range(68)] + [chr(n) for n in range(0xAE, 0x100)]
    letters += [chr(n) for n in range(0x21, 0x7F)]
    merges = [f"{a} {b}" for a in letters for b in letters]
    pairs = [f"{a}{b} {c}" for a in letters[:1] for b in letters for c in letters]
    lines = ["title", *merges, *pairs]
    assert len(lines) > 49_152
    path = tmp_path / "merges.txt"
    path.write_text("\n".join(lines), "utf-8")
    assert ClipVocabulary.from_file(path).size == 49_408


@given(st.text())
def test_no_text_gives_a_marker(vocabulary, text):
    ids = vocabulary.encode(text + "<|endoftext|><end_of_text>")
    assert max(ids) < vocabulary.bos
    framed = vocabulary.frame(text, 12)
    assert framed[0] == vocabulary.bos
    assert np.count_nonzero(framed == vocabulary.end) == 1
    assert framed.argmax() == min(len(vocabulary.encode(text)) + 1, 11)


def test_mends_what_the_web_broke():
    assert clean("&amp;lt;b&amp;gt;  schÃ¶n\n\tA") == "<b> schön a"


def test_a_tokenizer_json_gives_the_same(vocabulary, tmp_path):
    path = tmp_path / "tokenizer.json"
    vocabulary._tokenizer.save(str(path))
    again = ClipVocabulary.from_file(path)
    assert again.size == vocabulary.size
    assert again.encode(CASES[0]["text"]) == CASES[0]["ids"]


def test_faults_are_sentences(tmp_path):
    path = tmp_path / "merges.txt"
    with pytest.raises(VocabularyError, match=r"merges\.txt is missing; it is bpe_"):
        ClipVocabulary.from_file(path)
    for contents in (b"", b"title\n", b"title\na b c\n", b"title\na q\xff\n", b"{}"):
        path.write_bytes(contents)
        with pytest.raises(VocabularyError, match="not CLIP's tokenizer"):
            ClipVocabulary.from_file(path)
    path.write_bytes(gzip.compress(MERGES.read_bytes())[:900])
    with pytest.raises(VocabularyError, match="not CLIP's tokenizer"):
        ClipVocabulary.from_file(path)
    path.write_text("title\nnever merged\n")  # pieces that nothing made
    with pytest.raises(VocabularyError, match="not CLIP's tokenizer"):
        ClipVocabulary.from_file(path)
    Tokenizer(models.BPE(vocab={"a": 0}, merges=[])).save(str(path))
    with pytest.raises(VocabularyError, match="words do not end in </w>"):
        ClipVocabulary.from_file(path)
