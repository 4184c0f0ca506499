"""Chameleon-7B, stage I of the discrete-only baseline for UniToken-7B.

What: the captions of UniToken's stage I, read from codes alone. Where UniToken trains
adapter and image tower, the baseline has nothing but the decoder to train, which
starts from Lumina-mGPT-7B-512 as well and learns at stage II's rate of 1e-5.

Paper or released: the released code has no recipe of this baseline. It is UniToken's
with the continuous half left out, see `configs/common.py`.

Hardware: a TPU v5p-128 slice (64 chips); the words `v5e_256`, `v6e_256` and `any`
behind the file's name and a colon choose others. Predicted, not measured, ±10 %
(docs/plan.md): the step of stage II; 0.46 s a step, 3 hours, 18 GiB a chip on v5p-128;
0.24 to 0.30 s, 1.3 to 1.6 hours, 4 GiB on v5e-256; 0.07 to 0.12 s, 0.4 to 0.7 hours, 4
GiB on v6e-256, for which nothing is calibrated. On 8 GPUs of 80 GB as in the scripts:
`:any --config.train.microbatches=8`.

    python -m unitoken_jax.train --config configs/chameleon_7b_stage1.py \
        --workdir runs/chameleon_7b
"""

from ml_collections import ConfigDict

from configs import common


def get_config(hardware: str = "v5p_128") -> ConfigDict:
    """Return the job for v5p_128, v5e_256, v6e_256 or any."""
    return common.job(
        "stage1",
        data_dir="data/prepared/unitoken_stage1",
        samples=2_515_000,
        model=common.CHAMELEON,
        data=common.discrete_rows(caption=1.0, question=0.0, draw=0.0),
        learning_rate=1e-5,
        groups=common.CHAMELEON_GROUPS,
        init={"decoder": "weights/lumina-mgpt-7b-512"},
        hardware=hardware,
        row_axis="tensor",
    )
