"""UniToken-7B base, stage III (technical report): instructions of high quality.

What: everything learns at 1e-5 from 423K dialogues and 100K pictures to draw. Starts
from stage II of the same directory.

Paper or released: the technical report says "as stage II" and gives the numbers of
samples; neither script nor weights of this stage are released, so that all else is
stage II's, see `configs/common.py`.

Hardware: a TPU v5p-128 slice (64 chips); the words `v5e_256`, `v6e_256` and `any`
behind the file's name and a colon choose others. Predicted, not measured, ±10 %
(docs/plan.md): the step of stage II; 0.66 s a step, 0.8 hours, 23 GiB a chip on
v5p-128; 0.34 to 0.42 s, 0.4 to 0.5 hours, 6 GiB on v5e-256; 0.10 to 0.18 s, 0.1 to 0.2
hours, 6 GiB on v6e-256, for which nothing is calibrated. On 8 GPUs of 80 GB as in the
scripts: `:any --config.train.microbatches=8`.

    python -m unitoken_jax.train --config configs/unitoken_7b_base_stage3.py \
        --workdir runs/unitoken_7b_base
"""

from ml_collections import ConfigDict

from configs import common


def get_config(hardware: str = "v5p_128") -> ConfigDict:
    """Return the job for v5p_128, v5e_256, v6e_256 or any."""
    before = "runs/unitoken_7b_base/stage2"
    return common.job(
        "stage3",
        data_dir="data/prepared/unitoken_stage3",
        samples=523_000,
        model=common.UNITOKEN,
        data=common.base_rows(caption=0.0, question=423.0, draw=100.0),
        learning_rate=1e-5,
        groups=common.STAGE2_GROUPS,
        init={part: f"{before}:{part}" for part in common.PARTS},
        hardware=hardware,
        row_axis="tensor",
    )
