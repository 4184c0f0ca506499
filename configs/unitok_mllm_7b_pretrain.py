r"""UniTok's 7B multimodal LLM (arXiv 2502.20321, section 4.1): pre-training.

What: Llama-2-7B learns to draw UniTok's codes from 60M captions (30M synthetic pictures
in the manner of MidJourney, 30M re-captioned of COYO and LAION) while it goes on with
10M documents of DCLM. Everything learns but the tokenizer's codebooks; code embedder
and depth head are new, but the embedder's projection starts as the tokenizer's own.

Whose numbers: the mix and the learning rate of 5e-5 are the paper's. One tenth of the
requests is `<unconditional>`, z-loss 5e-5, requests of at most 1750 tokens and bfloat16
are those of the released code. It says neither the size of a batch nor the schedule:
128 rows of some six samples, AdamW without decay and a cosine with 3 % warm-up, as in
LLaVA's scripts, are our choice. The script starts the embedder's two-layer map from a
file that is not published; here it starts at random.

Hardware: a TPU v5p-128 slice (64 chips); the words `v5e_256`, `v6e_256` and `any`
behind the file's name and a colon choose others. Predicted, not measured, ±10 %
(docs/plan.md): 0.79 to 0.81 s a step, 20 to 21 hours, 28 GiB a chip on v5p-128; 0.46 to
0.59 s, 12 to 15 hours, 7 GiB on v5e-256; 0.15 to 0.28 s, 4 to 7 hours, 12 GiB on
v6e-256, for which nothing is calibrated; the depth head is half of the work.

    python -m unitoken_jax.train --config configs/unitok_mllm_7b_pretrain.py \
        --workdir runs/unitok_mllm_7b
"""

from typing import Any

from ml_collections import ConfigDict

from configs import common

# libtpu refuses rows whose positions two chips of v5e share, in copies of 32 shards.
ROW_AXIS = {"v5e_256": "tensor"}
ROWS, PER_ROW = 128, 6  # rows of a step, samples of a row
MODEL = {
    "kind": "unitok_mllm",
    "decoder": {
        "vocab_size": 32_000,
        "qk_norm": False,
        "dtype": "bfloat16",
        "remat": "minimal",
    },
}


def job(
    name: str,
    *,
    data_dir: str,
    samples: int,
    mixture: dict[str, float],
    learning_rate: float,
    init: dict[str, str],
    hardware: str,
) -> ConfigDict:
    """One stage that sees each of its samples once.

    Args:
        name: of the stage.
        data_dir: the prepared data set, with UniTok's codes and Llama's tokenizer.
        samples: how many there are.
        mixture: samples of each task.
        learning_rate: at the end of the warm-up.
        init: what the parts start from.
        hardware: of `common.parallelism`.
    """
    steps = samples // (ROWS * PER_ROW)
    data: dict[str, Any] = {
        "kind": "unitok_mllm",
        "image_size": 256,
        "row_length": 2048,
        "row_views": PER_ROW,
        "prompts": {"mixture": mixture},
        "prompt_drop": 0.1,
        "threads": 8,
        "prefetch": 8,
        "cache_mib": 4096,
    }
    still = "embedder/quantizer/.*"
    return ConfigDict(
        {
            "name": name,
            "seed": 0,
            "data_dir": data_dir,
            "finish": False,  # evaluation needs the image tokenizer beside it
            "model": MODEL,
            "data": data,
            "init": init,
            "optimizer": {
                "learning_rate": learning_rate,
                "warmup": 3 * steps // 100,
                "b1": 0.9,
                "b2": 0.999,
                "clip": 1.0,
                "groups": {
                    "frozen": {"pattern": still, "frozen": True},
                    "rest": {"pattern": ".*", "exclude": still},
                },
            },
            "train": {"steps": steps, "batch": ROWS},
            "checkpoint": {"every": 1000, "keep": 2},
            **common.parallelism(hardware, ROWS, ROW_AXIS.get(hardware, "sequence")),
            "generation": {"guidance": 7.0, "answer_limit": 128},
        }
    )


def get_config(hardware: str = "v5p_128") -> ConfigDict:
    """Return the job for v5p_128, v5e_256, v6e_256 or any."""
    tokenizer = "weights/unitok_tokenizer"
    return job(
        "pretrain",
        data_dir="data/prepared/unitok_mllm_pretrain",
        samples=70_000_000,
        mixture={"draw": 6.0, "text": 1.0, "caption": 0.0, "question": 0.0},
        learning_rate=5e-5,
        init={
            "decoder": "weights/llama-2-7b",
            "embedder/quantizer": f"{tokenizer}:quantizer",
            "embedder/projection": f"{tokenizer}:widen",
        },
        hardware=hardware,
    )
