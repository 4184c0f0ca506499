"""python -m data_pipelines.prepare --input ZIP --output DIRECTORY [options]."""

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from data_pipelines.prepare.job import PrepareConfig, prepare
from data_pipelines.storage.manifest import Manifest
from unitoken_jax.errors import UserError, exit_code
from unitoken_jax.files import path_argument


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the preparation; returns the exit status."""
    options = vars(_parser().parse_args(arguments))
    # force: absl, which grain imports, has set a handler of its own
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    # a termination unwinds like an interruption, so that nothing half-written stays
    if signal.getsignal(signal.SIGTERM) != signal.SIG_IGN:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    source, output = options.pop("input"), options.pop("output")
    overwrite = options.pop("overwrite")
    try:
        config = PrepareConfig(**options)
        manifest = prepare(source, output, config, overwrite=overwrite)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return exit_code(error)
    except KeyboardInterrupt:
        print("interrupted; nothing was left behind", file=sys.stderr)
        return 130
    print(_summary(manifest, output))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.prepare",
        description="Makes sharded, validated records of a zip of captioned pictures.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--input", type=path_argument("--input"), required=True, help="the zip"
    )
    parser.add_argument(
        "--output",
        type=path_argument("--output"),
        required=True,
        help="a new directory",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an outdated output"
    )
    described = _descriptions()
    for field in fields(PrepareConfig):
        parser.add_argument(
            f"--{field.name}",
            type=type(field.default),
            default=field.default,
            help=described.get(field.name),
        )
    return parser


def _descriptions() -> dict[str, str]:
    """The attributes' lines of PrepareConfig's docstring."""
    lines = (PrepareConfig.__doc__ or "").splitlines()
    pairs = (line.strip().split(": ", 1) for line in lines if ": " in line)
    return {name: text.replace("%", "%%") for name, text in pairs}


def _summary(manifest: Manifest, output: Path) -> str:
    lines = [f"{output}  (digest {manifest.digest[:16]})"]
    for split in manifest.splits:
        counts = manifest.counts[split]
        lines.append(
            f"  {split}: {counts['records']:,} records of {counts['concepts']:,} "
            f"concepts, {counts['captions']:,} captions, "
            f"{sum(counts['questions'].values()):,} questions, "
            f"{sum(counts['scenes'].values()):,} scenes"
        )
    if equal := manifest.counts["pictures equal to another"]:
        lines.append(f"  pictures equal to another, in the same split: {equal:,}")
    if rejected := manifest.counts["rejected"]:
        lines.append(f"  set aside: {rejected}, see {output / 'rejected.jsonl'}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
