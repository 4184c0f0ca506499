"""What the 7B recipes share (arXiv 2504.04423, Table 2, and the released scripts).

The paper gives learning rates, betas, the cosine, batches of 128 samples and one epoch.
Where it is silent the numbers are the scripts': warm-up of 0.01 epoch from 0, weight
decay 0.1 on every parameter, clipping at 4.0, residual dropout 0.05 (also while the
decoder is frozen), z-loss 1e-5, patch and position embeddings of the image tower
frozen, bfloat16 compute over float32 parameters. The tower's pooling head is never
used; it is frozen so that the decay leaves it alone, as in the scripts.

Rows are packed, and one holds two samples of the usual size: 64 rows are 128 samples.
Loss falls where the paper says; with `--config.data.layout.labels=released` it falls on
SEP as well, as in the released code. No prompt is dropped in training, so guidance
leads away from what Lumina-mGPT makes of a bare BOI, as in the released sampler, at the
paper's scale (5.0 on T2I-CompBench++; 5.5 on GenEval).
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

SAMPLES = 128  # of a step
ROWS = 64  # that hold them
GRIDS = ((1, 2), (2, 1), (2, 2), (1, 3), (3, 1))  # of AnyRes tiles: columns, rows

DECODER = {
    "dropout": 0.05,
    "dtype": "bfloat16",
    "remat": "minimal",
    "attention_block": 1024,
}
VISION = {"dtype": "bfloat16", "remat": "minimal"}
UNITOKEN = {"decoder": DECODER, "vision": VISION}
CHAMELEON = {"decoder": DECODER, "vision": None}

# Weights arrive while the layer before computes, and products have room for larger
# tiles; docs/plan.md says what each is worth.
TPU_OPTIONS = {
    "xla_tpu_enable_async_collective_fusion": True,
    "xla_tpu_enable_async_collective_fusion_fuse_all_gather": True,
    "xla_tpu_enable_async_collective_fusion_multiple_steps": True,
    "xla_tpu_overlap_compute_collective_tc": True,
    "xla_enable_async_all_gather": True,
    "xla_tpu_scoped_vmem_limit_kib": 20_480,
}

CHIPS = {"v5p_128": 64, "v5e_256": 256, "v6e_256": 256}  # of Google's names of slices
SHARDS = {"v5p_128": 16, "v5e_256": 32, "v6e_256": 16}  # of the parameters
# Where a chip has few tokens; with more on v5p, compiling takes three times as long.
VMEM_KIB = {"v5e_256": 32_768, "v6e_256": 32_768}

PARTS = ("decoder", "vision", "adapter")
_FROZEN = r"vision/(patch_embedding/.*|position_embedding|head/.*)"
STAGE1_GROUPS = {
    "decoder": {"pattern": "decoder/.*", "frozen": True},
    "adapter": {"pattern": "adapter/.*"},
    "vision": {"pattern": "vision/.*", "exclude": _FROZEN, "lr_scale": 0.01},
    "frozen": {"pattern": _FROZEN, "frozen": True},
}
STAGE2_GROUPS = {
    "rest": {"pattern": "(decoder|adapter)/.*"},
    "vision": {"pattern": "vision/.*", "exclude": _FROZEN},
    "frozen": {"pattern": _FROZEN, "frozen": True},
}
CHAMELEON_GROUPS = {"decoder": {"pattern": "decoder/.*"}}


def parallelism(hardware: str, rows: int, row_axis: str = "sequence") -> dict[str, Any]:
    """How a step is spread over a slice, as `python -m unitoken_jax.plan` likes it.

    Each of several copies of the parameters is divided over a part of the chips: libtpu
    scatters sums over a part of a slice, and not over all of it, and in fewer shards
    more of them.

    Args:
        hardware: "v5p_128", "v5e_256", "v6e_256", or "any": all devices there are, the
            parameters divided over all of them.
        rows: elements of a batch.
        row_axis: the mesh axis of chips that share a row, where there are more chips
            than rows. They divide its positions ("sequence"), or heads and MLP
            ("tensor"), which sends less where rows are short; of the parameters there
            is one copy then.

    Returns:
        The fields `mesh` and `tpu_options` of a job.
    """
    if hardware == "any":
        return {"mesh": {"data": 1, "fsdp": -1}, "tpu_options": TPU_OPTIONS}
    if hardware not in CHIPS:
        raise ValueError(f"{hardware} is not known: {', '.join(CHIPS)} or any")
    sharers = -(-CHIPS[hardware] // rows)
    groups = CHIPS[hardware] // sharers
    one = row_axis == "tensor" and sharers > 1
    fsdp = groups if one else SHARDS[hardware]
    mesh = {"data": groups // fsdp, "fsdp": fsdp, row_axis: sharers}
    options = TPU_OPTIONS
    if hardware in VMEM_KIB:
        options = options | {"xla_tpu_scoped_vmem_limit_kib": VMEM_KIB[hardware]}
    return {"mesh": mesh, "tpu_options": options}


def base_rows(**mixture: float) -> dict[str, Any]:
    """Rows of codes and features of one squashed view; samples of each task."""
    return _rows(4096, row_views=2, mixture=mixture)


def anyres_rows(**mixture: float) -> dict[str, Any]:
    """Rows of codes and features of AnyRes tiles; samples of each task."""
    return _rows(8192, row_views=10, views={"grids": GRIDS}, mixture=mixture)


def discrete_rows(**mixture: float) -> dict[str, Any]:
    """Rows of codes alone; samples of each task."""
    return _rows(3072, row_views=0, layout={"encoding": "discrete"}, mixture=mixture)


def _rows(row_length: int, **fields: Any) -> dict[str, Any]:
    return {
        "kind": "sequences",
        "image_size": 512,
        "canvas": "original",
        "row_length": row_length,
        "prompt_drop": 0.0,
        "threads": 8,
        "prefetch": 8,
        "cache_mib": 4096,
        **fields,
    }


def job(
    name: str,
    *,
    data_dir: str,
    samples: int,
    model: Mapping[str, Any],
    data: Mapping[str, Any],
    learning_rate: float,
    groups: Mapping[str, Any],
    init: Mapping[str, str],
    hardware: str,
    row_axis: str = "sequence",
) -> ConfigDict:
    """One stage that sees each of its samples once.

    Args:
        name: of the stage.
        data_dir: the prepared and tokenised data set.
        samples: how many there are.
        model: fields of the model's config.
        data: of `base_rows`, `anyres_rows` or `discrete_rows`.
        learning_rate: at the end of the warm-up.
        groups: which parameters learn, and how fast.
        init: what they start from.
        hardware: of `parallelism`.
        row_axis: likewise.
    """
    steps = samples // SAMPLES
    return ConfigDict(
        {
            "name": name,
            "seed": 0,
            "data_dir": data_dir,
            "finish": False,  # evaluation needs the image tokenizer beside it
            "model": {"kind": "unitoken", "z_loss": 1e-5, **model},
            "data": data,
            "init": init,
            "optimizer": {
                "learning_rate": learning_rate,
                "warmup": steps // 100,
                "b1": 0.9,
                "b2": 0.95,
                "weight_decay": 0.1,
                "clip": 4.0,
                "groups": groups,
            },
            "train": {"steps": steps, "batch": ROWS},
            "checkpoint": {"every": 1000, "keep": 2},
            **parallelism(hardware, ROWS, row_axis),
            "generation": {"guidance": 5.0, "top_k": 4000, "unconditional": "released"},
        }
    )
