"""Unified vision-language models of UniToken and UniTok, trained with JAX.

In a notebook: `unitoken_jax.load_weights("unitok", "weights/unitok")`. What `__all__`
names is imported when it is asked for, so that importing this package costs nothing.
"""

import importlib
from typing import TYPE_CHECKING

from unitoken_jax.commands import refuse_others

if TYPE_CHECKING:
    from data_pipelines.tokenizers.tokenizer import open_tokenizer
    from unitoken_jax import convert, evaluate, generate, plan, report, train
    from unitoken_jax.config import load_file as load_config
    from unitoken_jax.convert import convert as convert_weights
    from unitoken_jax.convert import load as load_weights
    from unitoken_jax.convert import save as save_weights
    from unitoken_jax.evaluate.run import run as evaluate_run
    from unitoken_jax.generate.load import load as load_run
    from unitoken_jax.report import build as build_report

    __version__: str

__all__ = [
    "__version__",
    "build_report",
    "convert",
    "convert_weights",
    "evaluate",
    "evaluate_run",
    "generate",
    "load_config",
    "load_run",
    "load_weights",
    "open_tokenizer",
    "plan",
    "report",
    "save_weights",
    "train",
]

_DISTRIBUTION = "unitoken-jax"
# Name → where it stands; a package of ours stands under its own name.
_PLACES = {
    "build_report": "unitoken_jax.report:build",
    "convert_weights": "unitoken_jax.convert:convert",
    "evaluate_run": "unitoken_jax.evaluate.run:run",
    "load_config": "unitoken_jax.config:load_file",
    "load_run": "unitoken_jax.generate.load:load",
    "load_weights": "unitoken_jax.convert:load",
    "open_tokenizer": "data_pipelines.tokenizers.tokenizer:open_tokenizer",
    "save_weights": "unitoken_jax.convert:save",
}

refuse_others()


def __getattr__(name: str) -> object:
    """Import what `__all__` names, at the first use."""
    if name == "__version__":
        found: object = _version()
    elif name in _PLACES:
        module, _, attribute = _PLACES[name].partition(":")
        found = getattr(importlib.import_module(module), attribute)
    elif name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """Name what there is, also what has not been imported yet."""
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib import metadata  # noqa: PLC0415 - slow, and seldom asked for

    try:
        return metadata.version(_DISTRIBUTION)
    except metadata.PackageNotFoundError:  # a checkout that is not installed
        return "0+unknown"
