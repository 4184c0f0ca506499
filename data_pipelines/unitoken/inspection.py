"""A packed row as text, for people: what stands where, and what carries loss."""

from collections.abc import Iterator, Mapping

import numpy as np

from data_pipelines.tokenizers.chameleon import ChameleonVocabulary
from data_pipelines.unitoken.sequence import IGNORE, NO_FEATURE


def describe_row(
    batch: Mapping[str, np.ndarray], row: int, vocabulary: ChameleonVocabulary
) -> str:
    """Prints one row of a batch of packed rows.

    Segments are printed run by run: the position in the row, a star if the run is
    supervised, and text in quotes, codes by index, markers by name, or the indices of
    continuous features. A row of codes is followed by ↵, its newline.
    """
    tokens, segments = batch["tokens"][row], batch["segment_ids"][row]
    feature_index, targets = batch["feature_index"][row], batch["targets"][row]
    # A target is the label of the next position, so supervision shows one later.
    learnt = np.append(False, targets[:-1] != IGNORE)
    count = int(segments.max(initial=0))
    records = [int(r) for r in batch["record"][row] if r >= 0]
    lines = [
        f"row {row}: {count} samples of records {records} in "
        f"{np.count_nonzero(segments)} of {len(tokens)} positions, "
        f"{np.count_nonzero(learnt)} supervised"
    ]
    for segment in range(1, count + 1):
        at = np.flatnonzero(segments == segment)
        lines.append(f"sample {segment}: {len(at)} positions")
        for start, stop, star in _runs(tokens, feature_index, learnt, at, vocabulary):
            shown = _show(tokens[start:stop], feature_index[start:stop], vocabulary)
            lines.append(f"{start:6} {'*' if star else ' '} {shown}")
    return "\n".join(lines) + "\n"


def _kind(token: int, slot: int, vocabulary: ChameleonVocabulary) -> str:
    if slot != NO_FEATURE:
        return "feature"
    if vocabulary.codes_of([token])[0] >= 0:
        return "code"
    return "text" if vocabulary.is_text[token] else "marker"


def _runs(
    tokens: np.ndarray,
    feature_index: np.ndarray,
    learnt: np.ndarray,
    at: np.ndarray,
    vocabulary: ChameleonVocabulary,
) -> Iterator[tuple[int, int, bool]]:
    """Cuts the positions `at` into (start, stop, supervised) of one kind each."""
    start, previous = int(at[0]), None
    for position in map(int, at):
        kind = _kind(tokens[position], feature_index[position], vocabulary)
        star = bool(learnt[position])
        # A newline is shown at the end of the run that it ends.
        if tokens[position] == vocabulary.newline and previous in (
            ("code", star),
            ("feature", star),
        ):
            yield start, position + 1, star
            start, previous = position + 1, None
        elif previous != (kind, star) or kind == "marker":
            if previous is not None:
                yield start, position, previous[1]
            start, previous = position, (kind, star)
    if previous is not None:
        yield start, int(at[-1]) + 1, previous[1]


def _show(
    tokens: np.ndarray, feature_index: np.ndarray, vocabulary: ChameleonVocabulary
) -> str:
    """Returns a run as text."""
    kind = _kind(tokens[0], feature_index[0], vocabulary)
    line_end = " ↵" if len(tokens) > 1 and tokens[-1] == vocabulary.newline else ""
    inner = slice(None, -1) if line_end else slice(None)
    if kind == "feature":
        first, last = feature_index[inner][0], feature_index[inner][-1]
        return f"features {first} … {last}{line_end}"
    if kind == "code":
        codes = " ".join(map(str, vocabulary.codes_of(tokens[inner])))
        return f"codes {codes}{line_end}"
    if kind == "text":
        return repr(vocabulary.decode(tokens))
    roles = {
        vocabulary.bos: "begin",
        vocabulary.boi: "begin of image",
        vocabulary.sep: "separator",
        vocabulary.eoi: "end of image",
        vocabulary.end: "end of turn",
        vocabulary.newline: "newline",
    }
    token = int(tokens[0])
    name = vocabulary.name(token)
    return f"{name} {roles[token]}" if token in roles else name
