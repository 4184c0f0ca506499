"""Programs read from their text: loops, products, traffic."""

from pathlib import Path

import pytest

from unitoken_jax.plan import hlo

LAYERS = Path(__file__).parents[1] / "golden/plan/layers_v5p_4x4x4.hlo"
HEADER = (
    "HloModule m, is_scheduled=true, input_output_alias={ {0}: (1, {}, may-alias) }"
)


def program(body: str, *others: str) -> hlo.Program:
    """A program whose entry has these lines."""
    lines = "\n".join(f"  {line}" for line in body.strip().splitlines())
    text = f"ENTRY %main (a: f32[]) -> f32[] {{\n{lines}\n}}"
    return hlo.parse("\n\n".join([HEADER, *others, text]) + "\n")


def product(left: str, right: str, result: str, attributes: str) -> float:
    found = program(
        f"%a = bf16[{left}]{{1,0}} parameter(0)\n"
        f"%b = bf16[{right}]{{1,0}} parameter(1)\n"
        f"ROOT %c = bf16[{result}]{{1,0:T(8,128)S(1)}} {attributes}"
    )
    entry = found.computations["main"]
    return hlo.matmul_flops(entry, entry.root)


def test_a_compiled_scan_of_four_layers():
    """Forward, its recomputation and two gradients of 16,384 rows a chip."""
    found = hlo.parse(LAYERS.read_text())
    loops = [(c, i) for c, i, _ in found.walk() if i.opcode == "while"]
    assert [found.trips(*loop) for loop in loops] == [4, 4]
    flops = sum(found.flops(c, each) * times for c, each, times in found.walk())
    assert flops == 4 * 4 * 2.0 * 16_384 * 4096**2


def test_a_computation_of_another_thread_is_entered():
    """SparseCores have one; the thread's name stands behind the closing brace."""
    found = program(
        "%a = f32[8]{0} parameter(0)\n"
        "%s = (f32[8]{0}, f32[8]{0}) call-start(%a), to_apply=%offload\n"
        "ROOT %d = f32[8]{0} call-done(%s)",
        "%offload (p: f32[8]) -> f32[8] {\n"
        "  %p = f32[8]{0} parameter(0)\n"
        '  ROOT %n = f32[8]{0} negate(%p), backend_config={"over": {\n'
        '}, "several": "lines"}\n'
        '}, execution_thread="sparsecore"',
    )
    assert [each.name for _, each, _ in found.walk()] == ["a", "s", "p", "n", "d"]


def test_dots_and_convolutions():
    dot = "dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}"
    assert product("8,16", "16,4", "8,4", dot) == 2 * 8 * 16 * 4
    plain = "convolution(%a, %b), dim_labels=bf_io->bf"
    assert product("8,16", "16,4", "8,4", plain) == 2 * 8 * 16 * 4
    picture = "convolution(%a, %b), window={size=3 pad=1_1}, dim_labels=b0f_0io->b0f"
    pairs = 3 * 5 - 2  # the window hangs over at both ends
    assert product("2,5,7", "3,7,4", "2,5,4", picture) == 2 * 2 * 7 * 4 * pairs


def test_heads_as_a_window_are_not_counted_often():
    """TPUs write a product with [D, N, H] as a convolution over padded heads."""
    window = "window={size=1x32 pad=0_0x31_31 rhs_reversal=0x1}"
    text = f"convolution(%a, %b), {window}, dim_labels=0bf1_i1o0->0b1f"
    found = product("4,64,128,1", "128,32,16,1", "4,64,32,16", text)
    assert found == 2 * 4 * 64 * 128 * 32 * 16


def test_slices_of_an_operand_are_not_all_of_it():
    fused = """%fused (p: f32[32,8,8], i: s32[]) -> f32[1,8,8] {
  %p = f32[32,8,8]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %s = f32[1,8,8]{2,1,0} dynamic-slice(%p, %i), dynamic_slice_sizes={1,8,8}
}"""
    found = program(
        "%p = f32[32,8,8]{2,1,0} parameter(0)\n"
        "%i = s32[]{:S(1)} parameter(1)\n"
        "ROOT %f = f32[1,8,8]{2,1,0} fusion(%p, %i), kind=kLoop, calls=%fused",
        fused.replace("s32[] parameter", "s32[]{:S(1)} parameter"),
    )
    entry = found.computations["main"]
    assert found.bytes(entry, entry.root) == 2 * 256


