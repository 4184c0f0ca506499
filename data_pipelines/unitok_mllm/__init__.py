"""Packed rows of UniTok's multimodal LLM: text and codes of several codebooks."""
