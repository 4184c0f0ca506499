"""Layers of one kind scanned over their parameters, and a module over its batch."""

from collections.abc import Callable
from typing import Any, Literal, TypeVar

import jax
from flax import linen as nn

from unitoken_jax.ops.attention import CONTEXT
from unitoken_jax.ops.chunks import join, split

Remat = Literal["none", "full", "attention", "minimal", "dots", "offload"]
"""What a layer keeps for its gradient.

- `none`: everything, nothing is computed twice;
- `dots`: the results of all matrix products with weights;
- `minimal`: queries and keys before and after their norm, values, attention before
  and after its output projection and the MLP's inner products, by name: only norms and
  activations run again;
- `offload`: as `minimal`, kept in host memory;
- `attention`: the attention's output alone, the rest of the layer runs again;
- `full`: nothing but the layer's input.
"""

_NAMES = (
    *("query_before_norm", "key_before_norm"),
    *("query", "key", "value", CONTEXT, "attention_out"),
    *("mlp_gate", "mlp_up"),
)


def remat_policy(remat: Remat) -> Callable[..., bool]:
    """The checkpoint policy of a name other than `none`.

    Raises:
        ValueError: an unknown name.
    """
    policies = jax.checkpoint_policies
    known: dict[str, Callable[..., bool]] = {
        "full": policies.nothing_saveable,
        "attention": policies.save_only_these_names(CONTEXT),
        "minimal": policies.save_only_these_names(*_NAMES),
        "dots": policies.dots_with_no_batch_dims_saveable,
        "offload": policies.save_and_offload_only_these_names(
            names_which_can_be_saved=[],
            names_which_can_be_offloaded=list(_NAMES),
            offload_src="device",
            offload_dst="pinned_host",
        ),
    }
    if remat not in known:
        raise ValueError(
            f"remat policy {remat!r} is not known; choose one of "
            f"none, {', '.join(known)}"
        )
    return known[remat]


def scan_layers(
    layer: type[nn.Module], length: int, remat: Remat, *, shared: int, static: int = 0
) -> Callable[..., nn.Module]:
    """Lifts a layer to `length` copies of it, one after the other.

    Args:
        layer: a module called as `layer(carry, per_layer, *shared, *static)` that
            returns `(carry, result)`. Its parameters are stacked on a leading axis
            `layers`, as are `per_layer` and the results.
        length: number of layers.
        remat: what each keeps for its gradient.
        shared: number of arguments (trees of arrays) that all layers get alike.
        static: number of Python values that all layers get alike.

    Returns:
        A module class with the constructor and the call of `layer`.
    """
    lifted = layer
    if remat != "none":
        first = 3 + shared  # after the module itself, the carry and per_layer
        lifted = nn.remat(
            lifted,
            policy=remat_policy(remat),
            prevent_cse=False,  # the loop is a barrier already
            static_argnums=tuple(range(first, first + static)),
        )
    in_axes: Any = (0, *(nn.broadcast,) * (shared + static))
    return nn.scan(
        lifted,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=in_axes,
        length=length,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )


Module = TypeVar("Module", bound=nn.Module)


def apply_in_chunks(
    module: Module,
    transform: Callable[[Module, jax.Array], jax.Array],
    rows: jax.Array,
    chunks: int,
) -> jax.Array:
    """Apply `transform(module, rows)`, which treats rows alike and draws nothing.

    The parameters are the same with any number of chunks, and so are their names.

    Args:
        module: whose parameters it uses; call this in its compact method.
        transform: [b, …] of any b → [b, …].
        rows: [B, …].
        chunks: how many; each but a single one is computed again for the gradient.
    """
    if chunks == 1 or module.is_initializing():
        return transform(module, rows)

    def one(module: Module, carry: None, part: jax.Array) -> tuple[None, jax.Array]:
        return carry, transform(module, part)

    scan = nn.scan(
        nn.remat(one, prevent_cse=False),  # the loop is a barrier already
        variable_broadcast="params",
        split_rngs={"params": False},
    )
    _, made = scan(module, None, split(rows, chunks))
    return join(made)
