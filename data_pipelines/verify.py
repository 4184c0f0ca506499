"""Every byte of a data set compared with its manifest: python -m data_pipelines.verify.

Ends with code 1 if a file is missing or changed, and names each. Published code files
have no manifest; --record writes the digests that they are compared with from then on.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from data_pipelines.errors import DataError
from data_pipelines.storage import integrity
from data_pipelines.storage.code_files import (
    SUMS,
    CodeFileError,
    CodeFiles,
    find_code_files,
)
from data_pipelines.storage.manifest import read_manifest
from unitoken_jax.errors import exit_code
from unitoken_jax.files import user_path


def verify(directory: Path) -> list[str]:
    """Compares a data set with its manifest, with a bar of progress.

    Returns:
        What is wrong, a sentence for each file.

    Raises:
        DataError: It is no prepared data set.
    """
    if find_code_files(directory) is not None:
        return _verify_code_files(CodeFiles(directory))
    shards = integrity.all_shards(read_manifest(directory))
    total, title = sum(shard.size for shard in shards), f"verifying {directory}"
    with tqdm(None, title, total, unit="B", unit_scale=True, disable=None) as bar:
        return [str(fault) for fault in integrity.verify(directory, bar.update)]


def _verify_code_files(files: CodeFiles) -> list[str]:
    if not files.sums.exists():
        raise CodeFileError(
            f"{files.directory} holds published code files without digests, so that "
            "nothing can be compared; --record writes those of the files as they are"
        )
    faults: list[str] = []
    listed: set[str] = set()
    for path, digest in tqdm(files.unverified(), "verifying", unit="", disable=None):
        listed.add(str(path))
        try:
            integrity.compare(path, digest, lambda _: True)
        except DataError as fault:
            faults.append(str(fault))
    faults += [
        f"{path} is not in {SUMS}; remove it, or --record the files as they are"
        for path in files.paths()
        if str(path) not in listed
    ]
    return faults


def main(arguments: Sequence[str] | None = None) -> int:
    """Verify a data set; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.verify",
        description="Compares every byte of a prepared data set with its manifest.",
    )
    parser.add_argument("--input", required=True, help="prepared data set")
    parser.add_argument(
        "--record", action="store_true", help="write digests of published code files"
    )
    given = parser.parse_args(arguments)
    try:
        directory = user_path(given.input, "--input")
        if given.record:
            _record(directory)
        faults = verify(directory)
    except (DataError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return exit_code(error)
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    if faults:
        return 1
    print(f"{directory}: every file is as it was written")
    return 0


def _record(directory: Path) -> None:
    if find_code_files(directory) is None:
        raise CodeFileError(
            f"{directory} holds no published code files; a prepared data set has its "
            "digests in its manifest, so leave --record out"
        )
    files = CodeFiles(directory)
    with tqdm(None, "recording", 2 * len(files), disable=None) as bar:
        files.record(bar.update)


if __name__ == "__main__":
    sys.exit(main())
