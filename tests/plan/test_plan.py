"""Steps compiled for chips that are not there, and their golden numbers.

The fast one is the quickstart's last stage on four chips of v5e. The slow one is
UniToken-7B's stage II on v5p-128; docs/plan.md says what it takes. UPDATE_GOLDEN=1
writes the numbers anew.
"""

import dataclasses
import importlib
import os
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from unitoken_jax.parallel import topology
from unitoken_jax.parallel.mesh import MeshConfig, MeshError
from unitoken_jax.plan import golden, report
from unitoken_jax.plan.__main__ import plan
from unitoken_jax.train.job import Job, build_chain

GOLDEN = Path(__file__).parents[1] / "golden/plan"
pytestmark = pytest.mark.skipif(
    not topology.is_available(),
    reason="libtpu is not installed: pip install -r requirements-plan.txt",
)


def job(name: str, stage: str | None = None, **overrides) -> Job:
    config: ConfigDict = importlib.import_module(f"configs.{name}").get_config()
    chain = build_chain(config)
    return dataclasses.replace(chain.stages[stage or chain.order[-1]], **overrides)


def differences(found: report.Plan, name: str) -> list[str]:
    path = GOLDEN / f"{name}.json"
    if not path.is_file() and not os.environ.get("UPDATE_GOLDEN"):
        pytest.skip(f"no golden numbers of {name} yet; UPDATE_GOLDEN=1 writes them")
    return golden.compare(found, path)


@pytest.fixture(scope="module")
def small():
    return plan(job("quickstart", "base"), topology.parse("v5e:2x2"))


def test_numbers_are_as_they_were(small) -> None:
    assert differences(small, "quickstart_base_v5e_2x2") == []


def test_a_plan_is_consistent(small) -> None:
    assert small["memory"]["fits"]
    assert small["memory"]["peak"] >= small["memory"]["parameters"]
    assert 0 < small["flops"]["model"] <= small["flops"]["executed"]
    assert small["unpriced"] == {}
    axes = {each["axes"] for each in small["collectives"]}
    assert axes == {"data"}
    assert "donation" not in {each["check"] for each in small["lint"]}


def test_reads_as_a_page(small) -> None:
    text = report.render(small)
    for words in ("fits: yes", "MFU = ", "roofline-capped", "Lint: ", "all-reduce"):
        assert words in text


def test_a_mesh_that_the_slice_cannot_form_is_a_sentence() -> None:

    wrong = job("quickstart", "base", mesh=MeshConfig(data=3))
    with pytest.raises(MeshError, match="needs 3 devices, there are 4"):
        plan(wrong, topology.parse("v5e:2x2"))


@pytest.mark.slow
def test_unitoken_7b_on_v5p_128() -> None:
    found = plan(job("unitoken_7b_anyres_stage2"), topology.parse("v5p:4x4x4"))
    assert found["memory"]["fits"]
    assert found["unpriced"] == {}
    gathers = [e for e in found["collectives"] if e["kind"] == "all-gather"]
    assert {each["axes"] for each in gathers} == {"fsdp"}
    assert differences(found, "unitoken_7b_anyres_stage2_v5p_4x4x4") == []
