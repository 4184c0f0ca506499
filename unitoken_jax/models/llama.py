"""Llama (arXiv 2307.09288): Chameleon's decoder without QK-norm.

UniTok's multimodal LLM starts from Llama-2-7B, LlamaGen's blocks are Llama's.
"""

from unitoken_jax.models.chameleon import ChameleonConfig

LLAMA_2_7B = ChameleonConfig(vocab_size=32_000, qk_norm=False)
"""Llama-2-7B: 6,738,415,616 parameters."""
