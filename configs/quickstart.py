r"""UniToken in miniature (arXiv 2504.04423), from pixels to pictures and answers.

What: the paper's path on the embedded pictures at 64 px. As in the paper it starts from
trained parts, a VQGAN tokenizer and a small SigLIP, which configs/pretrain_pictures.py
has trained and data/weights holds; a few steps more are shown. A small Chameleon learns
text and codes (the stand-in for Lumina-mGPT), then come UniToken's stage I (decoder
frozen) and stage II (everything, understanding : generation = 1 : 1). The modules are
those of the published sizes. `configs/quickstart.py:scratch` trains all parts itself,
for a tokenizer and a SigLIP that know less.

Hardware: 2 CPU cores, 6 GiB of memory. Time: about 15 minutes.

    python -m data_pipelines.prepare --input data/pictures.zip \
        --output data/prepared/pictures
    python -m unitoken_jax.train --config configs/quickstart.py \
        --workdir runs/quickstart
"""

from ml_collections import ConfigDict

IMAGE = 64  # side of a picture, pixels
PATCH = 16  # side of a patch of the continuous encoder, pixels
STRIDE = 8  # pixels along one side of a code
CODES = 512  # as in data_pipelines.prepare
VOCABULARY = 2560  # likewise

TOKENIZER = {
    "kind": "vqgan",
    "resolution": IMAGE,
    "ch": 16,
    "ch_mult": (1, 2, 4, 8),
    "num_res_blocks": 1,
    "attn_resolutions": (),
    "z_channels": 64,
    "embed_dim": 8,
    "n_embed": CODES,
    "num_groups": 8,
    "l2_weight": 1.0,
    "codebook_init": "normal",
    "codebook_scale": 0.3,
    "residual_init": "zero",
    "quantization_weight": 0.025,
    "revival_weight": 0.025,
}
VISION = {
    "hidden": 192,
    "mlp": 768,
    "layers": 4,
    "heads": 4,
    "image": IMAGE,
    "patch": PATCH,
}
DECODER = {
    "vocab_size": VOCABULARY,
    "hidden": 256,
    "intermediate": 704,
    "layers": 4,
    "heads": 4,
    "kv_heads": 4,
    "head_dim": 64,
    "remat": "minimal",
}
UNITOKEN = {
    "kind": "unitoken",
    "decoder": DECODER,
    "vision": VISION | {"head": False},
    "first_image_code": 4,
    "last_image_code": 4 + CODES - 1,
    "loss_chunk": 1280,
}
ROWS = {
    "kind": "sequences",
    "image_size": IMAGE,
    "row_length": 352,
    "row_views": 4,
    "views": {"size": IMAGE, "patch": PATCH},
    "layout": {"code_stride": STRIDE, "continuous_in_generation": False},
}
NO_DECAY = ".*(scale|bias)"
KERNELS = ".*/layers/.*/kernel"  # of the layers, not of what stands before and behind
BY_MUON = {
    "kernels": {"pattern": KERNELS, "rule": "muon"},
    "others": {"pattern": ".*", "exclude": KERNELS},
}


def tokenizer() -> dict:
    """VQGAN with L1, L2 and codebook losses."""
    return {
        "seed": 1,
        "model": TOKENIZER,
        "data": {"kind": "images", "image_size": IMAGE, "augment": {"flip": 0.5}},
        "optimizer": {
            "learning_rate": 3e-3,
            "warmup": 50,
            "end_scale": 0.02,
            "groups": {
                "kernels": {"pattern": ".*/kernel", "rule": "muon"},
                "codebook": {"pattern": "codebook"},
                "others": {"pattern": ".*", "exclude": ".*/kernel|codebook"},
            },
        },
        "train": {"steps": 800, "batch": 8, "log_every": 20, "image_every": 400},
        "checkpoint": {"every": 400},
    }


def siglip() -> dict:
    """Image and text tower with the sigmoid loss on pictures and captions."""
    text = {
        "vocab_size": VOCABULARY,
        "length": 16,
        "hidden": 192,
        "mlp": 768,
        "layers": 3,
        "heads": 4,
        "mask_padding": True,
    }
    return {
        "seed": 2,
        "model": {"kind": "siglip", "vision": VISION, "text": text, "embed": 192},
        "data": {"kind": "pairs", "image_size": IMAGE, "text_length": 16},
        "optimizer": {
            "learning_rate": 3e-3,
            "warmup": 50,
            "weight_decay": 0.05,
            "no_decay": NO_DECAY,
            "groups": BY_MUON,
        },
        "train": {"steps": 400, "batch": 64, "log_every": 20},
        "checkpoint": {"every": 160},
    }


