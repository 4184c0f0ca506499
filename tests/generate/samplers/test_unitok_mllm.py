"""The sampler of UniTok's LLM with caches against whole rows without any."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.random_weights import random_system
from unitoken_jax.generate import decode
from unitoken_jax.generate.decode import pad_left
from unitoken_jax.generate.samplers.unitok_mllm import contexts, draw, log_likelihood
from unitoken_jax.generate.sampling import SamplingParams
from unitoken_jax.models import unitok_mllm
from unitoken_jax.ops import sampling

SIZE, BOOKS, CODES, VOCABULARY = 4, 3, 11, 20
NODE = {
    "kind": "unitok_mllm",
    "decoder": {
        "vocab_size": VOCABULARY,
        "hidden": 16,
        "intermediate": 24,
        "layers": 2,
        "heads": 2,
        "kv_heads": 2,
        "head_dim": 8,
        "qk_norm": False,
    },
    "codebooks": BOOKS,
    "codes": CODES,
    "code_width": 4,
    "projection": 16,
    "projection_heads": 2,
    "depth_layers": 2,
    "loss_chunk": 8,
    "code_chunk": 3,
}
REQUESTS = [np.array([1, 7, 8, 9, 3]), np.array([1, 12, 3])]
FREE = np.array([1, 15, 16, 3])
SEEDS = np.array([5, 6], np.uint32)
CHOICES = {"top_k": 7, "top_p": 0.9, "temperature": 1.7}
LONGEST = 12


@pytest.fixture(scope="module")
def system():
    return random_system(NODE)


@pytest.fixture(scope="module")
def logits(system):
    """Code logits [S, K, V] of one image behind a prompt, without any cache."""
    model, params = system

    @jax.jit
    def run(tokens, length, codes):
        place = jnp.arange(LONGEST)
        slots = jnp.where(place < length, -1, place - length)
        batch = {
            "tokens": jnp.where(slots < 0, tokens, 0)[None],
            "feature_index": jnp.minimum(slots, SIZE - 1)[None],
            "positions": place[None],
            "segment_ids": jnp.ones((1, LONGEST), jnp.int32),
            "codes": codes[None, None],
        }

        def score(module):
            hidden = module(batch)
            at = (length - 1 + jnp.arange(SIZE))[None, :, None]
            state = jnp.take_along_axis(hidden, at, axis=1)
            return module.depth.logits(module.depth(state, codes[None]))[0]

        return model.apply({"params": params}, method=score)

    def of(prompt, codes):
        tokens = np.zeros(LONGEST, np.int32)
        tokens[: len(prompt)] = prompt
        return run(tokens, len(prompt), codes)

    return of


def drawn(system, guidance, requests=REQUESTS, seeds=SEEDS, **choices):
    sampling = SamplingParams(guidance, **choices)
    free = FREE if sampling.is_guided else None
    context = contexts(requests, free, pad=0, length=6)
    return np.asarray(draw(*system, context, seeds, sampling, size=SIZE))


@pytest.mark.parametrize("guidance", [1.0, 7.0])
def test_drawing_equals_uncached_drawing(system, logits, guidance):
    @jax.jit
    def choose(seed, at, given):
        key = jax.random.fold_in(jax.random.key(seed), at)[None]
        everything = jnp.ones(CODES, bool)
        return sampling.next_token(key, given[None], everything, **CHOICES)[0]

    found = drawn(system, guidance, **CHOICES)
    for prompt, seed, image in zip(REQUESTS, SEEDS, found, strict=True):
        codes = np.zeros((SIZE, BOOKS), np.int32)
        for place in range(SIZE):
            for depth in range(BOOKS):
                given = logits(prompt, codes)[place, depth]
                if guidance != 1:
                    free = logits(FREE, codes)[place, depth]
                    given = sampling.guide(given, free, guidance)
                codes[place, depth] = choose(seed, place * BOOKS + depth, given)
        np.testing.assert_array_equal(image, codes)


def test_greedy_drawing_is_the_argmax_of_training(system, logits):
    for prompt, codes in zip(
        REQUESTS, drawn(system, 1.0, temperature=0.0), strict=True
    ):
        np.testing.assert_array_equal(codes, np.argmax(logits(prompt, codes), -1))


def test_one_codebook_is_drawn():
    """Its depth head has no code to read."""
    codes = drawn(random_system(NODE | {"codebooks": 1}), 2.0, **CHOICES)
    assert codes.shape == (2, SIZE, 1)


def test_the_newest_token_alone_is_embedded_otherwise(system):
    """What the published cached sampler feeds is not what training saw."""
    model, params = system
    codes = np.random.default_rng(0).integers(0, CODES, (1, SIZE, BOOKS))

    def run(module, shown):
        return module.embed_images(shown[:, None])

    whole, alone = (
        model.apply({"params": params}, shown, method=run)[0, -1]
        for shown in (codes, codes[:, -1:])
    )
    assert np.linalg.norm(whole - alone) > 0.1 * np.linalg.norm(whole)


def test_a_image_depends_on_its_prompt_and_seed_only(system):
    together = drawn(system, 3.0)
    swapped = drawn(system, 3.0, REQUESTS[::-1], SEEDS[::-1])
    np.testing.assert_array_equal(together, swapped[::-1])
    assert (drawn(system, 3.0, seeds=SEEDS + 3) != together).any()


def test_likelihood_is_that_of_training(system, logits):
    model, params = system
    codes = np.random.default_rng(0).integers(0, CODES, (2, SIZE, BOOKS))
    context = contexts(REQUESTS, None, pad=0, length=6)
    found = log_likelihood(model, params, context, codes.astype(np.int32))
    for prompt, image, value in zip(REQUESTS, codes, found, strict=True):
        chance = jax.nn.log_softmax(logits(prompt, image))
        expected = np.take_along_axis(np.asarray(chance), image[..., None], -1).sum()
        np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_greedy_answers_equal_uncached_ones(system):
    """Images in the prompt, rows of different lengths, the end token."""
    model, params = system
    rng = np.random.default_rng(0)
    codes = rng.integers(0, CODES, (2, 1, SIZE, BOOKS)).astype(np.int32)
    rows = [np.array([1, 3, 0, 0, 0, 0, 4]), np.array([1, 7, 0, 0, 0, 0, 8, 9])]
    slots = [np.where(row == 0, 0, -1) for row in rows]
    for place in slots:
        place[place == 0] = np.arange(SIZE)
    prompts = pad_left(rows, slots, pad=0, length=9)
    found = decode.answer(model, params, prompts, codes, end=2, limit=5)

    @jax.jit
    def following(batch):
        hidden = model.apply({"params": params}, batch)
        return model.apply({"params": params}, hidden, method="logits")

    for row, place, image, answer in zip(rows, slots, codes, found, strict=True):
        tokens, ids = list(row), []
        for _ in range(5):
            filled = np.zeros((1, 14), np.int32)
            filled[0, : len(tokens)] = tokens
            index = np.full((1, 14), -1, np.int32)
            index[0, : len(place)] = place
            batch = {
                "tokens": filled,
                "feature_index": index,
                "positions": np.arange(14)[None],
                "segment_ids": np.ones((1, 14), np.int32),
                "codes": image[None],
            }
            token = int(np.argmax(following(batch)[0, len(tokens) - 1]))
            if token == 2:
                break
            tokens.append(token)
            ids.append(token)
        assert decode.trim(np.asarray(answer)[None])[0].tolist() == ids


def test_likelihood_of_answers_is_that_of_uncached_next_tokens(system):
    model, params = system
    codes = np.random.default_rng(0).integers(0, CODES, (2, 1, SIZE, BOOKS))
    rows = [np.array([1, 3, 0, 0, 0, 0, 4]), np.array([1, 7, 0, 0, 0, 0, 8, 9])]
    slots = [np.where(row == 0, 0, -1) for row in rows]
    for place in slots:
        place[place == 0] = np.arange(SIZE)
    replies = [np.array([11, 12, 2]), np.array([2])]
    asked = list(zip(rows, slots, strict=True))
    prompts, targets = decode.with_answers(asked, replies, pad=0, length=12)
    assert [row[row >= 0].tolist() for row in targets] == [[11, 12, 2], [2]]
    found = decode.answer_log_likelihood(
        model, params, prompts, targets, codes.astype(np.int32)
    )
    for row, place, image, reply, value in zip(
        rows, slots, codes, replies, found, strict=True
    ):
        tokens = np.append(row, reply)[None]
        whole = {
            "tokens": tokens,
            "feature_index": np.append(place, np.full(len(reply), -1))[None],
            "positions": np.arange(tokens.size)[None],
            "segment_ids": np.ones_like(tokens),
            "codes": image[None],
        }
        hidden = model.apply({"params": params}, whole)
        chance = jax.nn.log_softmax(
            model.apply({"params": params}, hidden, method="logits")
        )
        at = np.arange(len(row) - 1, tokens.size - 1)
        expected = np.asarray(chance)[0, at, reply].sum()
        np.testing.assert_allclose(value, expected, rtol=1e-4)


def test_the_loss_of_a_batch_is_of_the_same_numbers(system, logits):
    """Sum of cross-entropies of `loss`, against the logits used above."""
    model, params = system
    codes = np.random.default_rng(1).integers(0, CODES, (SIZE, BOOKS)).astype(np.int32)
    prompt = REQUESTS[0]
    length = len(prompt)
    tokens = np.zeros((1, LONGEST), np.int32)
    tokens[0, :length] = prompt
    slots = np.full((1, LONGEST), -1, np.int32)
    slots[0, length : length + SIZE] = np.arange(SIZE)
    batch = {
        "tokens": tokens,
        "feature_index": slots,
        "positions": np.arange(LONGEST, dtype=np.int32)[None],
        "segment_ids": np.ones((1, LONGEST), np.int32),
        "targets": np.full((1, LONGEST), -1, np.int32),
        "codes": codes[None, None],
        "image_target_positions": (length - 1 + np.arange(SIZE, dtype=np.int32))[None],
    }
    _, metrics = jax.jit(lambda p, b, k: unitok_mllm.loss(model, p, b, k))(
        params, batch, jax.random.key(0)
    )
    chance = jax.nn.log_softmax(logits(prompt, codes))
    expected = np.take_along_axis(np.asarray(chance), codes[..., None], -1).mean()
    np.testing.assert_allclose(metrics["image_loss"], -expected, rtol=1e-5)
