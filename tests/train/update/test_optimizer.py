"""Groups cover every parameter; AdamW does what its formula says, group by group."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unitoken_jax.config import ConfigError, build
from unitoken_jax.train.update.optimizer import (
    Group,
    OptimizerConfig,
    assign,
    make_optimizer,
)

PARAMS = {
    "decoder": {"kernel": jnp.arange(6.0).reshape(2, 3), "scale": jnp.ones(3)},
    "vision": {"kernel": jnp.full((2, 2), 2.0)},
    "adapter": {"bias": jnp.ones(2)},
}
PATHS = ["decoder/kernel", "decoder/scale", "vision/kernel", "adapter/bias"]
GRADIENTS = {
    "decoder/kernel": jnp.full((2, 3), 3.0),
    "decoder/scale": jnp.full(3, -2.0),
    "vision/kernel": jnp.full((2, 2), 1.0),
    "adapter/bias": jnp.array([4.0, -4.0]),
}


def _config(**fields) -> OptimizerConfig:
    return OptimizerConfig(learning_rate=1e-2, warmup=0, **fields)


@pytest.mark.parametrize(
    ("groups", "sentence"),
    [
        ({"decoder": Group("decoder/.*")}, "2 parameters match no group, such as"),
        ({"all": Group(".*"), "v": Group("vision/.*")}, "belongs to all and v"),
        ({"all": Group(".*"), "x": Group("vit/.*")}, r"groups\.x: pattern 'vit/\.\*'"),
        ({"all": Group(".*", frozen=True)}, "nothing would train"),
    ],
)
def test_groups_must_cover(groups, sentence) -> None:
    with pytest.raises(ConfigError, match=sentence):
        make_optimizer(_config(groups=groups), PATHS, 10, "stages.one.optimizer")


def test_no_decay_and_patterns_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"no_decay: '.*norm' matches no"):
        make_optimizer(_config(no_decay=".*norm"), PATHS, 10)
    with pytest.raises(ValueError, match="is no expression"):
        Group("(")
    with pytest.raises(ConfigError, match=r"optimizer\.warmup: a warm-up of 20"):
        make_optimizer(OptimizerConfig(1e-3, warmup=20), PATHS, 10)


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("learning_rate", -1e-3, "be at least 0 and at most .*, not -0.001"),
        ("learning_rate", float("nan"), "be at least 0 and at most .*, not nan"),
        ("warmup", -1, "be at least 0 and at most .*, not -1"),
        ("weight_decay", -1.0, "be at least 0 and at most .*, not -1.0"),
        ("clip", -1.0, "be above 0 and at most .*, not -1.0"),
        ("clip", 0.0, "be above 0 and at most .*, not 0.0"),
        ("eps", -1.0, "be above 0 and at most .*, not -1.0"),
        ("b1", 1.5, r"be in \[0, 1\), not 1.5"),
        ("b2", 1.0, r"be in \[0, 1\), not 1.0"),
        ("end_scale", 1.5, r"be in \[0, 1\], not 1.5"),
    ],
)
def test_refuses_numbers_that_train_uphill_or_not_at_all(
    field, value, sentence
) -> None:
    with pytest.raises(ConfigError, match=f"^optimizer[.: ]+{field}:? must {sentence}"):
        build(OptimizerConfig, {"learning_rate": 1e-3} | {field: value}, "optimizer")


def test_a_constant_rate_has_no_end_of_its_own() -> None:
    with pytest.raises(ValueError, match=r"end_scale is 0.1, but the schedule is 'con"):
        _config(schedule="constant", end_scale=0.1)
    assert _config(schedule="constant", end_scale=0.0)


@pytest.mark.parametrize("field", ["lr_scale", "weight_decay"])
def test_a_frozen_group_has_nothing_else(field) -> None:
    with pytest.raises(ValueError, match="is frozen, so that its rule, lr_scale"):
        Group(".*", frozen=True, **{field: 0.5})


@pytest.mark.parametrize("field", ["lr_scale", "weight_decay"])
def test_refuses_negative_numbers_of_a_group(field) -> None:
    with pytest.raises(ValueError, match=f"^{field} must be finite and at least 0"):
        Group(".*", **{field: -0.1})
    assert _config(clip=None, groups={"all": Group(".*", **{field: 0.0})})


def test_exclude_narrows_a_group() -> None:
    groups = {"rest": Group(".*", exclude="vision/.*"), "vision": Group("vision/.*")}
    names = assign(groups, PATHS, "groups")
    assert names == dict.fromkeys(PATHS, "rest") | {"vision/kernel": "vision"}


def test_frozen_parameters_cost_no_state() -> None:
    groups = {"d": Group("decoder/.*", frozen=True), "r": Group("(vision|adapter)/.*")}
    optimizer = make_optimizer(_config(groups=groups), PATHS, 10)
    _, frozen = optimizer.split(PARAMS)
    assert sorted(frozen) == ["decoder/kernel", "decoder/scale"]
    kept = jax.tree.leaves(optimizer.init(PARAMS))
    # Two moments of the four and two trainable numbers, and a count.
    assert sum(x.size for x in kept) == 2 * (4 + 2) + 1


def test_first_update_is_adamw() -> None:
    """At the first step Adam's direction is g / (|g| + eps): its formula by hand."""
    groups = {
        "decoder": Group("decoder/.*"),
        "vision": Group("vision/.*", lr_scale=0.1, weight_decay=0.5),
        "adapter": Group("adapter/.*"),
    }
    config = _config(groups=groups, weight_decay=0.2, no_decay=".*/scale", clip=None)
    optimizer = make_optimizer(config, PATHS, 10)
    trainable, _ = optimizer.split(PARAMS)
    kept = optimizer.init(PARAMS)
    moved, _ = optimizer.update(GRADIENTS, kept, trainable, jnp.int32(0))
    flat = {path: np.asarray(x) for path, x in trainable.items()}
    expected = {
        "decoder/kernel": -(1.0 + 0.2 * flat["decoder/kernel"]),
        "decoder/scale": np.full(3, 1.0),
        "vision/kernel": -0.1 * (1.0 + 0.5 * flat["vision/kernel"]),
        "adapter/bias": -(np.array([1.0, -1.0]) + 0.2 * flat["adapter/bias"]),
    }
    for path, new in moved.items():
        np.testing.assert_allclose(
            new, flat[path] + 1e-2 * expected[path], rtol=1e-6, atol=1e-7
        )


def test_norms_by_group_and_clipping_count_trainable_parameters_only() -> None:
    groups = {
        "decoder": Group("decoder/.*", frozen=True),
        "vision": Group("vision/.*"),
        "adapter": Group("adapter/.*"),
    }
    optimizer = make_optimizer(_config(groups=groups, clip=1.0), PATHS, 10)
    trainable, _ = optimizer.split(PARAMS)
    gradients = {path: GRADIENTS[path] for path in trainable}
    norms = {name: float(x) for name, x in optimizer.norms(gradients).items()}
    assert norms == pytest.approx(
        {
            "grad_norm": 6.0,  # √(4·1² + 2·4²)
            "grad_norm/vision": 2.0,
            "grad_norm/adapter": 32**0.5,
        }
    )
    kept = optimizer.init(PARAMS)
    _, kept = optimizer.update(gradients, kept, trainable, jnp.int32(0))
    first = kept[1].mu["vision/kernel"]
    np.testing.assert_allclose(first, np.full((2, 2), 0.1 * 1.0 / 6.0), rtol=1e-5)
