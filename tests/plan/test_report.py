"""A plan as a page: readings and how far they hold, memory, small numbers."""

import pytest
from plan.test_cost import MESH
from plan.test_hlo import LAYERS

from unitoken_jax.parallel import topology
from unitoken_jax.plan import lint, report
from unitoken_jax.plan.ahead import Compiled, Memory

GIB = 2.0**30


@pytest.fixture
def planned(monkeypatch):
    """The plan of four layers as if they were compiled for this chip."""
    # Without a layout nothing can be checked, and libtpu need not be installed.
    monkeypatch.setattr(lint, "check", lambda *_: [])
    monkeypatch.setattr(report.importlib.metadata, "version", lambda _: "0")

    def plan(name: str) -> report.Plan:
        compiled = Compiled(
            text=LAYERS.read_text(),
            memory=Memory(
                parameters=2 * GIB,
                optimizer=4 * GIB,
                batch=GIB,
                temporary=9 * GIB,
                code=GIB / 4,
                peak=13 * GIB,
                host=0.0,
                others=GIB / 2,
            ),
            mesh=MESH,
            layout=None,  # type: ignore[arg-type]
            batch={},
            lower_seconds=1.0,
            compile_seconds=2.0,
            peak_rss=GIB,
        )
        return report.assemble(
            compiled, topology.parse(name), flops=1e15, items={"rows": 64}, steps=100
        )

    return plan


def test_what_is_not_calibrated_is_not_called_so(planned):
    assert "calibrated (±10%)" in report.render(planned("v5p:4x4x4"))
    page = report.render(planned("v4:4x4x4"))
    assert "1.22 x floor, not calibrated for v4" in page
    assert "±" not in page


def test_a_training_is_a_range_where_the_readings_are_apart(planned):
    plan = planned("v5p:4x4x4")
    near = plan | {"seconds": plan["seconds"] | {"calibrated": 1.0, "capped": 1.02}}
    page = report.render(near)
    assert f"100 steps: {report.number(plan['hours'], 1)} hours, " in page
    far = plan | {"seconds": plan["seconds"] | {"calibrated": 1.0, "capped": 1.04}}
    page = report.render(far)
    assert "which has no communication, to roofline-capped)" in page
    lowest, highest = (report.number(plan[f"hours{end}"], 1) for end in ("", "_capped"))
    assert f"100 steps: {lowest} to {highest} hours, " in page
    rows = plan["items"]["rows"]
    assert rows["per_second_and_chip_capped"] == pytest.approx(
        64 / 64 / plan["seconds"]["capped"]
    )


def test_categories_of_memory_sum_to_the_peak(planned):
    plan = planned("v5p:4x4x4")
    assert plan["memory"]["others"] == GIB / 2
    lines = [line.rsplit(None, 1) for line in report.render(plan).splitlines()]
    table = {line[0].strip(): line[1] for line in lines if len(line) == 2}
    assert table["further arguments, padding"] == "0.50"
    assert table["not at once"] == "-3.50"
    assert table["peak, of all above"] == "13.00"
    memory = plan["memory"] | {"unexplained": GIB}
    assert "unexplained" in report.render(plan | {"memory": memory})


def test_what_capped_and_floor_do_not_see_is_on_the_page(planned):
    plan = planned("v5p:4x4x4")
    share = plan["seconds"]["capped"] / 100
    many = {f"small_{number}": share for number in range(20)}
    page = report.render(plan | {"on_chip": {"negate": 2 * share, **many}})
    dearest, rest = (report.number(n * share * 1e3, 1) for n in (2, 9))
    assert f"see next to nothing of it: negate {dearest} ms, small_0 " in page
    assert f"others {rest} ms" in page


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [
        (1.3349, 3, "1.335"),
        (0.00012004, 3, "0.000120"),
        (1476.2, 1, "1,476"),
        (0.0, 1, "0.0"),
    ],
)
def test_numbers_have_three_digits_or_no_decimals(value, decimals, text):
    assert report.number(value, decimals) == text
