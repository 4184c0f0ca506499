"""Drawing: layout, guidance, contexts, seeds and the cache."""

import dataclasses

import jax
import numpy as np
import pytest

from data_pipelines.unitoken import samples, sequence
from unitoken_jax.config import UserError
from unitoken_jax.generate.layout import image_layout
from unitoken_jax.generate.samplers.unitoken import contexts, draw
from unitoken_jax.generate.sampling import SamplingParams
from unitoken_jax.ops import sampling

PROMPTS = ["a red heart", "bird", ""]


@pytest.fixture(scope="module")
def layout(vocabulary):
    return image_layout(vocabulary, 3, 2, sizes=(1, 2))


def encode(vocabulary):
    return [np.array(vocabulary.encode(prompt), np.int32) for prompt in PROMPTS]


@pytest.fixture(scope="module")
def rows(vocabulary):
    return encode(vocabulary)


@pytest.fixture(scope="module")
def run(unitoken, vocabulary, layout):
    """Draws prompts given as ids."""

    def drawn(rows, seeds=(1, 2, 3), mode="prompt_dropped", **choices):
        sampling = SamplingParams(**{"guidance": 1.0, **choices})
        unconditional = mode if sampling.is_guided else None
        context = contexts(rows, vocabulary, length=16, unconditional=unconditional)
        tokens = draw(
            *unitoken,
            context,
            np.array(seeds, np.uint32),
            sampling,
            forced=layout.forced,
            allowed=layout.allowed,
        )
        return np.asarray(tokens)

    return drawn


CHOICES = {"guidance": 2.5, "top_k": 9, "top_p": 0.95, "temperature": 4.0}


@pytest.mark.parametrize("mode", ["prompt_dropped", "released"])
def test_drawing_equals_uncached_drawing(run, next_logits, vocabulary, layout, mode):
    v = vocabulary
    rows = encode(v)
    free = {"prompt_dropped": [v.bos, v.end, v.boi], "released": [v.boi]}[mode]

    @jax.jit
    def choose(seed, step, given, unconditional):
        key = jax.random.fold_in(jax.random.key(seed), step)
        return sampling.next_token(
            key[None], given, layout.allowed, unconditional=unconditional, **CHOICES
        )[0]

    tokens = run(rows, mode=mode, **CHOICES)
    for row, seed, found in zip(rows, (1, 2, 3), tokens, strict=True):
        drawn = []
        for step, forced in enumerate(layout.forced):
            given, unconditional = (
                next_logits([*context, *drawn])[None]
                for context in ([v.bos, *row, v.end, v.boi], free)
            )
            token = forced if forced >= 0 else choose(seed, step, given, unconditional)
            drawn.append(int(token))
        assert found.tolist() == drawn


def test_images_are_complete_whatever_the_weights_say(run, layout, rows):
    tokens = run(rows, temperature=30.0)
    fixed = layout.forced >= 0
    np.testing.assert_array_equal(
        tokens[:, fixed], np.tile(layout.forced[fixed], (3, 1))
    )
    codes = layout.codes(tokens)
    assert codes.shape == (3, 3, 2)
    assert ((codes >= 0) & (codes < 16)).all()


def test_an_image_depends_on_its_prompt_and_seed_only(run, layout, rows):
    together = run(rows, guidance=3.0, temperature=9.0)
    swapped = run(rows[::-1], seeds=(3, 2, 1), guidance=3.0, temperature=9.0)
    np.testing.assert_array_equal(together, swapped[::-1])
    again = run([rows[0]] * 3, guidance=3.0, temperature=9.0)
    np.testing.assert_array_equal(again[0], together[0])
    assert len({tuple(row) for row in again.tolist()}) == 3


def test_greedy_drawing_ignores_the_seed(run, layout, rows):
    one = run(rows, temperature=0.0)
    two = run(rows, seeds=(7, 8, 9), temperature=0.0)
    np.testing.assert_array_equal(one, two)


def test_guidance_of_one_is_no_guidance(run, layout, rows):
    plain = run(rows)
    np.testing.assert_array_equal(plain, run(rows, guidance=1.0))
    # Two streams of which the second hardly counts.
    np.testing.assert_array_equal(plain, run(rows, guidance=1 + 1e-6))
    assert (plain != run(rows, guidance=6.0)).any()


def test_contexts_are_what_training_saw(vocabulary, data_config):
    v = vocabulary
    codes = np.zeros((2, 2), np.int32)
    image = sequence.ImageContent(codes, np.zeros(0, np.int32))
    answer = sequence.Turn(np.array([sequence.IMAGE_MARK]), learnt=True)

    def trained(prompt):
        turns = [sequence.Turn(prompt, learnt=False), answer]
        tokens = sequence.lay_out(turns, [image], v, data_config.layout).tokens
        return tokens[: np.flatnonzero(tokens == v.boi)[0] + 1]

    request = sequence.encode_text(samples.request(PROMPTS[0], data_config.layout), v)
    stacked = contexts([request], v, length=16, unconditional="prompt_dropped")
    for row, valid, expected in zip(
        stacked.tokens, stacked.valid, [request, request[:0]], strict=True
    ):
        np.testing.assert_array_equal(row[valid], trained(expected))
        assert not valid[: 16 - int(valid.sum())].any()

    released = contexts([request], v, length=16, unconditional="released", lead=[7])
    assert released.tokens[1][released.valid[1]].tolist() == [v.boi]
    assert released.tokens[0][-3:].tolist() == [v.end, 7, v.boi]
    alone = contexts([request], v, length=16, unconditional=None)
    assert alone.tokens.shape == (1, 16)


def test_a_model_for_understanding_only_is_refused(sampler):
    config = dataclasses.replace(sampler.model.config, mask_image_logits=True)
    silent = dataclasses.replace(sampler, model=type(sampler.model)(config))
    with pytest.raises(UserError, match="cannot draw"):
        silent.draw(["a red heart"], [0])