def base() -> dict:
    """The decoder on text and discrete codes only."""
    layout = ROWS["layout"] | {"encoding": "discrete"}
    return {
        "seed": 3,
        "model": UNITOKEN | {"vision": None},
        "codes": {"stage": "tokenizer"},
        "data": {k: v for k, v in ROWS.items() if k != "views"} | {"layout": layout},
        "optimizer": {
            "learning_rate": 3e-3,
            "warmup": 50,
            "weight_decay": 0.1,
            "no_decay": NO_DECAY,
            "groups": BY_MUON,
        },
        "train": {"steps": 200, "batch": 8, "log_every": 20},
        "checkpoint": {"every": 100},
    }


def stage1() -> dict:
    """Stage I: the decoder is frozen, image tower and adapter learn to be read."""
    return {
        "seed": 4,
        "model": UNITOKEN,
        "init": {"decoder": "base:decoder", "vision": "siglip:vision"},
        "codes": {"stage": "tokenizer"},
        "data": ROWS | {"mixture": {"caption": 1.0, "question": 0.0, "draw": 0.0}},
        "optimizer": {
            "learning_rate": 1e-3,
            "warmup": 10,
            "weight_decay": 0.1,
            "no_decay": NO_DECAY,
            "groups": {
                "decoder": {"pattern": "decoder/.*", "frozen": True},
                "vision": {"pattern": "vision/.*", "lr_scale": 0.1},
                "adapter": {"pattern": "adapter/.*"},
            },
        },
        "train": {"steps": 100, "batch": 8},
        "checkpoint": {"every": 100},
    }


def stage2() -> dict:
    """Stage II: everything learns, understanding and generation one to one."""
    return {
        "seed": 5,
        "model": UNITOKEN,
        "init": {
            "decoder": "stage1:decoder",
            "vision": "stage1:vision",
            "adapter": "stage1:adapter",
        },
        "codes": {"stage": "tokenizer"},
        "data": ROWS | {"mixture": {"caption": 0.5, "question": 0.5, "draw": 1.0}},
        "optimizer": {
            "learning_rate": 3e-3,
            "warmup": 20,
            "weight_decay": 0.1,
            "no_decay": NO_DECAY,
            "groups": {
                "kernels": {"pattern": f"decoder{KERNELS}", "rule": "muon"},
                "rest": {"pattern": "(decoder|adapter)/.*", "exclude": KERNELS},
                "vision": {"pattern": "vision/.*", "lr_scale": 0.03},
            },
        },
        "train": {"steps": 320, "batch": 8},
        "checkpoint": {"every": 160},
    }


def shipped(stage: dict, weights: str, steps: int, rate: float) -> dict:
    """Return a stage that starts from weights of its whole model, for few steps."""
    stage["init"] = {"all": f"data/weights/{weights}.safetensors"}
    stage["optimizer"] |= {"learning_rate": rate, "warmup": 10}
    stage["train"] |= {"steps": steps}
    stage["checkpoint"] = {"every": steps}
    return stage


def get_config(start: str = "weights") -> ConfigDict:
    """Return the chain of five stages, from 'weights' or from 'scratch'."""
    if start not in ("weights", "scratch"):
        raise ValueError(f"{start!r} is neither 'weights' nor 'scratch'.")
    parts = {"tokenizer": tokenizer(), "siglip": siglip()}
    if start == "weights":
        parts = {
            "tokenizer": shipped(parts["tokenizer"], "tokenizer", 60, 3e-4),
            "siglip": shipped(parts["siglip"], "siglip", 40, 3e-4),
        }
    return ConfigDict(
        {
            "name": "quickstart",
            "data_dir": "data/prepared/pictures",
            "order": ("tokenizer", "siglip", "base", "stage1", "stage2"),
            "stages": {
                **parts,
                "base": base(),
                "stage1": stage1(),
                "stage2": stage2(),
            },
        }
    )
