"""Chameleon-34B on the data of the discrete-only baseline's stage II.

What: `configs/chameleon_7b_stage2.py` with the larger of the two published decoders
(norms after attention and MLP, eight key heads). Neither paper trains it on this data;
Lumina-mGPT's 34B is the start. It shows what a larger decoder takes.

Paper or released: as `configs/chameleon_7b_stage1.py` says.

Hardware: a TPU v5p-128 slice (64 chips); the words `v5e_256`, `v6e_256` and `any`
behind the file's name and a colon choose others. Predicted, not measured, ±10 %
(docs/plan.md): 2.18 to 2.37 s a step, 95 to 103 hours, 62 GiB a chip on v5p-128; 1.21
to 1.59 s, 52 to 69 hours, 12 GiB on v5e-256; 0.32 to 0.69 s, 14 to 30 hours, 12 GiB on
v6e-256, for which nothing is calibrated.

    python -m unitoken_jax.train --config configs/chameleon_34b_stage2.py \
        --workdir runs/chameleon_34b
"""

from ml_collections import ConfigDict

from configs import common

SHAPE = {  # `models.decoder.CHAMELEON_34B`
    "hidden": 8192,
    "intermediate": 22_016,
    "layers": 48,
    "heads": 64,
    "kv_heads": 8,
    "model_parallel_size": 4,
    "swin_norm": True,
}


def get_config(hardware: str = "v5p_128") -> ConfigDict:
    """Return the job for v5p_128, v5e_256, v6e_256 or any."""
    return common.job(
        "stage2",
        data_dir="data/prepared/unitoken_stage2",
        samples=20_000_000,
        model={**common.CHAMELEON, "decoder": common.DECODER | SHAPE},
        data=common.discrete_rows(caption=0.04, question=0.96, draw=1.0),
        learning_rate=1e-5,
        groups=common.CHAMELEON_GROUPS,
        init={"decoder": "weights/lumina-mgpt-34b-512:decoder"},
        hardware=hardware,
        row_axis="tensor",
    )
