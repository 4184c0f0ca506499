"""Prices: the clock, attention kernels, communication."""

from pathlib import Path

import pytest
from plan.test_hlo import LAYERS, loop, program

from unitoken_jax.parallel import topology
from unitoken_jax.plan import collectives, cost, hlo, kernels, lint

V5P = topology.parse("v5p:4x4x4")
MESH = {"slice": 1, "data": 1, "fsdp": 64, "tensor": 1, "sequence": 1}
SPLASH = (
    "%splash_mha_{name}_segmented_residuals.1 = bf16[4,32,4096,128]{{3,2,1,0}} "
    "custom-call(%a), "
    'custom_call_target="tpu_custom_call", '
    "operand_layout_constraints={{s8[1,8,8]{{2,1,0}}, "
    "bf16[4,32,4096,128]{{3,2,1,0}}, bf16[4,32,4096,128]{{3,2,1,0}}, "
    "s32[4,8,4096]{{2,1,0}}, s32[4,4096,128]{{2,1,0}}{causal}}}, "
    "frontend_attributes={{}}"
)


def splash(name: str, *, causal: bool) -> kernels.Kernel:
    text = SPLASH.format(name=name, causal=", s32[4096,128]{1,0}" if causal else "")
    found = program(f"%a = f32[]{{:T(128)}} parameter(0)\nROOT {text}")
    kernel = kernels.read(found.computations["main"].root)
    assert kernel is not None
    return kernel


def test_readings_of_a_compiled_scan():
    found = cost.price(hlo.parse(LAYERS.read_text()), MESH, V5P)
    assert found.floor < found.capped < found.compiled
    assert found.floor > found.flops / V5P.chip.peak
    assert found.calibrated == pytest.approx(1.22 * found.floor)
    traffic = {key[0]: value for key, value in found.collectives.items()}
    assert traffic["all-gather"].count == 8
    assert traffic["all-reduce"].nbytes == 4 * 2 * 4096**2
    assert traffic["all-reduce"].wire == 2 * traffic["all-reduce"].nbytes * 63 / 64
    assert found.exposed == pytest.approx(
        sum(each.exposed for each in traffic.values())
    )


def test_attention_as_the_bundles_say():
    """43 % of the peak forward and half of a full mask's blocks, as counted once."""
    forward = splash("fwd", causal=True)
    assert forward.shape == (4, 32, 4096, 4096, 128)
    assert forward.computed == 36
    seconds = forward.cycles(V5P.chip) / V5P.chip.clock
    needed = 2 * 2 * 128 * 4 * 32 * 4096**2 / 2
    assert needed / seconds / V5P.chip.peak == pytest.approx(0.43, abs=0.01)
    assert splash("fwd", causal=False).computed == 64
    assert splash("dkv", causal=True).flops == 2 * forward.flops


@pytest.mark.parametrize(
    ("name", "rows", "heads", "share"),
    [
        *(("fwd", 1, 4, 1 / 2), ("fwd", 4, 1, 1 / 2), ("fwd", 1, 1, 1.0)),
        *(("fwd", 1, 3, 2 / 3), ("fwd", 3, 4, 1 / 2)),
        *(("dq", 1, 4, 1.0), ("dq", 2, 2, 1 / 2), ("dq", 3, 4, 2 / 3)),
        *(("dkv", 1, 4, 1.0), ("dkv", 2, 2, 1 / 2), ("dkv", 4, 1, 1 / 2)),
    ],
)
def test_two_cores_share_what_is_declared_parallel(name, rows, heads, share):
    """The gradients' kernels declare nothing so: one row is one core's."""
    kernel = splash(name, causal=True)._replace(shape=(rows, heads, 4096, 4096, 128))
    one = kernel._replace(shape=(1, 1, 4096, 4096, 128))
    for generation, cores in (("v5p:4x4x4", 2), ("v5e:16x16", 1), ("v6e:16x16", 1)):
        chip = topology.parse(generation).chip
        alone = one.cycles(chip)  # a single head of a single row is one core's
        expected = rows * heads * alone * (share if cores == 2 else 1.0)
        assert kernel.cycles(chip) == pytest.approx(expected)


