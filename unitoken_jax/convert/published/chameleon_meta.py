"""Chameleon as Meta ships it: `consolidated*.pth`, one file or one for each shard.

The rotary pairs of query and key stand side by side here.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unitoken_jax.convert.fields import (
    Fields,
    Values,
    count,
    flag,
    group,
    number,
    trains,
    whole,
    written,
)
from unitoken_jax.convert.files.sinks import Read, check_space, replacing, write_weights
from unitoken_jax.convert.files.sources import (
    MergedSource,
    Source,
    join_of,
    open_source,
    read_described,
)
from unitoken_jax.convert.formats import Format
from unitoken_jax.convert.layouts import (
    HEADS_IN,
    HEADS_OUT,
    LINEAR,
    chain,
    rotary_halves,
)
from unitoken_jax.convert.published.chameleon import CHAMELEON_FIELDS, NETWORK
from unitoken_jax.convert.table import Constant, Ignored, Rule, Table
from unitoken_jax.convert.tensors import Spec, WeightsError
from unitoken_jax.models.decoder import DecoderConfig

# How the shards of Meta's model-parallel checkpoints become one tensor.
META_JOINS: dict[str, int | str] = {
    "tok_embeddings.weight": 1,
    "output.weight": 0,
    "norm.weight": "mean",
    "attention.wq.weight": 0,
    "attention.wk.weight": 0,
    "attention.wv.weight": 0,
    "attention.wo.weight": 1,
    "attention.q_normalization.weight": "stack",
    "attention.q_normalization.bias": "stack",
    "attention.k_normalization.weight": "stack",
    "attention.k_normalization.bias": "stack",
    "feed_forward.w1.weight": 0,
    "feed_forward.w2.weight": 1,
    "feed_forward.w3.weight": 0,
    "attention_norm.weight": "mean",
    "ffn_norm.weight": "mean",
    "rope.freqs": "mean",
}


_DESCRIPTIONS = ("params.json", "consolidate_params.json")


def open_shards(path: Path, weights: str | None = None) -> Source:
    """Open a folder of shards, or one shard that is the whole, as one source.

    Args:
        path: of the folder or file.
        weights: see `sources.open_source`.

    Raises:
        WeightsError: there is no shard, or see `sources.open_source`.
    """
    folder = path if path.is_dir() else path.parent
    files = sorted(folder.glob("consolidated*.*th")) if path.is_dir() else [path]
    if not files:
        raise WeightsError(
            f"{folder} holds no consolidated.pth or consolidated.00.pth; give the"
            " folder of one model, such as data/models/7b"
        )
    _check_numbers(files)
    source = MergedSource([open_source(file, weights) for file in files], META_JOINS)
    for name in _DESCRIPTIONS:
        if (folder / name).exists():
            values = read_described(folder / name)
            model = values.get("model")
            source.config |= values | (model if isinstance(model, dict) else {})
    source.config["model_parallel_size"] = len(files)
    return source


def _check_numbers(files: list[Path]) -> None:
    """Refuse shards of which one is missing, or that stand beside the whole."""
    numbers = [re.fullmatch(r"consolidated\.(\d+)\.\w+", file.name) for file in files]
    if len(files) == 1 and numbers[0] is None:
        return
    found = [int(match[1]) for match in numbers if match]
    if found != list(range(len(files))):
        raise WeightsError(
            f"{files[0].parent} holds {', '.join(file.name for file in files)};"
            " expected is consolidated.pth alone, or all from consolidated.00.pth on"
        )


def write_shards(
    path: Path,
    specs: Mapping[str, Spec],
    read: Read,
    values: Mapping[str, Any],
    files: Mapping[str, bytes],
) -> None:
    """Write Meta's folder, one file for each of `values["model_parallel_size"]`.

    Raises:
        WeightsError: see `sinks.write_weights`.
    """
    del files  # its loader takes the tokenizer from another folder
    shards = values["model_parallel_size"]
    check_space(path, sum(spec.size for spec in specs.values()))
    with replacing(path) as temporary:
        temporary.mkdir()
        for name in _DESCRIPTIONS:
            contents = (
                {"model": dict(values)}
                if name == "params.json"
                else {"model_parallel_size": shards}
            )
            (temporary / name).write_text(json.dumps(contents, indent=2) + "\n")
        for rank in range(shards):
            name = f"consolidated.{rank:02}.pth" if shards > 1 else "consolidated.pth"

            def part(key: str, rank: int = rank) -> np.ndarray:
                return _part(read(key), join_of(key, META_JOINS), rank, shards)

            parts = {
                key: Spec(
                    _part(
                        np.broadcast_to(False, spec.shape),
                        join_of(key, META_JOINS),
                        rank,
                        shards,
                    ).shape,
                    spec.dtype,
                )
                for key, spec in specs.items()
            }
            write_weights(temporary / name, parts, part, {})


def _part(array: np.ndarray, join: int | str, rank: int, shards: int) -> np.ndarray:
    """What one shard has of a whole tensor."""
    if join == "stack":
        return array[rank]
    if isinstance(join, int):
        return np.ascontiguousarray(np.split(array, shards, axis=join)[rank])
    return array


def table(config: DecoderConfig, prefix: str = "") -> Table:
    """Rules of Meta's checkpoints, their shards joined by `META_JOINS`.

    Args:
        config: the decoder's configuration.
        prefix: put in front of our paths.
    """
    turned = chain(rotary_halves(config.head_dim), HEADS_IN)
    attention = f"{prefix}layers/attention"
    key = "layers.{layer}."
    rules: list[Rule | Constant | Ignored] = [
        Rule("tok_embeddings.weight", f"{prefix}embedding/embedding"),
        Rule(f"{key}attention.wq.weight", f"{attention}/query/kernel", turned),
        Rule(f"{key}attention.wk.weight", f"{attention}/key/kernel", turned),
        Rule(f"{key}attention.wv.weight", f"{attention}/value/kernel", HEADS_IN),
        Rule(f"{key}attention.wo.weight", f"{attention}/out/kernel", HEADS_OUT),
        Rule(f"{key}feed_forward.w1.weight", f"{prefix}layers/mlp/gate/kernel", LINEAR),
        Rule(f"{key}feed_forward.w3.weight", f"{prefix}layers/mlp/up/kernel", LINEAR),
        Rule(f"{key}feed_forward.w2.weight", f"{prefix}layers/mlp/down/kernel", LINEAR),
        Rule(f"{key}attention_norm.weight", f"{prefix}layers/attention_norm/scale"),
        Rule(f"{key}ffn_norm.weight", f"{prefix}layers/mlp_norm/scale"),
        Rule("norm.weight", f"{prefix}norm/scale"),
        Rule("output.weight", f"{prefix}head/kernel", LINEAR),
        # Meta's loader insists on this table, which no code of theirs reads.
        Constant(
            "rope.freqs",
            (config.head_dim // 2,),
            tuple(_frequencies(config)),
            like=f"{prefix}norm/scale",
            derived=True,
        ),
    ]
    if config.qk_norm:
        vector = rotary_halves(config.head_dim, -1)
        for theirs, ours in (("q", "query"), ("k", "key")):
            name, path = f"{key}attention.{theirs}_normalization", f"{ours}_norm"
            rules += [
                Rule(f"{name}.weight", f"{attention}/{path}/scale", vector),
                Rule(f"{name}.bias", f"{attention}/{path}/bias", vector),
            ]
    return rules


META_FIELDS: Fields = {
    **CHAMELEON_FIELDS,
    "vocab_size": written("vocab_size"),
    "hidden": written("dim"),
    "intermediate": written("multiple_of", "ffn_dim_multiplier"),
    "layers": written("n_layers"),
    "heads": written("n_heads"),
    "kv_heads": written("n_kv_heads"),
    "rope_theta": written("rope_theta"),
    "norm_eps": written("norm_eps"),
    "qk_norm": written("qk_normalization"),
    **trains("dropout"),
}


def read_meta(values: Values) -> DecoderConfig:
    """Of Meta's `params.json` and `consolidate_params.json`, merged."""
    values = dict(values) | dict(group(values, "model"))
    default = DecoderConfig()
    hidden = whole(values, "dim", default.hidden, most=2**20)
    heads = count(values, "n_heads", default.heads)
    multiple = whole(values, "multiple_of", 256)
    factor = number(values, "ffn_dim_multiplier", 1, most=1e6, nullable=True)
    inner = max(1, int(factor * int(8 * hidden / 3)))
    vocabulary = whole(values, "vocab_size", 0, least=-1, nullable=True)
    return DecoderConfig(
        vocab_size=vocabulary if vocabulary > 0 else default.vocab_size,
        hidden=hidden,
        intermediate=-(-inner // multiple) * multiple,
        layers=count(values, "n_layers", default.layers),
        heads=heads,
        kv_heads=whole(values, "n_kv_heads", heads, nullable=True),
        head_dim=max(1, hidden // heads),
        rope_theta=float(number(values, "rope_theta", default.rope_theta, least=1e-3)),
        norm_eps=number(values, "norm_eps", default.norm_eps),
        qk_norm=flag(values, "qk_normalization", True),
        model_parallel_size=count(values, "model_parallel_size", 1),
        swin_norm=flag(values, "swin_norm", False),
    )


def write_meta(config: DecoderConfig, source: Values) -> dict[str, Any]:
    """For Meta's loader; its MLP width follows from a rule of theirs.

    Raises:
        WeightsError: no multiple of the rule gives the width, or the shards do not come
            out even.
    """
    del source
    shards = config.model_parallel_size
    uneven = [
        f"{name}={getattr(config, name)}"
        for name in ("vocab_size", "hidden", "intermediate", "heads", "kv_heads")
        if getattr(config, name) % shards
    ]
    if uneven:
        raise WeightsError(
            f"Meta's format cuts the model into model_parallel_size={shards} shards,"
            f" which do not come out even: {', '.join(uneven)}; use chameleon-hf"
        )
    values = {
        "dim": config.hidden,
        "n_layers": config.layers,
        "n_heads": config.heads,
        "n_kv_heads": config.kv_heads,
        "vocab_size": config.vocab_size,
        "norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "qk_normalization": config.qk_norm,
        "swin_norm": config.swin_norm,
        "model_parallel_size": shards,
    }
    for multiple in (256, 128, 64, 32, 16, 8, 4, 2, 1):
        for factor in (1.0, config.intermediate / (8 * config.hidden / 3)):
            rule = {"multiple_of": multiple, "ffn_dim_multiplier": factor}
            if read_meta(values | rule).intermediate == config.intermediate:
                return values | rule
    raise WeightsError(
        f"Meta's format computes the MLP's width from the model's, and {config.hidden}"
        f" never gives intermediate={config.intermediate}; use chameleon-hf"
    )


def _frequencies(config: DecoderConfig) -> Iterator[float]:
    """Radians a position, one for each rotary pair."""
    for pair in range(config.head_dim // 2):
        yield config.rope_theta ** (-2 * pair / config.head_dim)


CHAMELEON_META = Format(
    "chameleon-meta",
    "Chameleon as Meta ships it: consolidated*.pth beside params.json",
    ("tok_embeddings.weight", "layers.0.attention.wq.weight"),
    (NETWORK,),
    (DecoderConfig(),),
    table,
    {DecoderConfig: META_FIELDS},
    read_meta,
    write_meta,
    open=open_shards,
    write=write_shards,
)
