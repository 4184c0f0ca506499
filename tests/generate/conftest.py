"""Fixtures of the tiny sampler and its run directory."""

from assistants import (  # noqa: F401
    data_config,
    data_dir,
    next_logits,
    one_device,
    run_node,
    sampler,
    siglip,
    tokenizer,
    unitoken,
    views,
    vocabulary,
    vocabulary_file,
    workdir,
)