def test_arrays_on_the_chip_are_no_traffic():
    found = program(
        "%p = f32[8,8]{1,0:T(8,128)S(1)} parameter(0)\n"
        "ROOT %n = f32[8,8]{1,0:T(8,128)} negate(%p)"
    )
    entry = found.computations["main"]
    assert found.bytes(entry, entry.root) == 256
    assert found.aliased == {1}


COMPARISON = "compare(%n, %l), direction=LT"


def loop(
    comparison: str = COMPARISON, step: int = 1, entry: str = "%t0 = (s32[]) tuple(%z)"
) -> hlo.Program:
    """A loop up to 7; `entry` gives it its carry, %t0."""
    condition = f"""%cond (c: (s32[])) -> pred[] {{
  %c = (s32[]) parameter(0)
  %n = s32[] get-tuple-element(%c), index=0
  %l = s32[] constant(7)
  ROOT %lt = pred[] {comparison}
}}"""
    body = f"""%body (b: (s32[])) -> (s32[]) {{
  %b = (s32[]) parameter(0)
  %m = s32[] get-tuple-element(%b), index=0
  %k = s32[] constant({step})
  %a = s32[] add(%m, %k)
  ROOT %t = (s32[]) tuple(%a)
}}"""
    return program(
        f"%z = s32[] constant(0)\n{entry}\n"
        "ROOT %w = (s32[]) while(%t0), condition=%cond, body=%body",
        condition,
        body,
    )


def turns(found: hlo.Program) -> int | None:
    entry = found.computations["main"]
    return found.trips(entry, entry.root)


@pytest.mark.parametrize(("step", "trips"), [(1, 7), (2, 4)])
def test_loops_may_step_by_more_than_one(step: int, trips: int):
    assert turns(loop(step=step)) == trips


@pytest.mark.parametrize(
    ("comparison", "trips"),
    [
        ("compare(%n, %l), direction=LE", 8),
        ("compare(%l, %n), direction=GT", 7),
        ("compare(%l, %n), direction=GE", 8),
        ("compare(%n, %l), direction=GT", None),
        ("compare(%n, %l), direction=NE", None),
        ("and(%n, %n)", None),
    ],
)
def test_conditions_of_loops(comparison: str, trips: int | None):
    assert turns(loop(comparison)) == trips


def test_a_loop_begins_behind_what_passes_its_carry_on():
    one = "%o = s32[] constant(3)\n"
    whole = "%t1 = (s32[]) tuple(%o)\n%t0 = (s32[]) opt-barrier(%t1)"
    assert turns(loop(entry=one + whole)) == 4
    part = (
        "%t1 = (s32[]) tuple(%o)\n"
        "%t2 = (s32[]) opt-barrier(%t1)\n"
        "%e = s32[] get-tuple-element(%t2), index=0\n"
        "%t0 = (s32[]) tuple(%e)"
    )
    assert turns(loop(entry=one + part)) == 4


def test_a_carry_that_comes_from_outside_is_taken_to_count_from_0():
    assert turns(loop(entry="%t0 = (s32[]) parameter(0)")) == 7


def test_no_program_is_a_sentence():
    with pytest.raises(hlo.HloError, match="it has no entry"):
        hlo.parse("nothing")


def test_a_bracket_alone_does_not_end_a_computation_unnoticed():
    """Metadata of several lines may have one; what follows it would be lost."""
    lines = (
        f"{HEADER}\n\nENTRY %main (p: f32[8]) -> f32[8] {{",
        "  %p = f32[8]{0} parameter(0)",
        '  %q = f32[8]{0} custom-call(%p), custom_call_target="Foo", metadata={{',
        '"a": 1',
        "}",
        "}",
        "  ROOT %n = f32[8]{0} negate(%q)",
        "}",
    )
    with pytest.raises(hlo.HloError, match="stands outside of its computation"):
        hlo.parse("\n".join(lines))
