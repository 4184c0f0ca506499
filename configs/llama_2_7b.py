"""Llama-2-7B's shape on packed rows of text: what other trainers are compared with.

What: our decoder without QK-norm, images and dropout, 4,096 tokens a row and 16,384 a
chip, every parameter learning. There is no data set behind it; it is to be planned:

    python -m unitoken_jax.plan --config configs/llama_2_7b.py --topology v5p:4x4x4

Hardware: a TPU v5p-128 slice (64 chips). Predicted, not measured (docs/plan.md),
roofline-capped: 2.41 s a step, MaxText's own step at this setting 2.59 s; with 64 MiB
of scoped VMEM (`--config.tpu_options.xla_tpu_scoped_vmem_limit_kib=65536`) 1.88 s
against 2.03 s.
"""

from ml_collections import ConfigDict

from configs import common

# With these the recipes' options become those of MaxText's llama2_7b.sh, which leaves
# scoped VMEM at libtpu's default.
OPTIONS = {
    "xla_tpu_enable_data_parallel_all_reduce_opt": True,
    "xla_tpu_data_parallel_opt_different_sized_ops": True,
    "xla_tpu_scoped_vmem_limit_kib": 16_384,
}
ROWS = 256  # of a step
STEPS = 1000  # to be priced
SHAPE = {
    "vocab_size": 32_000,
    "qk_norm": False,
    "dtype": "bfloat16",
    "remat": "minimal",
    "attention_block": 1024,
}


def get_config(hardware: str = "v5p_128") -> ConfigDict:
    """Return the job for v5p_128, v5e_256, v6e_256 or any."""
    config = common.job(
        "llama",
        data_dir="data/prepared/text",
        samples=STEPS * common.SAMPLES,
        model={"decoder": SHAPE, "vision": None},
        data=common.discrete_rows(caption=1.0),
        learning_rate=3e-4,
        groups=common.CHAMELEON_GROUPS,
        init={},
        hardware=hardware,
    )
    fields = config.to_dict()
    fields["model"]["z_loss"] = 0.0
    fields["data"]["row_length"] = 4096
    fields["train"]["batch"] = ROWS
    fields |= common.parallelism(hardware, ROWS)
    fields["tpu_options"] = fields["tpu_options"] | OPTIONS
    return ConfigDict(fields)
