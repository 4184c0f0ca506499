"""Unified vision-language models of UniToken and UniTok, trained with JAX."""

from unitoken_jax.commands import refuse_others

refuse_others()
