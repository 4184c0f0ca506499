"""Llama-2-7B's shape on packed rows of text: what other trainers are compared by.

What: our decoder without QK-norm, images and dropout, 4,096 tokens a row and 16,384 a
chip, every parameter learning. There is no data set behind it; it is to be planned:

    python -m unitoken_jax.plan --config configs/llama_2_7b.py --topology v5p:4x4x4

Hardware: a TPU v5p-128 slice (64 chips). MaxText's own step at this setting, compiled
and priced alike, is predicted at 2.59 s (roofline-capped) with its script's compiler
options, which are those here, and at 2.03 s with 64 MiB of scoped VMEM as well
(`--config.tpu_options.xla_tpu_scoped_vmem_limit_kib=65536`); docs/plan.md has ours.
"""

from ml_collections import ConfigDict

from configs import common

OPTIONS = {  # MaxText's llama2_7b.sh has these two beside those of all recipes
    "xla_tpu_enable_data_parallel_all_reduce_opt": True,
    "xla_tpu_data_parallel_opt_different_sized_ops": True,
}
ROWS = 256  # of a step
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
        samples=1_000_000,
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
    fields |= common.spread(hardware, ROWS)
    fields["tpu_options"] = fields["tpu_options"] | OPTIONS
    return ConfigDict(fields)
