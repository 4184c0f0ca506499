"""The device mesh (slice, data, fsdp, tensor, sequence), all axes of `AxisType.Auto`.

`slice` spans the slow network between TPU slices, the others the fast one inside.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from unitoken_jax.config import UserError

AXES = ("slice", "data", "fsdp", "tensor", "sequence")


class MeshError(UserError, ValueError):
    """A mesh that the devices cannot form."""


@dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh; one of them may be -1 for whatever is left.

    Attributes:
        slice: TPU slices connected by the data-centre network.
        data: replicas of the parameters that share the batch.
        fsdp: shards of every parameter that also share the batch.
        tensor: shards of heads, MLP width and vocabulary.
        sequence: shards of the row length.
    """

    slice: int = 1
    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    sequence: int = 1

    def sizes(self, devices: int) -> tuple[int, ...]:
        """Sizes of `AXES` for this many devices.

        Raises:
            MeshError: they do not multiply to the number of devices.
        """
        sizes = [getattr(self, axis) for axis in AXES]
        free = [axis for axis, size in zip(AXES, sizes, strict=True) if size == -1]
        wrong = [size for size in sizes if size < 1 and size != -1]
        if wrong or len(free) > 1:
            raise MeshError(
                f"mesh {self.text()} is not a mesh: sizes are positive, and one of "
                "them may be -1"
            )
        known = math.prod(size for size in sizes if size != -1)
        if devices % known or (not free and known != devices):
            raise MeshError(
                f"mesh {self.text()} needs {'a multiple of ' if free else ''}{known} "
                f"devices, there are {devices}; change mesh.data or run on other "
                "hardware"
            )
        return tuple(devices // known if size == -1 else size for size in sizes)

    def text(self) -> str:
        """The sizes as written, for messages."""
        return " ".join(f"{axis}={getattr(self, axis)}" for axis in AXES)


Devices = Sequence[Any]
"""Devices of JAX, present or only compiled for; their class has no public type."""


def make_mesh(config: MeshConfig, devices: Devices | None = None) -> Mesh:
    """Arranges devices so that the inner axes are neighbours.

    Args:
        config: sizes of the axes.
        devices: the devices to use, all of them when None; may be those of a topology
            that programs are only compiled for.

    Returns:
        A mesh with the axes `AXES`, to be entered with `jax.set_mesh`.

    Raises:
        MeshError: the sizes do not fit the devices, or their slices.
    """
    devices = jax.devices() if devices is None else list(devices)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    # Before the sizes: they would be changed in vain.
    if devices[0].platform == "tpu" and config.slice not in (slices, -1):
        raise MeshError(
            f"mesh {config.text()}: these devices are of {slices} slice(s); set "
            f"mesh.slice={slices}"
        )
    sizes = config.sizes(len(devices))
    if devices[0].platform == "tpu" and sizes[0] != slices:
        raise MeshError(
            f"mesh {config.text()}: with these sizes mesh.slice is {sizes[0]}, but the "
            f"devices are of {slices} slice(s); set mesh.slice={slices} and another "
            "size to -1"
        )
    if devices[0].platform != "tpu":
        # [devices] → [slice, data, fsdp, tensor, sequence]
        grid = np.asarray(devices).reshape(sizes)
    elif sizes[0] > 1:
        grid = mesh_utils.create_hybrid_device_mesh(
            (1, *sizes[1:]),
            (sizes[0], 1, 1, 1, 1),
            devices,
            allow_split_physical_axes=True,
        )
    else:
        grid = mesh_utils.create_device_mesh(
            sizes, devices, allow_split_physical_axes=True
        )
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))
