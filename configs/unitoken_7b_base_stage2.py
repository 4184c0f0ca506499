"""UniToken-7B base, stage II (arXiv 2504.04423, Table 2): reading and drawing.

What: everything learns at 1e-5 from 10M samples to read (4 % of them captions) and 10M
pictures to draw, one to one. Starts from stage I of the same directory.

Paper or released: `configs/common.py` says which numbers are whose. The paper has 10M
samples to read, the released lists about 8.1M, and the released script of this stage
names the data of stage I by mistake.

Hardware: a TPU v5p-128 slice (64 chips); the words `v5e_256`, `v6e_256` and `any`
behind the file's name and a colon choose others. Predicted, not measured, ±10 %
(docs/plan.md): 0.66 s a step, 29 hours, 23 GiB a chip on v5p-128; 0.34 to 0.42 s, 15 to
18 hours, 6 GiB on v5e-256; 0.10 to 0.18 s, 5 to 8 hours, 6 GiB on v6e-256, for which
nothing is calibrated. On 8 GPUs of 80 GB as in the scripts:
`:any --config.train.microbatches=8`.

    python -m unitoken_jax.train --config configs/unitoken_7b_base_stage2.py \
        --workdir runs/unitoken_7b_base
"""

from ml_collections import ConfigDict

from configs import common


def get_config(hardware: str = "v5p_128") -> ConfigDict:
    """Return the job for v5p_128, v5e_256, v6e_256 or any."""
    before = "runs/unitoken_7b_base/stage1"
    return common.job(
        "stage2",
        data_dir="data/prepared/unitoken_stage2",
        samples=20_000_000,
        model=common.UNITOKEN,
        data=common.base_rows(caption=0.04, question=0.96, draw=1.0),
        learning_rate=1e-5,
        groups=common.STAGE2_GROUPS,
        init={part: f"{before}:{part}" for part in common.PARTS},
        hardware=hardware,
        row_axis="tensor",
    )
