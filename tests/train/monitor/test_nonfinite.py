"""The first tensor that is not finite: behind masks, in loops and in gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unitoken_jax.ops.contrastive import contrastive_loss
from unitoken_jax.ops.losses import score_tokens, sigmoid_loss
from unitoken_jax.train.monitor import nonfinite


def _find(function, **inputs):
    return nonfinite.find(function, inputs)


def test_finite_results_have_no_origin() -> None:
    results, origins = _find(lambda i: {"y": jnp.log(i["x"])}, x=jnp.ones(3))
    assert origins == {}
    np.testing.assert_array_equal(results["y"], np.zeros(3))


def test_an_input_is_named_by_its_path() -> None:
    x = jnp.ones((2, 3)).at[1, 2].set(jnp.nan)
    _, origins = _find(lambda i: i["params"]["w"].sum(), params={"w": x})
    (origin,) = origins.values()
    assert (origin.name, origin.line, origin.shape) == ("params/w", "", (2, 3))
    assert (origin.count, origin.index) == (1, (1, 2))
    assert "params/w, float32[2, 3]: 1 of 6 elements are not finite" in str(
        origin.sentence()
    )


def test_an_operation_is_named_by_scope_and_line() -> None:
    def function(inputs):
        with jax.named_scope("outer"), jax.named_scope("inner"):
            roots = jnp.sqrt(inputs["x"])
        return {"later": roots * 2, "other": inputs["x"] + 1}

    _, origins = _find(function, x=jnp.asarray([4.0, -1.0]))
    assert list(origins) == ["later"]
    origin = origins["later"]
    assert origin.name == "outer/inner: sqrt"
    assert origin.line.startswith("tests/train/monitor/test_nonfinite.py:")
    assert origin.index == (1,)


def test_what_a_mask_removes_is_not_reported() -> None:
    def function(inputs):
        x = inputs["x"]
        hidden = jnp.where(x > 0, jnp.log(x), 0.0)  # log(0) is -inf, and masked
        return {"y": hidden / jnp.minimum(x, 0.0).sum()}

    _, origins = _find(function, x=jnp.asarray([0.0, 1.0]))
    assert origins["y"].name == "div"


@pytest.mark.parametrize("jitted", [False, True])
def test_the_iteration_of_a_scan_is_named(jitted) -> None:
    def layer(x, w):
        with jax.named_scope("mlp"):
            return jnp.exp(x * w), None

    def function(inputs):
        with jax.named_scope("layers"):
            return {"y": jax.lax.scan(layer, inputs["x"], inputs["w"])[0]}

    weights = jnp.asarray([0.1, 0.1, 1e3, 0.1])
    _, origins = _find(jax.jit(function) if jitted else function, x=1.0, w=weights)
    assert "layers" in origins["y"].name
    assert "[2]/" in origins["y"].name
    assert origins["y"].name.endswith("mlp: exp")


def test_gradients_alone_may_fail() -> None:
    """The root of 0 is finite, its slope is not."""

    def loss(inputs):
        with jax.named_scope("distance"):
            return jnp.sqrt(jnp.sum(inputs["x"] ** 2))

    def function(inputs):
        value, gradients = jax.value_and_grad(loss)(inputs)
        return {"loss": value, "gradients": gradients}

    _, origins = _find(function, x=jnp.zeros(3))
    assert list(origins) == ["gradients/x"]
    assert "distance" in origins["gradients/x"].name


def test_loops_and_branches() -> None:
    def body(carry):
        index, x = carry
        return index + 1, jax.lax.cond(index == 3, jnp.log, jnp.abs, x - 5.0)

    def function(inputs):
        return jax.lax.while_loop(lambda c: c[0] < 5, body, (0, inputs["x"]))

    _, origins = _find(function, x=jnp.float32(2.0))
    (origin,) = set(origins.values())
    assert origin.name == "[3]: log"


def test_a_constant_is_not_to_blame() -> None:
    def function(inputs):
        start = jnp.zeros(2) - jnp.inf
        highest = jnp.maximum(start, inputs["x"]) + start * 0.0  # -inf · 0 is a NaN
        return {"start": start, "y": highest}

    _, origins = _find(function, x=jnp.ones(2))
    assert list(origins) == ["y"]
    assert origins["y"].name == "add"


def test_a_nan_is_named_rather_than_an_infinity() -> None:
    def function(inputs):
        hidden = jnp.where(inputs["x"] > 1, inputs["x"], -jnp.inf)
        return {"y": hidden + inputs["noise"]}

    _, origins = _find(function, x=jnp.ones(2), noise=jnp.asarray([0.0, jnp.nan]))
    assert origins["y"].name == "noise"


def _gradients_of(loss):
    """Value and gradients of a loss of one dict."""

    def function(inputs):
        value, gradients = jax.value_and_grad(loss)(inputs)
        return {"loss": value, "gradients": gradients}

    return function


@pytest.mark.parametrize("of", [contrastive_loss, sigmoid_loss])
def test_losses_over_pairs_name_the_culprit(of) -> None:
    """Not where their running maximum starts."""
    rest = () if of is contrastive_loss else (jnp.float32(-10),)
    function = _gradients_of(
        lambda i: of(i["images"], i["texts"], i["scale"], *rest, chunk=4)[0]
    )
    rng = np.random.default_rng(0)
    images, texts = (jnp.asarray(rng.normal(size=(7, 8)), jnp.float32) for _ in "ab")
    inputs = {"images": images, "texts": texts, "scale": jnp.float32(1)}

    _, origins = _find(function, **{**inputs, "texts": texts.at[2, 1].set(jnp.nan)})
    assert {origin.name for origin in origins.values()} == {"texts"}
    _, origins = _find(function, **{**inputs, "scale": jnp.float32(1e38)})
    operation = "mul" if of is contrastive_loss else "exp"
    assert "loss" in origins
    assert all(origin.name.endswith(operation) for origin in origins.values())


def test_next_token_loss_names_the_culprit() -> None:
    rng = np.random.default_rng(0)
    hidden = jnp.asarray(rng.normal(size=(2, 5, 8)), jnp.float32)
    head = jnp.asarray(rng.normal(size=(8, 40)), jnp.float32)
    targets = jnp.asarray(rng.integers(0, 40, (2, 5)), jnp.int32)
    function = _gradients_of(
        lambda i: score_tokens(
            i["hidden"], i["head"], targets, chunk=16
        ).cross_entropy.mean()
    )
    _, origins = _find(function, hidden=hidden, head=head.at[3, 4].set(jnp.nan))
    assert {origin.name for origin in origins.values()} == {"head"}
    _, origins = _find(function, hidden=hidden * 1e30, head=head * 1e30)
    assert "loss" in origins
    for origin in origins.values():
        assert origin.name.endswith("dot_general")
        assert origin.line.startswith("unitoken_jax/ops/losses.py:")
