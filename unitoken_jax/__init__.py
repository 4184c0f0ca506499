"""Unified vision-language models of UniToken and UniTok, trained with JAX."""
