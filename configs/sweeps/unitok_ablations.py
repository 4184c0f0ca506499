r"""What makes UniTok's tokenizer (arXiv 2502.20321, Tables 4 to 6), in miniature.

What: `unitok_pictures` at 32 px, each variant one field from the first: the quantizer
(several codebooks on slices of the channels, one, or several on what the earlier ones
left), the projection, how 2,048 codes are divided, what supervises, and a start from a
tower that was trained on captions alone. Same steps and two seeds each.

Hardware: one CPU core. Time: about 3 minutes for a point, 50 minutes in all; the second
seed of a variant finds its programs compiled.

    python -m launch.sweep --config configs/sweeps/unitok_ablations.py \
        --workdir runs/unitok_ablations
"""

from ml_collections import ConfigDict

_MODEL = "stages.tokenizer.model"


def variant(label: str, *fields: str, word: str = "ablation") -> dict:
    """A variant by fields of the model, or by another word for the config."""
    return {
        "label": label,
        "config": f"configs/unitok_pictures.py:{word}",
        "set": tuple(f"{_MODEL}.{field}" for field in fields),
    }


VARIANTS = (
    variant("multi 8x256"),
    variant("multi 4x512", "num_codebooks=4"),
    variant("multi 2x1024", "num_codebooks=2"),
    variant("single 1x2048", "num_codebooks=1"),
    variant("residual 8x256", "structure=residual"),
    variant("linear projection", "projection=linear"),
    variant(
        "reconstruction",
        "objective.supervision=reconstruction",
        "objective.contrastive=0",
    ),
    variant("contrastive", "objective.supervision=contrastive"),
    variant("CLIP start", word="clip"),
)


def get_config() -> ConfigDict:
    """Return the sweep."""
    return ConfigDict(
        {
            "name": "unitok_ablations",
            "title": "UniTok's tokenizer: what each part gives",
            "config": "configs/unitok_pictures.py:ablation",
            "axes": ({"name": "variant", "values": VARIANTS},),
            "seeds": (1, 2),
            "seed_fields": ("stages.tokenizer.seed",),
            "page": {
                "x": "retrieval/image_to_text/recall@5",
                "y": "reconstruction/psnr",
                "measures": (
                    "reconstruction/ssim",
                    "reconstruction/code_usage",
                    "reconstruction/code_perplexity",
                    "retrieval/text_to_image/recall@5",
                    "retrieval/image_to_text/recall@1",
                ),
                "curves": ("tokenizer/psnr", "tokenizer/contrastive"),
                "ordered": False,
                "collapse": "reconstruction/code_usage",
            },
        }
    )
