"""A data set of one picture."""

import pytest

from data_pipelines import pick
from data_pipelines.storage.shards import Split
from data_pipelines.tokenizers.chameleon import ChameleonVocabulary
from unitoken_jax.errors import REFUSED


def test_one_record_stands_in_both_splits(tmp_path, examples) -> None:
    source, output = examples.data_set(tmp_path / "all"), tmp_path / "one"
    pick.pick(source, output, "picture number 3")
    for name in pick.SPLITS:
        split = Split(output, name)
        (record,) = split
        split.close()
        assert record["id"] == "picture/00003"
        assert record["captions"] == ["picture number 3"]
        assert record["questions"] == []
    sizes = [
        ChameleonVocabulary.from_file(folder / "tokenizer.json").size
        for folder in (source, output)
    ]
    assert sizes[0] == sizes[1]


def test_it_is_made_once_and_replaced_by_another(tmp_path, examples) -> None:
    source, output = examples.data_set(tmp_path / "all"), tmp_path / "one"
    first = pick.pick(source, output, "picture number 3")
    mark = output / "manifest.json"
    before = mark.stat().st_mtime_ns
    assert pick.pick(source, output, "picture number 3") == first
    assert mark.stat().st_mtime_ns == before
    assert pick.pick(source, output, "picture number 4") != first


def test_faults_are_sentences(tmp_path, examples, capsys) -> None:
    source, output = examples.data_set(tmp_path / "all"), tmp_path / "one"
    with pytest.raises(pick.PickError, match="no training picture of"):
        pick.pick(source, output, "picture number 102")  # is held out
    assert not output.exists()
    words = ["--input", str(source), "--output", str(output), "--caption"]
    assert pick.main([*words, "picture number 1"]) == 0
    assert capsys.readouterr().out == f"{output} holds 'picture number 1'\n"
    assert pick.main([*words, "nothing"]) == REFUSED
    assert capsys.readouterr().err.startswith("error: no training picture")
