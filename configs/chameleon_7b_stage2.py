"""Chameleon-7B, stage II of the discrete-only baseline for UniToken-7B.

What: the data of UniToken's stage II with pictures as codes alone, reading and drawing
one to one, at its rate of 1e-5. Starts from stage I of the same directory.

Paper or released: as `configs/chameleon_7b_stage1.py` says.

Hardware: a TPU v5p-128 slice (64 chips); the words `v5e_256`, `v6e_256` and `any`
behind the file's name and a colon choose others. Predicted, not measured, ±10 %
(docs/plan.md): 0.46 s a step, 20 hours, 18 GiB a chip on v5p-128; 0.24 to 0.30 s, 10 to
13 hours, 4 GiB on v5e-256; 0.07 to 0.12 s, 3 to 5 hours, 4 GiB on v6e-256, for which
nothing is calibrated. On 8 GPUs of 80 GB as in the scripts:
`:any --config.train.microbatches=8`.

    python -m unitoken_jax.train --config configs/chameleon_7b_stage2.py \
        --workdir runs/chameleon_7b
"""

from ml_collections import ConfigDict

from configs import common


def get_config(hardware: str = "v5p_128") -> ConfigDict:
    """Return the job for v5p_128, v5e_256, v6e_256 or any."""
    return common.job(
        "stage2",
        data_dir="data/prepared/unitoken_stage2",
        samples=20_000_000,
        model=common.CHAMELEON,
        data=common.discrete_rows(caption=0.04, question=0.96, draw=1.0),
        learning_rate=1e-5,
        groups=common.CHAMELEON_GROUPS,
        init={"decoder": "runs/chameleon_7b/stage1:decoder"},
        hardware=hardware,
        row_axis="tensor",
    )
