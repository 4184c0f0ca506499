"""What the compiler says: refusals, warnings, and its last words."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from unitoken_jax.parallel import topology
from unitoken_jax.parallel.topology import parse
from unitoken_jax.plan.ahead import _SPOKEN, TooLargeError, listening, refusal

TOO_LARGE = "RESOURCE_EXHAUSTED: Ran out of memory "


@pytest.mark.parametrize(
    ("message", "gib"),
    [
        (
            f"{TOO_LARGE}in memory space hbm. Used 120.50G of 95.74G hbm. Exceeded",
            120.5,
        ),
        (
            f"{TOO_LARGE}on HBM, the total memory required for HLO temporaries "
            "(190.11G) exceeds available HBM (95.74G).",
            190.1,
        ),
    ],
)
def test_a_step_that_is_too_large_has_its_size(message, gib):
    error = refusal(message, parse("v5p:4x4x4"))
    assert isinstance(error, TooLargeError)
    assert error.needed == pytest.approx(gib * 2**30, rel=1e-3)
    assert str(error).startswith(
        f"the step of {gib:.1f} GiB does not fit the 95 GiB of a v5p chip: "
    )


def test_another_refusal_is_no_matter_of_size():
    error = refusal("INTERNAL: Mosaic failed\nand more", parse("v5e:2x2"))
    assert not isinstance(error, TooLargeError)
    assert str(error) == "the compiler refuses the step: INTERNAL: Mosaic failed"


@pytest.mark.skipif(not topology.is_available(), reason="libtpu is not installed")
def test_a_resharding_that_needs_the_whole_array_is_heard():
    chips = np.asarray(topology.devices(parse("v5e:2x4"))).reshape(2, 4)
    mesh = Mesh(chips, ("x", "y"), axis_types=(AxisType.Auto,) * 2)
    before = NamedSharding(mesh, PartitionSpec("y"))
    after = NamedSharding(mesh, PartitionSpec(None, "x"))
    array = jax.ShapeDtypeStruct((8, 8, 64), jnp.float32, sharding=before)

    def move(x: jax.Array) -> jax.Array:
        return jax.lax.with_sharding_constraint(jnp.sin(x), after)

    with jax.set_mesh(mesh), listening() as heard:
        jax.jit(move).lower(array).compile()
    assert _SPOKEN.search("".join(heard))


def test_what_is_said_is_heard_and_not_printed(capfd):
    with listening() as heard:
        os.write(2, b"a warning\n")
    os.write(2, b"behind it\n")
    assert heard == ["a warning\n"]
    assert capfd.readouterr().err == "behind it\n"


def test_last_words_of_a_compiler_that_aborts_are_printed():
    program = (
        "import os\n"
        "from unitoken_jax.plan import ahead\n"
        "with ahead.listening():\n"
        "    os.write(2, b'F0000 Check failed\\n')\n"
        "    os.abort()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode < 0
    assert "F0000 Check failed" in ended.stderr
