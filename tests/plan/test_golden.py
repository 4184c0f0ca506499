"""Golden numbers: tolerances, updates, and what is new or gone."""

import json

import pytest

from unitoken_jax.plan import golden

PLAN = {
    "memory": {"peak": 100.0, "fits": True},
    "unpriced": {},
    "seconds": {"compiled": 2.0, "capped": 1.5, "floor": 1.0},
    "flops": {"model": 10.0, "executed": 12.0},
    "collectives": [{"kind": "all-gather", "axes": "fsdp", "wire": 5.0}],
    "lint": [{"check": "donation", "message": "x"}],
}


@pytest.fixture
def kept(tmp_path, monkeypatch):
    path = tmp_path / "golden" / "case.json"
    monkeypatch.setenv("UPDATE_GOLDEN", "1")
    assert golden.compare(PLAN, path) == []
    monkeypatch.delenv("UPDATE_GOLDEN")
    return path


def test_a_small_deviation_is_no_news(kept):
    near = PLAN | {"seconds": {"compiled": 2.05, "capped": 1.52, "floor": 1.0}}
    assert golden.compare(near, kept) == []


def test_deviations_are_sentences(kept):
    memory = {"peak": 110.0, "fits": False}
    far = PLAN | {"memory": memory, "collectives": [], "lint": []}
    faults = golden.compare(far, kept)
    assert "memory.peak was 100, is 110" in faults
    assert "collectives.wire.all-gather.fsdp was 5.0, is None" in faults
    assert "lint was ['donation'], is []" in faults
    assert "fits was True, is False" in faults


def test_missing_numbers_say_how_to_write_them(tmp_path):
    assert "UPDATE_GOLDEN=1" in golden.compare(PLAN, tmp_path / "none.json")[0]


def test_the_file_is_readable(kept):
    assert json.loads(kept.read_text())["seconds.floor"] == 1.0


def test_what_has_no_price_is_compared_without_the_compilers_numbers(kept):
    lost = PLAN | {"unpriced": {"TopK.7": 2, "TopK.12": 1}}
    assert golden.numbers(lost)["unpriced"] == {"TopK": 3}
    assert golden.compare(lost, kept) == ["unpriced was {}, is {'TopK': 3}"]


def test_only_one_writes(kept, monkeypatch):
    monkeypatch.setenv("UPDATE_GOLDEN", "0")
    far = PLAN | {"memory": {"peak": 200.0, "fits": True}}
    assert golden.compare(far, kept) == ["memory.peak was 100, is 200"]
