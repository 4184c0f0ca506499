"""Fixtures of the tiny assistant; the tests' own directory is on the path."""

from assistants import (  # noqa: F401
    assistant,
    data_config,
    next_logits,
    reconfigured,
    tokenizer,
    unitoken,
    views,
    vocabulary,
)