def test_a_part_of_the_queries_waits_for_the_last_part():
    """Of 8 blocks of keys, the last of four parts of the queries sees 7 and 8."""
    whole = splash("fwd", causal=True)
    part = whole._replace(shape=(4, 32, 1024, 4096, 128))
    assert part.computed == 7 + 8


def test_kernels_without_a_price_are_named():
    found = program(
        "%a = f32[8]{0} parameter(0)\n"
        'ROOT %k = f32[8]{0} custom-call(%a), custom_call_target="tpu_custom_call", '
        'metadata={op_name="jit(f)/my_kernel"}'
    )
    priced = cost.price(found, {"fsdp": 64}, V5P)
    assert dict(priced.unpriced) == {"my_kernel": 1}


def test_what_has_no_estimate_takes_its_traffic_and_is_named():
    """A scatter of 1 MiB into 8 MiB, an unknown call, work of the SparseCores."""
    found = program(
        "%a = f32[2097152]{0} parameter(0)\n"
        "%i = s32[262144]{0} parameter(1)\n"
        "%u = f32[262144]{0} parameter(2)\n"
        "%x = f32[2097152]{0} scatter(%a, %i, %u), to_apply=%sum\n"
        '%t = f32[2097152]{0} custom-call(%x), custom_call_target="TopK"\n'
        '%m = f32[8]{0} custom-call(), custom_call_target="AllocateBuffer"\n'
        "%b = (f32[2097152]{0}) call-start(%t), to_apply=%sum, "
        'async_execution_thread="sparsecore"\n'
        "ROOT %d = f32[2097152]{0} call-done(%b)"
    )
    priced = cost.price(found, MESH, V5P)
    traffic = 2 * 8 * 2**20 + 2 * 2**20
    seconds = traffic / V5P.chip.memory_bandwidth
    assert priced.by_traffic["scatter"] == pytest.approx(seconds)
    assert priced.compiled == priced.floor == pytest.approx(seconds)
    assert dict(priced.unpriced) == {"TopK": 1, "b": 1}


def test_what_is_on_the_chip_costs_its_prefetch_and_is_named():
    """1 MiB comes from HBM, half of another goes there; what works on it moves none."""
    near, far = "{0:T(1024)S(1)}", "{0:T(1024)}"
    cycles = round(1e-3 * V5P.chip.clock)
    found = program(
        f"%a = f32[262144]{far} parameter(0)\n"
        f"%s = (f32[262144]{near}, f32[262144]{far}, u32[]) copy-start(%a)\n"
        f"%d = f32[262144]{near} copy-done(%s)\n"
        f"%n = f32[262144]{near} negate(%d), "
        f'backend_config={{"estimated_cycles":"{cycles}"}}\n'
        f"%t = ((f32[262144]{near}), f32[131072]{far}, s32[]) slice-start(%n)\n"
        f"ROOT %e = f32[131072]{far} slice-done(%t)"
    )
    priced = cost.price(found, MESH, V5P)
    assert priced.memory_bytes == 1.5 * 2**20
    assert priced.on_chip == {"negate": pytest.approx(1e-3)}
    assert priced.compiled == pytest.approx(1e-3)
    assert priced.capped == priced.floor == 0.0


def test_a_loop_whose_turns_are_not_known_counts_once_and_is_named():
    priced = cost.price(loop("and(%n, %n)"), MESH, V5P)
    assert dict(priced.unpriced) == {"loop w: turns unknown, counted once": 1}


