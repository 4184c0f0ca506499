"""Llama-2-7B: its size, from shapes alone."""

import math
from functools import partial

import jax

from unitoken_jax.models.chameleon import Chameleon
from unitoken_jax.models.llama import LLAMA_2_7B


def test_published_size():
    init = partial(Chameleon(LLAMA_2_7B).init, method="initialise")
    shapes = jax.tree.leaves(jax.eval_shape(init, jax.random.key(0)))
    assert sum(math.prod(leaf.shape) for leaf in shapes) == 6_738_415_616
