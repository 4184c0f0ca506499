r"""Understanding against generation (arXiv 2504.04423, Tables 5 and 6), in miniature.

What: stage II of the quickstart with understanding : generation from 4:1 to 1:2, at two
scales of its data, for the dual, the discrete and the decoupled encoding, each with two
seeds. All share tokenizer, SigLIP and base; those of one encoding share stage I.

Hardware: one CPU core. Time: about 2 minutes for a point of the small scale, 4 of the
large one; `--only encoding=dual --only scale=small` is half an hour. A finished
quickstart gives the shared stages, otherwise they take a quarter of an hour more.

    python -m launch.sweep --config configs/sweeps/data_ratio.py \
        --workdir runs/data_ratio --reuse runs/quickstart

`data_ratio.py:brief` is for a first look: every stage is trained for a quarter to three
fifths of its steps, and measured on fewer pictures. A point of the small scale takes
about a minute and a half.
"""

from ml_collections import ConfigDict

RATIOS = ((4, 1), (2, 1), (3, 2), (1, 1), (2, 3), (1, 2))  # understanding, generation
SCALES = {"small": 100, "large": 300}  # steps of stage II
ENCODINGS = ("dual", "discrete", "decoupled")
_STAGE = "stages.stage2"
BRIEF_SCALES = {"small": 60, "large": 180}
BRIEF = (
    "stages.tokenizer.train.steps=30",
    "stages.base.train.steps=100",
    "evaluation.understanding.questions=50",
    "evaluation.generation.images=64",
    "evaluation.generation.captions=2",
    "evaluation.generation.drawings=2",
)


BRIEF_TOWER = ("stages.siglip.train.steps=20", "stages.stage1.train.steps=30")


def ratio(understanding: float, generation: float) -> dict:
    """Half of the understanding samples are captions, half are questions."""
    mixture = f"{_STAGE}.data.mixture"
    return {
        "label": f"{understanding}:{generation}",
        "set": (
            f"{mixture}.caption={understanding / 2}",
            f"{mixture}.question={understanding / 2}",
            f"{mixture}.draw={float(generation)}",
        ),
    }


def get_config(word: str = "") -> ConfigDict:
    """Return the sweep, or the 'brief' one."""
    if word not in ("", "brief"):
        raise ValueError(f"{word!r} is not 'brief', the only word there is.")
    scales = BRIEF_SCALES if word else SCALES
    return ConfigDict(
        {
            "name": "data_ratio",
            "title": "Understanding : generation in stage II",
            "config": "configs/quickstart_encodings.py:dual",
            "set": (
                f"{_STAGE}.train.batch=4",
                # What stage II does not change is not measured.
                "evaluation.reconstruction=None",
                "evaluation.retrieval=None",
                "evaluation.zero_shot=None",
                "evaluation.perception=None",
                "evaluation.understanding.kinds=('color', 'count', 'kind', 'yes_no')",
                "evaluation.understanding.questions=100",
                "evaluation.generation.images=96",
                "evaluation.generation.captions=4",
                "evaluation.generation.drawings=8",
                *(BRIEF if word else ()),
            ),
            "axes": (
                {
                    "name": "encoding",
                    "values": tuple(
                        {
                            "label": encoding,
                            "config": f"configs/quickstart_encodings.py:{encoding}",
                            "set": BRIEF_TOWER
                            if word and encoding != "discrete"
                            else (),
                        }
                        for encoding in ENCODINGS
                    ),
                },
                {
                    "name": "scale",
                    "values": tuple(
                        {"label": name, "set": (f"{_STAGE}.train.steps={steps}",)}
                        for name, steps in scales.items()
                    ),
                },
                {"name": "ratio", "values": tuple(ratio(*pair) for pair in RATIOS)},
            ),
            "seeds": (5, 6),
            "seed_fields": (f"{_STAGE}.seed",),
            "page": {
                # Bits move before accuracies do, and differ less between seeds.
                "x": "understanding/bits_per_answer/all",
                "y": "generation/bits_per_code",
                "others": (("understanding/accuracy/all", "generation/caption_rank"),),
                # The loss on text is not comparable: a drawn picture has ids besides
                # its codes, which count as text and are easy.
                "curves": ("stage2/image_loss",),
                "color": "ratio",
                "facet": "encoding",
            },
        }
    )
