"""UniToken-7B base, stage I (arXiv 2504.04423, Table 2): images become readable.

What: adapter (rate 1e-3) and SigLIP tower (1e-5) learn from 2.5M captions while the
decoder of Lumina-mGPT-7B-512 is frozen. The tower sees one squashed view of a picture
(base).

Paper or released: `configs/common.py` says which numbers are whose. The paper counts
1e-5 for the tower, the scripts a scale of 0.01; that is the same. It speaks of
Chameleon as the start in one place and of Lumina-mGPT in another; the scripts start
from the latter.

Hardware: a TPU v5p-128 slice (64 chips); the words `v5e_256`, `v6e_256` and `any`
behind the file's name and a colon choose others. Predicted, not measured, ±10 %
(docs/plan.md): 0.49 s a step, 3 hours, 18 GiB a chip on v5p-128; 0.25 to 0.32
s, 1.4 to 1.7 hours, 6 GiB on v5e-256; 0.08 to 0.14 s, 0.4 to 0.8 hours, 6 GiB on
v6e-256, for which nothing is calibrated. On 8 GPUs of 80 GB as in the scripts:
`:any --config.train.microbatches=4`.

    python -m unitoken_jax.convert --from lumina --to jax \
        --input Lumina-mGPT-7B-512 --output weights/lumina-mgpt-7b-512
    python -m unitoken_jax.convert --from siglip-hf --to jax \
        --input siglip-so400m-patch14-384 --output weights/siglip-so400m-patch14-384
    python -m unitoken_jax.train --config configs/unitoken_7b_base_stage1.py \
        --workdir runs/unitoken_7b_base
"""

from ml_collections import ConfigDict

from configs import common


def get_config(hardware: str = "v5p_128") -> ConfigDict:
    """Return the job for v5p_128, v5e_256, v6e_256 or any."""
    return common.job(
        "stage1",
        data_dir="data/prepared/unitoken_stage1",
        samples=2_515_000,
        model=common.UNITOKEN,
        data=common.base_rows(caption=1.0, question=0.0, draw=0.0),
        learning_rate=1e-3,
        groups=common.STAGE1_GROUPS,
        init={
            "decoder": "weights/lumina-mgpt-7b-512",
            "vision": "weights/siglip-so400m-patch14-384:vision",
        },
        hardware=hardware,
        row_axis="tensor",
    )
