"""Which checkpoints stay, and that none that cannot be removed ends a run."""

from pathlib import Path

import miniature
import pytest

from unitoken_jax.checkpoint import reader, retention
from unitoken_jax.checkpoint.manager import CheckpointConfig, Checkpointer

META = {"config": {"train": {"batch": 16}}}


@pytest.mark.parametrize(
    ("steps", "keep", "keep_every", "gone"),
    [
        ([1], 1, 0, []),
        ([1, 2], 1, 0, []),
        ([1, 2, 3], 1, 0, [1]),
        ([1, 2, 3], 2, 0, [1]),
        ([1, 2, 3], 9, 0, []),
        ([1, 3, 5, 6, 7], 2, 2, [1]),
        ([3, 5, 6, 8, 9], 1, 4, [3, 6]),
        ([0, 10, 20, 30], 2, 10, [0]),
    ],
)
def test_surplus(steps, keep, keep_every, gone) -> None:
    """The one before the newest stays: nobody has seen a step from the newest."""
    assert retention.surplus(steps, keep, keep_every) == gone


def _states():
    state = miniature.make_state(miniature.make_optimizer())
    for step in range(4):
        yield type(state)(**{**vars(state), "step": state.step + step})


def test_a_link_is_removed_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    with Checkpointer(tmp_path / "checkpoints", CheckpointConfig()) as checkpointer:
        for step, state in enumerate(_states()):
            checkpointer.save(state, 16 * step, META)
            checkpointer.wait()
            if step == 0:
                (tmp_path / "checkpoints" / "0").rename(elsewhere)
                (tmp_path / "checkpoints" / "0").symlink_to(elsewhere)
    assert reader.steps(tmp_path / "checkpoints") == [2, 3]
    assert (elsewhere / "digests.json").exists()
    assert [p for p in (tmp_path / "checkpoints").iterdir() if "tmp" in p.name] == []


def test_what_cannot_be_removed_stays_with_a_warning(
    tmp_path: Path, monkeypatch, caplog
) -> None:
    def fail(self, target):
        if self.name == "0":
            raise PermissionError(13, "Permission denied", str(self))
        return rename(self, target)

    rename = Path.rename
    monkeypatch.setattr(Path, "rename", fail)
    with Checkpointer(tmp_path / "checkpoints", CheckpointConfig()) as checkpointer:
        for step, state in enumerate(_states()):
            checkpointer.save(state, 16 * step, META)
    assert reader.steps(tmp_path / "checkpoints") == [0, 2, 3]
    assert "checkpoints/0, which newer checkpoints replace, could not" in caplog.text
