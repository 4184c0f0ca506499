"""Fixtures of the tiny assistant and its run directory."""

from assistants import (  # noqa: F401
    assistant,
    data_config,
    data_dir,
    next_logits,
    one_device,
    run_node,
    siglip,
    tokenizer,
    unitoken,
    views,
    vocabulary,
    vocabulary_file,
    workdir,
)