def test_a_gather_of_the_sparse_cores_is_communication():
    found = program(
        "%a = bf16[64]{0} parameter(0)\n"
        "%s = (bf16[64]{0}, bf16[4096]{0}) call-start(%a), to_apply=%gather, "
        'async_execution_thread="sparsecore"\n'
        "ROOT %d = bf16[4096]{0} call-done(%s)",
        "%gather (p: bf16[64]) -> bf16[4096] {\n"
        "  %p = bf16[64]{0} parameter(0)\n"
        "  ROOT %g = bf16[4096]{0} all-gather(%p), replica_groups=[1,64]<=[64]\n}",
    )
    priced = cost.price(found, MESH, V5P)
    ((key, traffic),) = priced.collectives.items()
    assert key == ("all-gather", "fsdp", False)
    assert priced.compiled == traffic.seconds > 0
    assert not priced.unpriced


@pytest.mark.parametrize(
    ("dtype", "precision", "times"),
    [("bf16", "", 1), ("s8", "", 0.5), ("f32", "highest", 6), ("f32", "high", 3)],
)
def test_the_floor_knows_types_and_precisions(dtype, precision, times):
    wanted = f", operand_precision={{{precision},{precision}}}" if precision else ""
    found = program(
        f"%a = {dtype}[512,512]{{1,0}} parameter(0)\n"
        f"ROOT %c = {dtype}[512,512]{{1,0}} dot(%a, %a), lhs_contracting_dims={{1}}, "
        f"rhs_contracting_dims={{0}}{wanted}, "
        'backend_config={"estimated_cycles":"9999"}'
    )
    priced = cost.price(found, MESH, V5P)
    assert priced.floor == pytest.approx(times * 2 * 512**3 / V5P.chip.peak)
    assert priced.flops == 2 * 512**3


def test_only_what_is_not_over_is_waited_for():
    """A gather of 8 ms behind a product of 4 ms leaves 4 ms."""
    cycles = round(4e-3 * V5P.chip.clock)
    size = round(8e-3 * 6 * V5P.chip.link_bandwidth / 2 * 64 / 63 / 64) * 64
    found = program(
        f"%a = bf16[{size // 64}]{{0}} parameter(0)\n"
        f"%s = (bf16[{size // 64}]{{0}}, bf16[{size}]{{0}}) all-gather-start(%a), "
        "replica_groups=[1,64]<=[64], dimensions={0}\n"
        f"%n = f32[8]{{0}} negate(%a), "
        f'backend_config={{"estimated_cycles":"{cycles}"}}\n'
        f"ROOT %d = bf16[{size}]{{0}} all-gather-done(%s)"
    )
    priced = cost.price(found, MESH, V5P)
    assert priced.compiled == pytest.approx(8e-3, rel=1e-3)
    ((key, traffic),) = priced.collectives.items()
    assert key == ("all-gather", "fsdp", False)
    assert traffic.nbytes == 2 * size
    # In the capped reading the product takes no longer than its HBM traffic.
    assert traffic.exposed == pytest.approx(8e-3 - priced.vector, rel=1e-3)
    assert priced.vector < 1e-4


def test_a_gather_that_goes_on_over_several_fusions_is_counted_once():
    """8 ms on the wire, begun with the first of three fusions of 2 ms."""
    cycles = round(2e-3 * V5P.chip.clock)
    size = round(8e-3 * 6 * V5P.chip.link_bandwidth / 2 * 64 / 63 / 64) * 64
    shard, whole = f"bf16[{size // 64}]{{0}}", f"bf16[{size}]{{0}}"
    gather = (
        "all-gather(%p), channel_id=7, replica_groups=[1,64]<=[64], dimensions={0}, "
        'frontend_attributes={chain_id="3"}'
    )
    steps = [
        f"%step_{number} (p: {shard}) -> {whole} {{\n"
        f"  %p = {shard} parameter(0)\n"
        f"  ROOT %g = {whole} {gather}\n}}"
        for number in range(3)
    ]
    found = program(
        f"%a = {shard} parameter(0)\n"
        + "\n".join(
            f"{'ROOT ' if number == 2 else ''}%f{number} = {whole} fusion(%a), "
            f"kind=kOutput, calls=%step_{number}, "
            f'backend_config={{"estimated_cycles":"{cycles}"}}'
            for number in range(3)
        ),
        *steps,
    )
    priced = cost.price(found, MESH, V5P)
    ((key, traffic),) = priced.collectives.items()
    assert key == ("all-gather", "fsdp", False)
    assert (traffic.count, traffic.nbytes) == (1, 2 * size)
    # It began when the first fusion had computed.
    assert priced.compiled == pytest.approx(2e-3 + 8e-3, rel=1e-3)
    # Two more computed while it was on its way.
    hidden = priced.vector * 2 / 3
    assert traffic.exposed == pytest.approx(8e-3 - hidden, rel=1e-3)


