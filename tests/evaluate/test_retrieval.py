"""Ranks of right answers, and of models that know all or nothing."""

import numpy as np

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
