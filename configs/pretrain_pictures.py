r"""The small parts that UniToken's stages start from, trained for hours.

What: image tokenizer and SigLIP of the quickstart. The tokenizer's encoder and decoder
begin alone; then a codebook is fitted to their latents and they go on with codes.
Kernels are trained by Muon: in 400 steps without codes the tokenizer reaches 20.5 dB
where AdamW reaches 16.3, in 200 steps SigLIP finds 47 % of a batch's captions instead
of 29 %. Committing to codes has a small weight: with the published one the latents of
so small a network collapse into a plane.

Hardware: 2 CPU cores, 3 GiB of memory. Time: about an hour.

    python -m data_pipelines.prepare --input data/pictures.zip \
        --output data/prepared/pictures
    python -m unitoken_jax.train --config configs/pretrain_pictures.py \
        --workdir runs/pretrain_pictures --stage start
    python -m unitoken_jax.train.codebook --input runs/pretrain_pictures/start \
        --data data/prepared/pictures --output runs/pretrain_pictures/start.safetensors
    python -m unitoken_jax.train --config configs/pretrain_pictures.py \
        --workdir runs/pretrain_pictures

which is `make pretrain`.
"""

from ml_collections import ConfigDict

from configs import quickstart


def tokenizer(seed: int, steps: int, rate: float) -> dict:
    """Encoder, decoder and codebook on images, as the quickstart has them."""
    stage = quickstart.tokenizer()
    stage["seed"] = seed
    stage["optimizer"]["learning_rate"] = rate
    stage["train"] |= {"steps": steps, "image_every": 500}
    stage["checkpoint"] = {"every": 250}
    return stage


def siglip() -> dict:
    """Image and text tower, for longer and on more changes of the images."""
    stage = quickstart.siglip()
    augment = {"flip": 0.5, "background": 0.3}
    stage["data"] |= {"augment": augment, "threads": 2, "prefetch": 4}
    stage["optimizer"]["weight_decay"] = 0.1
    stage["train"] |= {"steps": 1500}
    return stage


def get_config() -> ConfigDict:
    """Return the chain."""
    start = tokenizer(1, 500, 5e-3)
    start["model"] = quickstart.TOKENIZER | {"quantizes": False}
    fitted = "runs/pretrain_pictures/start.safetensors"
    codes = tokenizer(2, 3000, 3e-3) | {"init": {"all": fitted}}
    return ConfigDict(
        {
            "name": "pretrain_pictures",
            "data_dir": "data/prepared/pictures",
            "order": ("start", "tokenizer", "siglip"),
            "stages": {"start": start, "tokenizer": codes, "siglip": siglip()},
        }
    )