@pytest.mark.parametrize(
    ("groups", "axes"),
    [
        ("replica_groups={{0,1},{2,3},{4,5},{6,7}}", "tensor"),
        ("replica_groups=[2,4]<=[2,4]", "fsdp+tensor"),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", "slice"),
        ("replica_groups=mesh['a'=2,'b'=2,'c'=2] {'b'}", "fsdp"),
        (
            "replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}",
            "fsdp+tensor",
        ),
        (
            "replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}",
            "slice",
        ),
        ("source_target_pairs={{0,1},{1,0},{2,3},{3,2}}", "tensor"),
        ("replica_groups={}", "slice+fsdp+tensor"),
    ],
)
def test_axes_of_communication(groups: str, axes: str):
    found = program(f"ROOT %r = f32[8]{{0}} all-reduce(), {groups}, channel_id=1")
    members = collectives.groups(found.computations["main"].root, 8)
    assert collectives.differing(members, {"slice": 2, "fsdp": 2, "tensor": 2}) == axes


def test_a_sum_that_keeps_one_shard_is_a_reduce_scatter():
    """Libtpu writes it as a fusion of an all-reduce and a slice."""
    sizes = "bf16[64,4096]{1,0}", "bf16[1,4096]{1,0}"
    found = program(
        f"%a = {sizes[0]} parameter(0)\n"
        f"ROOT %f = {sizes[1]} fusion(%a), kind=kCustom, calls=%all-reduce-scatter.1",
        f"%all-reduce-scatter.1 (p: {sizes[0]}) -> {sizes[1]} {{\n"
        f"  %p = {sizes[0]} parameter(0)\n"
        f"  %r = {sizes[0]} all-reduce(%p), replica_groups=[1,64]<=[64]\n"
        "  %z = s32[] constant(0)\n"
        f"  ROOT %s = {sizes[1]} dynamic-slice(%r, %z, %z), "
        "dynamic_slice_sizes={1,4096}\n}",
    )
    ((key, traffic),) = cost.price(found, MESH, V5P).collectives.items()
    assert key == ("reduce-scatter", "fsdp", False)
    assert traffic.wire == 2 * 4096 * 63


def test_all_that_a_fusion_carries_is_counted():
    """Two gathers of 512 KiB, one after the other."""
    shard, whole = "bf16[4096]{0}", "bf16[262144]{0}"
    gather = "all-gather(%p), replica_groups=[1,64]<=[64], dimensions={0}"
    found = program(
        f"%a = {shard} parameter(0)\n"
        f"ROOT %f = {whole} fusion(%a), kind=kCustom, calls=%both",
        f"%both (p: {shard}) -> {whole} {{\n"
        f"  %p = {shard} parameter(0)\n"
        f"  %g = {whole} {gather}\n"
        f"  ROOT %h = {whole} {gather}\n}}",
    )
    priced = cost.price(found, MESH, V5P)
    ((_, traffic),) = priced.collectives.items()
    assert (traffic.count, traffic.nbytes) == (2, 2 * 2 * 262144)
    assert priced.compiled == pytest.approx(traffic.seconds)


