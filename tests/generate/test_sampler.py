"""Samplers: batches, order and company change no image and no answer."""

import dataclasses

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_pipelines.prompts import PromptError
from unitoken_jax.config import ConfigError
from unitoken_jax.generate.sampling import SamplingParams

QUESTIONS = ["what?", "a", "what is this?", "a red heart on a tree", "", "bird"]
PROMPTS = ["a red heart", "bird", "a tree", "heart", "a blue bird on a tree", ""]
QUICK = settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def small(sampler):
    """The sampler with batches of four."""
    return dataclasses.replace(sampler, config=_with(sampler, batch=4))


def _with(sampler, **fields):
    return dataclasses.replace(sampler.config, **fields)


@given(order=st.permutations(range(6)), count=st.integers(1, 6))
@QUICK
def test_an_answer_is_the_same_in_any_company(small, views, order, count):
    alone = small.answer(views, QUESTIONS)
    some = order[:count]
    found = small.answer([views[i] for i in some], [QUESTIONS[i] for i in some])
    assert found == [alone[i] for i in some]


@given(order=st.permutations(range(6)), count=st.integers(1, 6))
@QUICK
def test_an_image_is_the_same_in_any_company(small, order, count):
    seeds = list(range(40, 46))
    every = small.draw(PROMPTS, seeds)
    some = order[:count]
    found = small.draw([PROMPTS[i] for i in some], [seeds[i] for i in some])
    np.testing.assert_array_equal(found, every[list(some)])


def test_progress_counts_every_image_once(small):
    done: list[int] = []
    drawn = small.draw(PROMPTS[:5], range(5), done.append)
    assert sum(done) == len(drawn) == 5
    assert max(done) <= 4


def test_numbers_of_a_call_go_before_the_config(small):
    config = dataclasses.replace(small, config=_with(small, temperature=0.0))
    greedy = SamplingParams(guidance=small.config.guidance, temperature=0.0)
    expected = config.draw(PROMPTS[:2], [1, 2])
    found = small.draw(PROMPTS[:2], [8, 9], sampling=greedy)
    np.testing.assert_array_equal(found, expected)


def test_guidance_of_one_is_the_conditional_model(small):
    plain = small.draw(PROMPTS[:2], [1, 2], sampling=SamplingParams(1.0))
    hardly = small.draw(PROMPTS[:2], [1, 2], sampling=SamplingParams(1 + 1e-6))
    np.testing.assert_array_equal(plain, hardly)
    strong = small.draw(PROMPTS[:2], [1, 2], sampling=SamplingParams(30.0))
    assert (strong != plain).any()


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_out_of_range_are_refused(small, seed):
    with pytest.raises(ConfigError, match="seed"):
        small.draw(["bird"], [seed])


def test_a_prompt_that_does_not_fit_is_refused_before_anything_is_drawn(small):
    with pytest.raises(PromptError, match="shorten it"):
        small.draw(["bird", "heart " * 100], [0, 1])


def test_codes_are_what_is_decoded_again(small, views):
    codes = small.encode([view.whole for view in views])
    assert codes.shape == (6, *small.prompts.grid)
    decoded = small.decode(codes)
    assert decoded.shape == (6, 16, 16, 3)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(small.decode(codes[3:4])[0], decoded[3])


def test_what_was_drawn_is_likelier_than_noise(small, rng_codes):
    """Greedily drawn codes against codes of nothing."""
    greedy = SamplingParams(guidance=1.0, temperature=0.0)
    requests = [small.prompts.request(prompt) for prompt in PROMPTS[:4]]
    seeds = np.zeros(4, np.uint32)
    drawn = np.asarray(small.draw_codes(requests, seeds, greedy))
    likely = small.score(PROMPTS[:4], drawn)
    assert (likely > small.score(PROMPTS[:4], rng_codes)).all()
    assert (likely < 0).all()


@pytest.fixture
def rng_codes(small):
    rng = np.random.default_rng(0)
    return rng.integers(0, 16, (4, *small.prompts.grid)).astype(np.int32)


def test_scores_do_not_depend_on_company(small, rng_codes, views):
    prompts = PROMPTS[:4]
    together = small.score(prompts, rng_codes)
    alone = [
        small.score([prompt], codes[None])[0]
        for prompt, codes in zip(prompts, rng_codes, strict=True)
    ]
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    answers = ["a bird", "", "red", "heart"]
    together = small.score_answers(views[:4], QUESTIONS[:4], answers)
    last = small.score_answers(views[3:4], QUESTIONS[3:4], answers[3:])
    np.testing.assert_allclose(together[3], last[0], rtol=1e-5)
