"""Reads event files as TensorBoard does, which is no requirement of the project."""

import struct
from pathlib import Path

from unitoken_jax.train.monitor.board import Event, SessionLog, masked_crc32c


def events(path: Path) -> list:
    """Return the events of a file; a record that is not whole fails."""
    data, found = path.read_bytes(), []
    while data:
        header, (check,) = data[:8], struct.unpack("<I", data[8:12])
        assert masked_crc32c(header) == check
        (length,) = struct.unpack("<Q", header)
        content, (check,) = (
            data[12 : 12 + length],
            struct.unpack("<I", data[12 + length : 16 + length]),
        )
        assert masked_crc32c(content) == check
        found.append(Event.FromString(content))
        data = data[16 + length :]
    return found


def board_points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the points of all files, by name, without those that are undone.

    TensorBoard reads the files by their names; where a session starts it forgets
    points of its step and later (`_CheckForRestartAndMaybePurge` of its accumulator).
    """
    points: dict[str, list[tuple[int, float]]] = {}
    for path in sorted(folder.iterdir()):
        first, *others = events(path)
        assert first.file_version == "brain.Event:2"
        for event in others:
            if event.session_log.status == SessionLog.START:
                points = {
                    name: [point for point in found if point[0] < event.step]
                    for name, found in points.items()
                }
            for value in event.summary.value:
                point = (event.step, value.simple_value)
                points.setdefault(value.tag, []).append(point)
    return points
