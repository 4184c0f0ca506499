"""Ranks of right answers, and of models that know all or nothing."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from unitoken_jax.evaluate import retrieval
from unitoken_jax.evaluate.retrieval import Pair, RetrievalConfig


def test_rank_counts_ties_against_the_right_answer():
    similarity = np.array([[3.0, 1.0, 2.0], [5.0, 5.0, 0.0], [9.0, 8.0, 7.0]])
    assert retrieval.rank(similarity).tolist() == [0, 1, 2]


def test_retrieval_of_a_perfect_and_a_collapsed_model(siglip, monkeypatch):
    model, params = siglip
    images = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones(
        (16, 16, 3), np.uint8
    )
    pairs = [
        Pair(image, f"caption {i % 5}", np.full(12, i, np.int32))
        for i, image in enumerate(images)
    ]
    config = RetrievalConfig(pairs=8, batch=4, ranks=(1, 2), examples=2)

    def embed(perfect):
        def one_hot(_, __, images, text):
            at = images[:, 0, 0, 0].astype(int)
            picture, caption = np.eye(8)[at], np.eye(8)[text[:, 0]]
            return (picture, caption) if perfect else (picture * 0, caption * 0)

        return one_hot

    monkeypatch.setattr(retrieval, "embed", embed(perfect=True))
    found = retrieval.evaluate(model, params, iter(pairs), config)
    recall = found.measures["text_to_image/recall@1"]
    # The sixth pair repeats a caption and is left out.
    assert (recall.value, recall.count, recall.baseline) == (1.0, 5, 0.2)
    assert found.measures["image_to_text/recall@2"].baseline == 0.4
    assert found.measures["image_to_text/median_rank"].value == 1
    example = found.samples["image_to_text"][0]
    assert example["rank"] == 1
    assert example["found"][0]["right"]
    assert len(example["found"]) == 5

    monkeypatch.setattr(retrieval, "embed", embed(perfect=False))
    found = retrieval.evaluate(model, params, iter(pairs), config)
    assert found.measures["text_to_image/recall@2"].value == 0
    monkeypatch.undo()
    found = retrieval.evaluate(model, params, iter(pairs), config)
    assert 0 <= found.measures["text_to_image/recall@2"].value <= 1


@settings(deadline=None)
@given(st.integers(0, 999), st.integers(1, 12))
def test_ranks_without_ties_are_those_of_sorting(seed, count):
    similarity = np.random.default_rng(seed).permutation(count**2).reshape(count, count)
    order = np.argsort(-similarity, axis=1)
    expected = [row.tolist().index(i) for i, row in enumerate(order)]
    assert retrieval.rank(similarity).tolist() == expected
    # One to one: what a query finds has no other name.
    swapped = similarity[::-1, ::-1]
    assert retrieval.rank(swapped).tolist() == expected[::-1]


@given(st.lists(st.integers(0, 9), min_size=10, max_size=10))
def test_recall_grows_to_one_beside_chance(ranks):
    found = retrieval.rank_measures(np.array(ranks), (1, 3, 10, 40))
    recalls = [found[f"recall@{k}"] for k in (1, 3, 10, 40)]
    assert [m.value for m in recalls] == sorted(m.value for m in recalls)
    assert [m.baseline for m in recalls] == [0.1, 0.3, 1, 1]
    assert recalls[-1].value == 1
    median = found["median_rank"]
    assert median.value == np.median(ranks) + 1
    assert (median.baseline, median.less_is_better) == (5.5, True)
    assert median.is_worse == (median.value > 5.5)


def test_no_more_pairs_than_wanted_are_looked_at(siglip, monkeypatch):
    def pairs():
        for i in range(3):
            yield Pair(np.full((16, 16, 3), i, np.uint8), f"c{i}", np.zeros(12, int))
        raise AssertionError("three are enough")

    def embed(model, params, images, text):
        return np.eye(4)[: len(images)], np.eye(4)[: len(images)]

    monkeypatch.setattr(retrieval, "embed", embed)
    config = RetrievalConfig(pairs=2, batch=2, ranks=(1,), examples=9)
    found = retrieval.evaluate(*siglip, pairs(), config)
    assert found.measures["image_to_text/recall@1"].count == 2
    shown = found.samples["text_to_image"]
    assert [(s["caption"], s["rank"]) for s in shown] == [("c0", 1), ("c1", 1)]
    assert [f["caption"] for f in shown[1]["found"]] == ["c1", "c0"]
