"""Draw and answer: python -m unitoken_jax.generate --workdir DIR [--config FILE].

--prompt "a red heart" --output heart.png          draws
--prompt animals --output animal.png               draws a class (LlamaGen)
--image heart.png --prompt "What is this?"         answers
--input prompts.jsonl --output answers.jsonl       does many at once
"""

from pathlib import Path

import absl.logging
from absl import flags

from unitoken_jax import config as configs
from unitoken_jax.files import define_path_flag
from unitoken_jax.generate.run import Options, run
from unitoken_jax.runtime.environment import COMPILE_CACHE


def _define_flags() -> None:
    configs.define_flag(required=False)
    define_path_flag("workdir", None, "Directory of the run.", required=True)
    flags.DEFINE_string("prompt", None, "What to draw, or the question about --image.")
    define_path_flag("image", None, "Picture to ask about.")
    define_path_flag("output", None, "The drawing, or the answers to --input.")
    define_path_flag("input", None, "Many requests: JSON lines.")
    flags.DEFINE_integer("count", 1, "Drawings, in one grid.", 1, 1024)
    flags.DEFINE_integer("seed", 0, "Of the first drawing.", 0, 2**32 - 1025)
    flags.DEFINE_float("guidance", None, "Scale of guidance; 1 is none.")
    flags.DEFINE_integer("top_k", None, "Codes to draw from; 0 is all.")
    flags.DEFINE_float("top_p", None, "Probability mass to draw from.")
    flags.DEFINE_float("temperature", None, "Of drawing; 0 is greedy.")
    flags.DEFINE_string("compile_cache", COMPILE_CACHE, "Compiled programs; '': none.")


def main() -> None:
    """Do what the flags say."""
    given = flags.FLAGS
    # The answer is all that is printed; of the libraries only warnings.
    absl.logging.set_verbosity(absl.logging.WARNING)
    run(
        Options(
            workdir=Path(given.workdir),
            config=given.config,
            prompt=given.prompt,
            image=_path(given.image),
            output=_path(given.output),
            input=_path(given.input),
            count=given.count,
            seed=given.seed,
            guidance=given.guidance,
            top_k=given.top_k,
            top_p=given.top_p,
            temperature=given.temperature,
            compile_cache=given.compile_cache,
        )
    )


def _path(given: str | None) -> Path | None:
    return Path(given) if given else None


if __name__ == "__main__":
    _define_flags()
    configs.run(main)
