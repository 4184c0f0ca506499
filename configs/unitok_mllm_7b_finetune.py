r"""UniTok's 7B multimodal LLM (arXiv 2502.20321, section 4.1): fine-tuning.

What: 1.5M pictures to draw and 1.5M samples of instruction tuning (Mini-Gemini's), one
to one, at 2e-5; starts from the pre-training of the same directory.

Whose numbers: see `configs/unitok_mllm_7b_pretrain.py`. Questions follow Vicuna's
template, with no marker around the picture, as in the released code.

Hardware: a TPU v5p-128 slice (64 chips); the words `v5e_256`, `v6e_256` and `any`
behind the file's name and a colon choose others. Predicted, not measured, ±10 %
(docs/plan.md): the step of pre-training; 0.79 to 0.81 s a step, 0.9 hours, 28 GiB a
chip on v5p-128; 0.46 to 0.59 s, 0.5 to 0.6 hours, 7 GiB on v5e-256; 0.15 to 0.28 s, 0.2
to 0.3 hours, 12 GiB on v6e-256, for which nothing is calibrated.

    python -m unitoken_jax.train --config configs/unitok_mllm_7b_finetune.py \
        --workdir runs/unitok_mllm_7b
"""

from ml_collections import ConfigDict

from configs.unitok_mllm_7b_pretrain import job


def get_config(hardware: str = "v5p_128") -> ConfigDict:
    """Return the job for v5p_128, v5e_256, v6e_256 or any."""
    before = "runs/unitok_mllm_7b/pretrain"
    return job(
        "finetune",
        data_dir="data/prepared/unitok_mllm_finetune",
        samples=3_000_000,
        mixture={"draw": 1.0, "question": 1.0, "caption": 0.0, "text": 0.0},
        learning_rate=2e-5,
        init={part: f"{before}:{part}" for part in ("decoder", "embedder", "depth")},
        hardware=hardware,
    )
