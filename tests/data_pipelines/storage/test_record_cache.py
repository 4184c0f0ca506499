"""Galleries: bounded memory, and bad records set aside by name."""

import logging
from dataclasses import dataclass

import pytest

from data_pipelines.storage.record_cache import BadRecordsError, RecordCache
from data_pipelines.storage.records import RecordError


@dataclass
class Prepared:
    """What a test's gallery keeps of a record."""

    value: str
    nbytes: int = 10


class Records(list):
    """Records whose reading is counted; None cannot be read."""

    def __init__(self, names):
        super().__init__(names)
        self.reads = []

    def __getitem__(self, index):
        self.reads.append(index)
        name = super().__getitem__(index)
        if name is None:
            raise RecordError(f"entry {index} is damaged")
        return {"id": name}


def prepare(record):
    if record["id"].startswith("bad"):
        raise RecordError(f"record {record['id']!r} is bad")
    return Prepared(record["id"])


def make(names, **options):
    records = Records(names)
    options = {"cache_bytes": 100, "bad_limit": 9} | options
    return RecordCache(records, prepare, **options), records


def test_prepared_records_stay_within_the_memory_given():
    gallery, records = make(["a", "b", "c"], cache_bytes=25)
    for _ in range(3):
        assert [gallery[i].value for i in range(3)] == ["a", "b", "c"]
    assert records.reads == [0, 1, 2, 2, 2]


def test_bad_records_are_named_once_and_not_read_again(caplog):
    gallery, records = make(["a", "bad1", None])
    with caplog.at_level(logging.WARNING):
        assert [gallery[i] is None for i in (1, 2, 1, 2)] == [True] * 4
    assert gallery.bad_records == {
        "bad1": "record 'bad1' is bad",
        "entry 2": "entry 2 is damaged",
    }
    assert len(caplog.records) == 2
    assert records.reads.count(1) == 2  # once to prepare it, once to name it
    assert gallery.identify(2) == "entry 2"


def test_scan_skips_what_cannot_be_read():
    gallery, _ = make(["a", None, "bad1"])
    assert [index for index, _ in gallery.scan()] == [0, 2]
    assert list(gallery.bad_records) == ["entry 1"]


def test_the_next_good_record_stands_in():
    gallery, _ = make(["a", "bad1", "bad2"])
    assert [gallery.good_from(i)[0] for i in range(3)] == [0, 0, 0]
    hopeless, _ = make(["bad1"])
    with pytest.raises(
        BadRecordsError, match="no record can be used; the first is bad"
    ):
        hopeless.good_from(0)


def test_a_share_of_bad_records_ends_a_run_whatever_their_number():
    names = [f"bad{i}" if i % 4 == 0 else f"{i}" for i in range(40)]
    gallery, _ = make(names, bad_limit=1000, bad_share=0.2)
    for index in range(29):
        assert (gallery[index] is None) == (index % 4 == 0)
    message = r"9 of 40 records \(22.5%\) .* bad_share is 20.0%; the first is bad0"
    with pytest.raises(BadRecordsError, match=message):
        gallery[32]
    scanned, _ = make(names, bad_limit=1000, bad_share=0.2)
    assert len([scanned.set_aside(i, RecordError("no")) for i in (0, 1)]) == 2
    for index, _ in scanned.scan():  # bad ones are found as they are prepared
        scanned.report(index, RecordError("a sample is too long"))
    with pytest.raises(BadRecordsError, match=r"40 of 40 records \(100.0%\)"):
        scanned.check_share()
    few, _ = make([f"bad{i}" for i in range(6)], bad_share=0.1)
    assert [few[i] for i in range(5)] == [None] * 5
    with pytest.raises(BadRecordsError, match="6 of 6 records"):
        few[5]


def test_reported_records_stay_usable():
    gallery, _ = make(["a"], bad_limit=0)
    with pytest.raises(BadRecordsError, match="1 records had to be set aside"):
        gallery.report(0, RecordError("a sample is too long"))
    assert gallery[0].value == "a"