def test_what_is_called_twice_is_as_dear_as_both_calls():
    found = program(
        "%a = f32[8]{0} parameter(0)\n"
        "%x = f32[8]{0} call(%a), to_apply=%f\n"
        "ROOT %y = f32[8]{0} call(%x), to_apply=%f",
        "%f (p: f32[8]) -> f32[8] {\n"
        "  %p = f32[8]{0} parameter(0)\n"
        '  ROOT %n = f32[8]{0} negate(%p), backend_config={"estimated_cycles":"1"}\n}',
    )
    priced = cost.price(found, MESH, V5P)
    assert priced.top["n"][0] == priced.capped > 0


def test_what_slices_send_each_other_goes_over_their_network():
    """8 ms on the network, of which a product of 4 ms hides half."""
    slices = topology.parse("v5p:4x4x4", 2)
    size = round(8e-3 * V5P.chip.network_bandwidth / 4)
    cycles = round(4e-3 * V5P.chip.clock)
    transfer = (
        "is_host_transfer=true, frontend_attributes={"
        '_xla_host_transfer_handler_name="xla_megascale_runtime",'
        '_xla_host_transfer_rendezvous="all-reduce.92_0",'
        '_xla_megascale_transfer_type="ALL_REDUCE"}'
    )
    array = f"f32[{size}]{{0}}"
    found = program(
        f"%a = {array} parameter(0)\n"
        "%t = token[] after-all()\n"
        f"%s = ({array}, u32[], token[]) send(%a, %t), channel_id=1, {transfer}\n"
        f"%r = ({array}, u32[], token[]) recv(%t), channel_id=2, {transfer}\n"
        f"%n = f32[8]{{0}} negate(%a), "
        f'backend_config={{"estimated_cycles":"{cycles}"}}\n'
        f"ROOT %d = ({array}, token[]) recv-done(%r), channel_id=2, "
        "is_host_transfer=true"
    )
    mesh = MESH | {"slice": 2}
    priced = cost.price(found, mesh, slices)
    ((key, traffic),) = priced.collectives.items()
    assert key == ("all-reduce", "slice", True)
    assert traffic.wire == 4 * size  # twice half of it
    assert priced.compiled == pytest.approx(8e-3, rel=1e-3)
    assert list(lint._host_calls(found)) == []


@pytest.mark.parametrize(
    ("kind", "sent"),
    [("ALL_REDUCE", 1.5), ("ALL_GATHER", 3), ("ALL_TO_ALL", 0.75), ("ONE_TO_ONE", 1)],
)
def test_bytes_between_four_slices(kind: str, sent: float):
    found = program(
        "%a = f32[256]{0} parameter(0)\n"
        "%t = token[] after-all()\n"
        "ROOT %s = (f32[256]{0}, u32[], token[]) send(%a, %t), channel_id=1, "
        f'frontend_attributes={{_xla_megascale_transfer_type="{kind}"}}'
    )
    main = found.computations["main"]
    crossing = collectives.crossing(main, main.root, topology.parse("v5e:2x2", 4))
    assert crossing is not None
    assert crossing.wire == sent * 1024


def test_strategies_name_their_links():
    text = "ROOT %r = f32[8]{{0}} all-reduce(), {}"
    for strategy, links in (
        ('"strategy":"UniDirectionNDRingStrategy","debug":"colors:6"', 6),
        ('"strategy":"UniDirection1DRingStrategy","debug":"colors:2"', 2),
        ('"strategy":"StrategyND","debug":"colors:3"', 6),
        ('"strategy":"StrategyRing","debug":"colors:1"', 2),
    ):
        found = program(text.format(strategy)).computations["main"].root
        assert collectives.links(found, V5P) == links


def test_the_text_of_a_program_is_small():
    assert Path(LAYERS).stat().st_size < 64 * 2**10
