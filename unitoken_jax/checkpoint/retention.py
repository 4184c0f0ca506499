"""Which checkpoints stay when a new one is complete, and how the others go.

The one before the newest always stays: that a step was taken from it is how the newest
came about, while nobody has yet seen one taken from the newest.
"""

import itertools
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

log = logging.getLogger(__name__)

_LEAST = 2


def surplus(steps: Sequence[int], keep: int, keep_every: int) -> list[int]:
    """Return which checkpoints are to go.

    Args:
        steps: of all there are, oldest first.
        keep: how many of the newest stay, two at least.
        keep_every: the first at or after each multiple of it stays (0: none).
    """
    old = steps[: -max(keep, _LEAST)]
    if not keep_every:
        return list(old)
    multiples = [0, *(step // keep_every for step in old)]
    pairs = zip(old, itertools.pairwise(multiples), strict=True)
    return [step for step, (before, after) in pairs if after == before]


def remove(folder: Path, hidden: Path) -> None:
    """Remove a checkpoint, or the link to it; a failure is a warning.

    Args:
        folder: of the checkpoint.
        hidden: a name that readers take for no checkpoint, while its files go.
    """
    try:
        if folder.is_symlink():
            folder.unlink()
            log.info("the link %s is removed; what it leads to stays", folder)
            return
        shutil.rmtree(hidden, ignore_errors=True)
        folder.rename(hidden)
        shutil.rmtree(hidden)
    except OSError as error:
        log.warning(
            "%s, which newer checkpoints replace, could not be removed (%s); remove it "
            "to have its space.",
            *(folder, error),
        )
