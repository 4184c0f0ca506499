"""Ways of damaging bytes, for hypothesis."""

import struct
import zlib

from hypothesis import strategies as st

_PLACE = st.floats(0, 1, exclude_max=True)
# (what is done, where as a share of the length, with which bytes)
_ONE = st.tuples(
    st.sampled_from(["cut", "flip", "put", "remove", "insert"]),
    _PLACE,
    st.binary(min_size=1, max_size=12),
)
DAMAGES = st.lists(_ONE, min_size=1, max_size=4)


def damaged(data, damages, *, mended_sums=False):
    """A copy of bytes with damages done to it one after another.

    With `mended_sums` the chunks of a PNG get their right sums again, so that what
    reads them meets the damage.
    """
    for kind, share, extra in damages:
        place = int(share * len(data))
        before, after = data[:place], data[place:]
        if kind == "cut":
            data = before
        elif kind == "flip":
            data = before + bytes(v ^ 1 << extra[0] % 8 for v in after[:1]) + after[1:]
        elif kind == "put":
            data = before + extra + after[len(extra) :]
        elif kind == "remove":
            data = before + after[extra[0] :]
        else:
            data = before + extra + after
    return _with_sums(data) if mended_sums else data


def _with_sums(data):
    if not data.startswith(b"\x89PNG"):
        return data
    mended, place = bytearray(data[:8]), 8
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        chunk = data[place + 4 : place + 8 + length]
        if len(chunk) < 4 + length:
            break
        mended += data[place : place + 4] + chunk
        mended += struct.pack(">I", zlib.crc32(chunk))
        place += 12 + length
    return bytes(mended) + data[place:]
