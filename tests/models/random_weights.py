"""Random weights for tests, drawn by NumPy: compiling an initializer takes seconds."""

import jax
import numpy as np
from flax import linen as nn
from jax.tree_util import keystr

from unitoken_jax.models import registry


def random_weights(abstract, seed=0):
    """Weights of the scale that the initializers give, for a tree of shapes."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if keystr(path[-1:], simple=True) == "scale":
            return 1 + 0.1 * rng.standard_normal(leaf.shape, np.float32)
        inputs = np.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 100
        return rng.standard_normal(leaf.shape, np.float32) / np.float32(inputs**0.5)

    return jax.tree_util.tree_map_with_path(draw, nn.unbox(abstract))


def random_system(node, seed=0):
    """The module of a `model` node, and parameters whose logits differ clearly."""
    system = registry.build(node)
    rng = np.random.default_rng(seed)

    def leaf(path, shape):
        center = 1.0 if path[-1].key == "scale" else 0.0
        return rng.normal(center, 0.4, shape.shape).astype(np.float32)

    shapes = registry.abstract_params(system)
    return system.module, jax.device_put(jax.tree_util.tree_map_with_path(leaf, shapes))
