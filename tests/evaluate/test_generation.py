"""Likelihoods of captions, and questions about drawings."""

import dataclasses

import numpy as np
import pytest

from unitoken_jax.evaluate import generation
from unitoken_jax.evaluate.generation import Captioned, GenerationTestConfig


@pytest.fixture
def captioned(views):
    questions = [("color", "what color?", "red"), ("other", "why?", "because")]
    texts = ["a red heart", "bird", "a tree", "what", "blue", "on"]
    return [
        Captioned(view, text, questions)
        for view, text in zip(views, texts, strict=True)
    ]


def test_generation_measures_ranks_and_cycles(sampler, captioned):
    config = GenerationTestConfig(
        images=6, captions=3, drawings=2, kinds=("color",), examples=2
    )
    done, drawn = [], []
    novelties = ["new concepts", "new compositions"] * 3
    captioned = [
        item._replace(novelty=novelty)
        for item, novelty in zip(captioned, novelties, strict=True)
    ]
    found = generation.evaluate(
        sampler, captioned, {"color": "red"}, config, done.append, keep=drawn.extend
    )
    assert sum(done) == generation.amount(captioned, config) == 6 * 3 + 2 + 2 * 2
    rank = found.measures["caption_rank"]
    assert (rank.count, rank.baseline) == (6, 1 / 3)
    assert found.measures["cycle/color"].count == 2
    assert found.measures["cycle_real/color"].baseline == 1.0
    assert "cycle/other" not in found.measures
    assert found.measures["cycle_new_concepts/all"].count == 1
    assert found.measures["cycle_real_new_compositions/all"].count == 1
    places = ("caption_rank_new_concepts", "caption_rank_new_compositions")
    assert [found.measures[name].count for name in places] == [3, 3]
    assert drawn[0].shape == (16, 16, 3)
    one, two = found.samples["drawings"]
    assert (one["prompt"], one["seed"], two["seed"]) == ("a red heart", 0, 1)
    assert one["image"].shape == one["real"].shape == (16, 16, 3)
    # The picture is a function of prompt and seed.
    again = sampler.draw(["bird"], [1])
    np.testing.assert_array_equal(again[0], two["image"])


def test_likelihood_is_that_of_uncached_next_tokens(
    sampler, next_logits, vocabulary, captioned
):
    v, layout = vocabulary, sampler.layout
    codes = sampler.encode([item.view.whole for item in captioned[:3]])
    prompts = ["a red heart", "", "a blue bird on a tree"]
    found = sampler.score(prompts, codes)
    for prompt, picture, score in zip(
        prompts, layout.tokens(codes), found, strict=True
    ):
        context = [v.bos, *sampler.prompts.request(prompt), v.end, v.boi]
        total = 0.0
        for step in layout.drawn:
            logits = np.asarray(next_logits([*context, *picture[:step]]), np.float64)
            total += logits[picture[step]] - np.log(np.exp(logits).sum())
        assert score == pytest.approx(total, rel=1e-4)


def test_a_picture_is_ranked_under_its_own_caption(sampler, captioned, monkeypatch):
    """With a likelihood that knows the truth every picture finds its caption."""
    config = GenerationTestConfig(images=6, captions=4, drawings=1, kinds=())
    owner = {item.caption: i for i, item in enumerate(captioned)}

    def oracle(_, prompts, codes, progress):
        rows = enumerate(prompts)  # four captions a picture
        return np.array([float(owner[prompt] == n // 4) for n, prompt in rows])

    monkeypatch.setattr(type(sampler), "score", oracle)
    found = generation.evaluate(sampler, captioned, {}, config)
    assert found.measures["caption_rank"].value == 1.0
    monkeypatch.setattr(type(sampler), "score", lambda *a: np.zeros(24))
    found = generation.evaluate(sampler, captioned, {}, config)
    assert found.measures["caption_rank"].value == 0.0


def test_one_caption_cannot_be_ranked():
    with pytest.raises(ValueError, match="at least 2"):
        GenerationTestConfig(captions=1)
    config = GenerationTestConfig()
    assert dataclasses.replace(config, images=3, drawings=9).items == 9
