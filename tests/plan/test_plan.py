"""The command on steps of real size, and their golden numbers.

Each case is the command as a user types it, in a process of its own: compiling a 7B
step takes gigabytes. CI compiles the quickstart's base stage for four chips of v5e and
UniToken-7B's stage II for v5p-128; PLAN_CASES=all compiles all of them, PLAN_CASES=NAME
one more. UPDATE_GOLDEN=1 writes the numbers anew.
"""

import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from unitoken_jax.parallel import topology
from unitoken_jax.plan import golden, report, search

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/golden/plan"
SLICES = {"v5p_128": "v5p:4x4x4", "v5e_256": "v5e:16x16", "v6e_256": "v6e:16x16"}
SMALL = ("quickstart:base", "v5e:2x2")
LARGE = ("unitoken_7b_anyres_stage2", "v5p_128")
_ON_ALL = tuple(SLICES)
_OTHERS = {
    "unitoken_7b_anyres_stage1": _ON_ALL,
    "unitoken_7b_anyres_stage2": ("v5e_256", "v6e_256"),
    "unitoken_7b_base_stage1": _ON_ALL,
    "unitoken_7b_base_stage2": _ON_ALL,
    "chameleon_7b_stage2": _ON_ALL,
    "chameleon_34b_stage2": _ON_ALL,
    "unitok_mllm_7b_pretrain": _ON_ALL,
    "unitok_vitamin_l": _ON_ALL,
    "llamagen": _ON_ALL,
    "llama_2_7b": ("v5p_128",),
}
CASES = (
    SMALL,
    LARGE,
    *((name, on) for name, all_of in _OTHERS.items() for on in all_of),
)
pytestmark = pytest.mark.skipif(
    not topology.is_available(),
    reason="libtpu is not installed: pip install -r requirements-plan.txt",
)


def command(config: str, hardware: str) -> list[str]:
    name, _, stage = config.partition(":")
    if hardware not in SLICES:
        flags = [f"--config=configs/{name}.py", f"--stage={stage}"]
        return [*flags, f"--topology={hardware}"]
    word = f"XXL_{hardware}" if name == "llamagen" else hardware
    return [f"--config=configs/{name}.py:{word}", f"--topology={SLICES[hardware]}"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, in a process of its own."""
    # Flags of the tests' own programs would reach libtpu's compiler as well.
    surroundings = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    return subprocess.run(
        [sys.executable, "-m", "unitoken_jax.plan", *arguments],
        cwd=ROOT,
        env=surroundings,
        capture_output=True,
        text=True,
        check=False,
    )


@functools.cache
def planned(config: str, hardware: str) -> report.Plan:
    """What the command finds; its output is shown, with the time it took."""
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory) / "plan.json"
        ended = run(*command(config, hardware), f"--json={output}")
        print(ended.stdout, ended.stderr, sep="\n")
        assert ended.returncode == 0, ended.stderr[-2000:]
        return json.loads(output.read_text())


def test_a_plan_is_consistent() -> None:
    small = planned(*SMALL)
    assert small["memory"]["fits"]
    assert small["memory"]["peak"] >= small["memory"]["parameters"]
    assert 0 < small["flops"]["model"] <= small["flops"]["executed"]
    assert small["unpriced"] == {}
    axes = {each["axes"] for each in small["collectives"]}
    assert axes == {"data"}
    assert "donation" not in {each["check"] for each in small["lint"]}


def test_reads_as_a_page() -> None:
    text = report.render(planned(*SMALL))
    for words in ("fits: yes", "MFU = ", "roofline-capped", "Lint: ", "all-reduce"):
        assert words in text


def test_a_mesh_that_the_slice_cannot_form_is_a_sentence() -> None:
    ended = run(*command(*SMALL), "--config.stages.base.mesh.data=3")
    assert ended.returncode != 0
    assert "needs 3 devices, there are 4" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
def test_unitoken_7b_reaches_its_bars_on_v5p_128() -> None:
    """It fits, its sums are scattered, and the products take most of the time."""
    found = planned(*LARGE)
    assert found["memory"]["fits"]
    assert found["unpriced"] == {}
    traffic = {"all-gather": 0.0, "reduce-scatter": 0.0, "all-reduce": 0.0}
    for each in found["collectives"]:
        if each["axes"] == "fsdp" and each["kind"] in traffic:
            traffic[each["kind"]] += each["wire"]
    assert traffic["reduce-scatter"] > 10 * traffic["all-reduce"]
    assert traffic["all-gather"] > 0
    assert found["mfu"]["capped"] >= 0.58
    compiled = found["compile"]
    print(
        f"{compiled['compile_seconds']:.0f} s, {compiled['peak_rss'] / 2**30:.1f} GiB"
    )


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_numbers_are_as_they_were(case: tuple[str, str]) -> None:
    name = "_".join(case).replace(":", "_")
    if case not in (SMALL, LARGE) and os.environ.get("PLAN_CASES") not in ("all", name):
        pytest.skip(f"takes minutes; PLAN_CASES={name} compiles it")
    assert golden.compare(planned(*case), GOLDEN / f"{name}.json") == []


@pytest.mark.slow
def test_a_search_compiles_what_it_tries(tmp_path: Path) -> None:
    """Of the stage of a chain; the same command again finds all of it done."""
    journal = tmp_path / "trials.jsonl"
    arguments = [*command(*SMALL), f"--search={journal}", "--axes=decoder_remat"]
    for _ in range(2):
        ended = run(*arguments)
        assert ended.returncode == 0, ended.stderr[-2000:]
        trials = search.read(journal)
        assert [trial.fault for trial in trials] == [""] * len(search.REMAT)
        assert len({trial.seconds for trial in trials}) > 1
