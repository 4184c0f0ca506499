r"""UniTok's tokenizer as published (arXiv 2502.20321, Tables 1 and 2; released code).

What: ViTamin-L encoder and decoder, 8 codebooks of 4,096 codes, CLIP's text tower, all
from scratch on 1.28 billion pairs of DataComp-1B, one pass in batches of 16,384. Loss
0.2·L1 + L2 + LPIPS + VQ + CLIP, and from 37.5 % of the steps on a DINOv2 discriminator.
Numbers are those of the released scripts where the paper gives none. Reported: rFID
0.41 and 70.8 % zero-shot on ImageNet.

Hardware: a TPU v5p-128 slice (64 chips), 256 pictures a chip in chunks of eight
(published: 256 A100 for about 50 hours); the words `v5e_256`, `v6e_256` and `any`
behind the file's name and a colon choose others. Predicted, not measured, ±10 %
(docs/plan.md): 3.41 to 4.50 s a step, 74 to 98 hours, 55 GiB a chip on v5p-128; 1.93 to
2.63 s, 42 to 57 hours, 13 GiB on v5e-256; 0.61 to 1.32 s, 13 to 29 hours, 20 GiB on
v6e-256, for which nothing is calibrated. Parameters, gradients and both moments of 820
million parameters lie divided over sixteen chips, or 32 of v5e.

LPIPS, DINOv2 (both of FoundationVision/unitok_external) and CLIP's tokenizer are files:

    python -m unitoken_jax.train --config configs/unitok_vitamin_l.py \
        --workdir MOUNT/unitok_vitamin_l --config.data_dir=DATACOMP \
        --config.frozen_models.perceptual.path=lpips_with_vgg.pth \
        --config.frozen_models.backbone.path=dinov2_vits14_pretrain.pth \
        --config.data.clip_tokenizer=bpe_simple_vocab_16e6.txt.gz

MOUNT is a folder that every host shares, such as a bucket mounted with gcsfuse
(docs/launch.md): addresses like gs:// are refused.

The start from a CLIP (reported: 78.6 %) is `--config.init.encoder=CLIP:encoder
--config.init.text=CLIP:text`. CLIP is a ViTamin-L-256 of open_clip that was converted
with `--from vitamin-clip --to jax` (docs/convert.md), or the workdir's stage of a run
of this config with `--config.model.objective.supervision=contrastive
--config.discriminator=None --config.frozen_models=None`.
"""

from ml_collections import ConfigDict

from configs import common

SAMPLES = 1_280_000_000
BATCH = 16_384
STEPS = SAMPLES // BATCH + 3  # rounded up to a multiple of the loader's 8 workers
TOGETHER = 8  # pictures of a chip that pass through convolutions at a time
# Without those that fuse gathers into products: kernels of convolutions are small, and
# with fused gathers the compiler's search for their windows had not ended after eleven
# minutes of CPU time.
TPU_OPTIONS = {
    name: value
    for name, value in common.TPU_OPTIONS.items()
    if "collective_fusion" not in name
}
ROOMY = ("v5p_128", "v6e_256")  # whose chips can keep what attention gives
NO_DECAY = ".*(scale|bias)"


def get_config(hardware: str = "v5p_128") -> ConfigDict:
    """Return the one stage for v5p_128, v5e_256, v6e_256 or any."""
    remat = "attention" if hardware in ROOMY else "full"
    compute = {"dtype": "bfloat16", "remat": remat}
    chips = common.CHIPS.get(hardware, common.CHIPS["v5p_128"])
    chunks = BATCH // (chips * TOGETHER)
    vision = compute | {"chunks": chunks}
    backbone = dict(compute)
    return ConfigDict(
        {
            "name": "unitok_vitamin_l",
            "seed": 0,
            "data_dir": "data/prepared/datacomp",
            "finish": False,
            "model": {
                "kind": "unitok",
                "vision": vision,
                "text": dict(compute),
                "objective": {"perceptual_chunks": chunks},
            },
            "data": {
                "kind": "pairs",
                "image_size": 256,
                "text_length": 77,
                "clip_tokenizer": "data/clip/bpe_simple_vocab_16e6.txt.gz",
                "augment": {"crop": 0.9},
                "threads": 16,
                "prefetch": 16,
                "cache_mib": 0,
                "bad_limit": 1_000_000,
            },
            "frozen_models": {
                "perceptual": {
                    "format": "lpips",
                    "path": "data/perceptual/lpips_with_vgg.pth",
                },
                "backbone": {
                    "format": "dinov2",
                    "path": "data/perceptual/dinov2_vits14_pretrain.pth",
                },
            },
            "optimizer": {
                "learning_rate": 5e-4,
                "warmup": STEPS // 100,
                "end_scale": 0.1,
                "b1": 0.9,
                "b2": 0.95,
                "eps": 1e-6,
                "weight_decay": 0.02,
                "no_decay": NO_DECAY,
                "clip": 10.0,
                "groups": {
                    "all": {"pattern": ".*", "exclude": "quantizer/usage"},
                    "usage": {"pattern": "quantizer/usage", "frozen": True},
                },
            },
            "discriminator": {
                "network": {"backbone": backbone, "dtype": "bfloat16"},
                "optimizer": {
                    "learning_rate": 2e-5,
                    "warmup": STEPS * 3 // 100,
                    "end_scale": 0.1,
                    "b1": 0.5,
                    "b2": 0.9,
                    "eps": 1e-6,
                    "weight_decay": 0.2,
                    "no_decay": NO_DECAY,
                    "clip": 10.0,
                },
            },
            "train": {"steps": STEPS, "batch": BATCH, "log_every": 50},
            "checkpoint": {"every": 1000, "keep": 2},
            **common.parallelism(hardware, BATCH),
            "tpu_options": TPU_OPTIONS,
        }
    )
