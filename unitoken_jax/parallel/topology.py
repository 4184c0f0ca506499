"""TPU slices that are not there: devices of a topology, to compile programs for.

libtpu's own compiler runs on any Linux machine: pip install -r requirements-plan.txt.
"""

import importlib.util
import math
import os
import re
from dataclasses import dataclass

from jax.experimental import topologies

from unitoken_jax.config import UserError, nearest
from unitoken_jax.parallel.chips import CHIPS, Chip
from unitoken_jax.parallel.mesh import Devices

_NAME = re.compile(r"(v\d+[ep]?):(\d+(?:x\d+){1,2})")
_SURROUNDINGS = {  # or libtpu would ask a cloud's metadata server
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # a lock file would refuse a second plan
    "TPU_ACCELERATOR_TYPE": "v5p-8",  # any: it would complain that there is none
    "TPU_STDERR_LOG_LEVEL": "1",  # warnings, which it writes to files alone otherwise
}


class TopologyError(UserError, ValueError):
    """A topology that does not exist, or no compiler for it."""


@dataclass(frozen=True)
class Topology:
    """A slice of TPU chips, or several.

    Attributes:
        chip: the generation.
        shape: chips along every axis of the interconnect.
        slices: how many slices the data-centre network connects.
    """

    chip: Chip
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def chips(self) -> int:
        """Chips of all slices."""
        return math.prod(self.shape) * self.slices

    @property
    def name(self) -> str:
        """As libtpu writes it, 'v5p:4x4x4'."""
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    @property
    def wrapped(self) -> tuple[bool, ...]:
        """Whether the ends of each axis are connected.

        Axes of v4 and v5p are rings where all are multiples of 4 (whole cubes), those
        of v5e and v6e where they span all 16 chips.
        """
        if self.chip.torus == 3:
            whole = all(size % 4 == 0 for size in self.shape)
            return (whole,) * len(self.shape)
        return tuple(size == 16 for size in self.shape)


def parse(name: str, slices: int = 1) -> Topology:
    """Reads 'v5p:4x4x4'.

    Raises:
        TopologyError: no such chip, or not as many axes as its interconnect has.
    """
    match = _NAME.fullmatch(name)
    if match is None or match[1] not in CHIPS:
        raise TopologyError(
            f"topology {name!r} is not known; write a generation and its chips along "
            f"every axis, such as v5e:16x16 or v5p:4x4x4"
            f"{nearest(name.split(':', maxsplit=1)[0], CHIPS)}"
        )
    chip = CHIPS[match[1]]
    shape = tuple(map(int, match[2].split("x")))
    if len(shape) != chip.torus or min(shape) < 1 or slices < 1:
        raise TopologyError(
            f"topology {name!r} in {slices} slices does not exist: {chip.name} has "
            f"{chip.torus} axes of at least one chip"
        )
    return Topology(chip, shape, slices)


def is_available() -> bool:
    """Say whether libtpu is installed."""
    return importlib.util.find_spec("libtpu") is not None


def devices(topology: Topology) -> Devices:
    """Devices to compile for; nothing can be computed on them.

    Raises:
        TopologyError: libtpu is not installed, or does not know this shape.
    """
    if not is_available():
        raise TopologyError(
            "compiling for a TPU needs libtpu, which is not installed: "
            "pip install -r requirements-plan.txt"
        )
    for key, value in _SURROUNDINGS.items():
        os.environ.setdefault(key, value)
    options: dict[str, object] = {}
    if any(topology.wrapped):
        flat = (False,) * (3 - topology.chip.torus)  # libtpu counts three axes always
        options["wrap"] = topology.wrapped + flat
    if topology.chip.name == "v4":  # both cores of a chip are one device
        options["chip_config_name"] = "megacore"
    if topology.slices > 1:
        options["num_slices"] = topology.slices
    if topology.chips == topology.slices:
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=topology.name, **options
        )
    except Exception as error:
        raise TopologyError(
            f"libtpu knows no topology {topology.name} in {topology.slices} slices: "
            f"{str(error).splitlines()[0]}"
        ) from error
    return found.devices
