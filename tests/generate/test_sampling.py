"""`SamplingParams`: what is refused, what compiled code knows of it, and its order."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from unitoken_jax.generate.config import GenerationConfig
from unitoken_jax.generate.sampling import SamplingParams, fold, image_keys
from unitoken_jax.ops import sampling as ops

KEYS = image_keys(jnp.arange(3, dtype=jnp.uint32))
NUMBERS = st.floats(-30, 30, width=32)
LOGITS = arrays.arrays(np.float32, (3, 7), elements=NUMBERS)
PLAIN = SamplingParams(guidance=1.0)


@pytest.mark.parametrize("config", [SamplingParams, GenerationConfig])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("guidance", v) for v in (np.nan, np.inf, -np.inf, 1e30)),
        *(("temperature", v) for v in (np.nan, np.inf, -0.1, 1e-30)),
        *(("top_p", v) for v in (np.nan, np.inf, -0.1, 1.1, 0.0)),
        ("top_k", -1),
        ("guidance_interval", -2),
    ],
)
def test_numbers_out_of_range_are_refused_wherever_they_are_made(config, name, value):
    with pytest.raises(ValueError, match=name):
        config(**{name: value})


def test_the_config_draws_with_its_own_numbers():
    numbers = {"guidance": 2.0, "top_k": 5, "top_p": 0.5, "temperature": 0.25}
    config = GenerationConfig(**numbers, guidance_interval=4, batch=2)
    assert config.sampling == SamplingParams(**numbers, guidance_interval=4)
    assert type(config.sampling) is SamplingParams
    assert GenerationConfig().sampling == SamplingParams()


def test_compiled_code_knows_what_is_on_and_is_not_compiled_again_for_numbers():
    traced = []

    @jax.jit
    def run(params, logits):
        traced.append((params.is_guided, params.is_truncated))
        return params.next_token(KEYS, logits)

    logits = jnp.zeros((6, 7))
    for guidance, temperature in ((3.0, 1.0), (0.5, 0.0), (-2.0, 9.0)):
        run(SamplingParams(guidance, temperature=temperature), logits)
    assert traced == [(True, False)]
    run(SamplingParams(3.0, top_p=0.9), logits)
    run(SamplingParams(3.0, top_p=0.2), logits)
    run(PLAIN, logits[:3])
    run(SamplingParams(3.0, top_k=2), logits)
    assert traced[1:] == [(True, True), (False, False), (True, False)]


@given(
    st.builds(
        SamplingParams,
        guidance=st.floats(-9, 9),
        guidance_interval=st.integers(-1, 3),
        top_k=st.integers(0, 9),
        top_p=st.floats(0.01, 1),
        temperature=st.floats(0.1, 9),
    )
)
@settings(max_examples=25, deadline=None)
def test_it_is_the_same_after_a_tree_map(params):
    again = jax.tree.map(lambda leaf: leaf, params)
    assert again == params
    assert (again.is_guided, again.is_truncated) == (
        params.guidance != 1,
        params.top_p != 1,
    )
    assert len(jax.tree.leaves(params)) == 3


@given(LOGITS, LOGITS, st.floats(-4, 9), st.integers(0, 8), st.floats(0.3, 4))
@settings(max_examples=25, deadline=None)
def test_guidance_comes_before_the_rest(given_, free, scale, top_k, temperature):
    """As `ops.sampling` says, with the unguided stream on the batch axis."""
    params = SamplingParams(scale, top_k=top_k, temperature=temperature)
    logits = np.concatenate([given_, free]) if params.is_guided else given_
    expected = ops.next_token(
        KEYS,
        jnp.asarray(given_),
        jnp.ones(7, bool),
        unconditional=jnp.asarray(free) if params.is_guided else None,
        guidance=scale,
        top_k=top_k,
        temperature=temperature,
    )
    found = params.next_token(KEYS, jnp.asarray(logits))
    np.testing.assert_array_equal(found, expected)


@given(LOGITS, st.floats(1.5, 9))
@settings(max_examples=25, deadline=None)
def test_guidance_leads_nowhere_where_both_streams_agree(logits, scale):
    both = jnp.concatenate([logits, logits])
    found = SamplingParams(scale).next_token(KEYS, both)
    np.testing.assert_array_equal(found, PLAIN.next_token(KEYS, jnp.asarray(logits)))


@given(LOGITS, st.integers(7, 99))
@settings(max_examples=25, deadline=None)
def test_all_codes_are_what_no_limit_keeps(logits, top_k):
    plain = PLAIN.next_token(KEYS, jnp.asarray(logits))
    whole = SamplingParams(1.0, top_k=top_k).next_token(KEYS, jnp.asarray(logits))
    np.testing.assert_array_equal(whole, plain)


@given(LOGITS, st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_only_what_is_allowed_is_drawn(logits, seed):
    allowed = np.random.default_rng(seed).random(7) < 0.5
    allowed[seed % 7] = True
    found = PLAIN.next_token(KEYS, jnp.asarray(logits), allowed=jnp.asarray(allowed))
    assert allowed[np.asarray(found)].all()
    greedy = dataclasses.replace(PLAIN, temperature=0.0)
    found = greedy.next_token(KEYS, jnp.asarray(logits), allowed=jnp.asarray(allowed))
    np.testing.assert_array_equal(found, np.argmax(np.where(allowed, logits, -99), 1))


def test_an_interval_counts_steps_behind_the_first_token():
    places = np.arange(6)
    assert SamplingParams().guides(places).all()
    for interval in range(4):
        guided = SamplingParams(guidance_interval=interval).guides(places)
        assert guided.tolist() == (places <= interval + 1).tolist()


def test_behind_its_interval_guidance_counts_no_more():
    given_ = np.float32([[2.0, 1.0, 0.0], [0.0, 3.0, 2.0], [1.0, 0.0, 2.0]])
    free = np.float32([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 2.0]])
    params = SamplingParams(50.0, guidance_interval=0, temperature=0.0)
    logits = jnp.concatenate([given_, free])
    greedy = [params.next_token(KEYS, logits, place=place) for place in range(4)]
    guided, alone = [1, 2, 0], [0, 1, 2]
    for found, expected in zip(greedy, [guided, guided, alone, alone], strict=True):
        np.testing.assert_array_equal(found, expected)


def test_both_streams_get_the_same_tokens():
    tokens = jnp.arange(6).reshape(3, 2)
    both = SamplingParams(3.0).to_streams(tokens)
    np.testing.assert_array_equal(both, np.concatenate([tokens, tokens]))
    np.testing.assert_array_equal(PLAIN.to_streams(tokens), tokens)


def test_keys_depend_on_seed_and_step_alone():
    steps = [jax.random.key_data(fold(KEYS, step)) for step in range(3)]
    every = np.concatenate(steps).tolist()
    assert len({tuple(key) for key in every}) == 9
    alone = jax.random.key_data(fold(image_keys(jnp.array([1], jnp.uint32)), 2))
    np.testing.assert_array_equal(alone[0], steps[2][1])
