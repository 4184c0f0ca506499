"""Muon for the matrices of a group: orthogonal updates as large as AdamW's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from optax import contrib

from unitoken_jax.config import ConfigError
from unitoken_jax.parallel.mesh import MeshConfig, make_mesh
from unitoken_jax.train.update.optimizer import (
    Group,
    Optimizer,
    OptimizerConfig,
    make_optimizer,
    matrix_axes,
)

RATE = 1e-2
AXES = {
    "layers/attention/query/kernel": ("layers", "embed", "heads", "head_dim"),
    "layers/attention/out/kernel": ("layers", "heads_contracted", "head_dim", "embed"),
    "conv/kernel": (None, None, "conv_in", "conv_out"),
    "norm/scale": ("norm",),
}
SHAPES = {
    "layers/attention/query/kernel": (3, 8, 2, 4),
    "layers/attention/out/kernel": (3, 2, 4, 8),
    "conv/kernel": (3, 3, 4, 6),
    "norm/scale": (8,),
}
GROUPS = {
    "matrices": Group(".*/kernel", rule="muon"),
    "rest": Group(".*/scale"),
}


def _arrays(seed: int) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    return {
        path: jnp.asarray(rng.normal(size=shape), jnp.float32)
        for path, shape in SHAPES.items()
    }


def _optimizer(groups: dict[str, Group] = GROUPS, **fields) -> Optimizer:
    config = OptimizerConfig(
        RATE, schedule="constant", clip=None, groups=groups, **fields
    )
    return make_optimizer(config, AXES, 10, axes=AXES)


def _updates(rule: Optimizer, steps: int = 1) -> dict[str, np.ndarray]:
    params = _arrays(0)
    state, new = rule.init(params), params
    for step in range(steps):
        new, state = rule.update(_arrays(1 + step), state, new, jnp.int32(step))
    return {path: np.asarray(new[path] - params[path]) for path in params}


@pytest.mark.parametrize(
    ("names", "read", "given"),
    [
        (("embed", "mlp"), (0,), (1,)),
        (("layers", "embed", "mlp"), (1,), (2,)),
        (("layers", "embed", "kv_heads", "head_dim"), (1,), (2, 3)),
        (("heads_contracted", "head_dim", "embed"), (0, 1), (2,)),
        ((None, None, "conv_in", "conv_out"), (0, 1, 2), (3,)),
    ],
)
def test_which_axes_make_a_matrix(names, read, given) -> None:
    assert matrix_axes(names) == contrib.MuonDimensionNumbers(read, given)


@pytest.mark.parametrize(
    "names", [("embed",), ("layers", "embed"), ("layers", "norm", "norm"), ()]
)
def test_what_is_no_matrix(names) -> None:
    assert matrix_axes(names) is None


def test_every_layers_update_is_nearly_orthogonal_and_as_large_as_adamws() -> None:
    updates = _updates(_optimizer())
    matrices = [
        *updates["layers/attention/query/kernel"].reshape(3, 8, 8),
        *updates["layers/attention/out/kernel"].reshape(3, 8, 8),
        updates["conv/kernel"].reshape(36, 6),
    ]
    for matrix in matrices:
        values = np.linalg.svd(matrix, compute_uv=False)
        # Five steps of Newton and Schulz bring singular values near one.
        values = values / (0.2 * RATE * max(matrix.shape) ** 0.5)
        assert 0.3 < values.min() <= values.max() < 1.3


def test_the_direction_is_that_of_the_polar_factor() -> None:
    gradient = np.asarray(_arrays(1)["conv/kernel"]).reshape(36, 6)
    left, _, right = np.linalg.svd(gradient, full_matrices=False)
    update = _updates(_optimizer())["conv/kernel"].reshape(36, 6)
    cosine = -np.sum(update * (left @ right))
    cosine /= np.linalg.norm(update) * np.linalg.norm(left @ right)
    assert cosine > 0.95


def test_other_parameters_are_adamws_as_without_muon() -> None:
    alone = {"kernels": Group(".*/kernel"), "rest": Group(".*/scale")}
    expected = _updates(_optimizer(alone), 3)["norm/scale"]
    np.testing.assert_array_equal(_updates(_optimizer(), 3)["norm/scale"], expected)


def test_momentum_is_the_groups_own() -> None:
    slow = {**GROUPS, "matrices": Group(".*/kernel", rule="muon", momentum=0.5)}
    first, second = (
        _updates(_optimizer(groups), 3)["conv/kernel"] for groups in (GROUPS, slow)
    )
    assert np.abs(first - second).max() > 1e-4


def test_a_matrix_that_is_divided_among_devices_moves_alike() -> None:
    rule, params = _optimizer(), _arrays(0)
    mesh = make_mesh(MeshConfig(fsdp=8))
    split = NamedSharding(mesh, PartitionSpec(None, "fsdp"))
    path = "layers/attention/query/kernel"
    divided = {**params, path: jax.device_put(params[path], split)}
    moved, expected = (
        jax.jit(rule.update)(_arrays(1), rule.init(given), given, jnp.int32(0))[0]
        for given in (divided, params)
    )
    for name in params:
        np.testing.assert_allclose(moved[name], expected[name], 1e-5, 1e-7)


def test_refuses_what_is_no_matrix_and_fields_that_would_do_nothing() -> None:
    every = {"all": Group(".*", rule="muon")}
    with pytest.raises(ConfigError, match=r"groups\.all: 'norm/scale' is no kernel"):
        _optimizer(every)
    with pytest.raises(ConfigError, match="is no kernel of a layer"):
        make_optimizer(OptimizerConfig(RATE, groups=GROUPS), AXES, 10)
    with pytest.raises(ValueError, match="momentum is of the rule 'muon'"):
        Group(".*", momentum=0.9)
    with pytest.raises(ValueError, match="so that its rule"):
        Group(".*", rule="muon", frozen=True)


def test_a_state_without_muon_is_as_checkpoints_have_it() -> None:
    alone = {"kernels": Group(".*/kernel"), "rest": Group(".*/scale")}
    leaves = jax.tree_util.tree_leaves_with_path(_optimizer(alone).init(_arrays(0)))
    assert jax.tree_util.keystr(leaves[1][0]) == "[1].mu['conv/kernel']"
