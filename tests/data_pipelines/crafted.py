"""Picture files written byte by byte, as Pillow would not write them."""

import io
import struct
import zlib

from PIL import ExifTags, Image


def chunk(name, data):
    """A chunk of a PNG."""
    end = struct.pack(">I", zlib.crc32(name + data))
    return struct.pack(">I", len(data)) + name + data + end


def png(size, depth, kind, rows, *chunks):
    """A PNG of raw rows; `kind` is 0 grey, 2 RGB, 3 palette, 4 grey + alpha, 6 RGBA."""
    header = struct.pack(">IIBBBBB", *size, depth, kind, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            *chunks,
            chunk(b"IDAT", pixels),
            chunk(b"IEND", b""),
        ]
    )


def tiff(width, bits, photometric, data, *, kind=1, order="<"):
    """A TIFF of one grey row; `kind` is 1 unsigned, 2 signed, 3 floating point."""
    tags = {256: width, 257: 1, 258: bits, 259: 1, 262: photometric, 273: 0}
    tags |= {277: 1, 278: 1, 279: len(data), 339: kind}
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    mark = b"II" if order == "<" else b"MM"
    file = mark + struct.pack(f"{order}HIH", 42, 8, len(tags))
    file += b"".join(struct.pack(f"{order}HHII", t, 4, 1, v) for t, v in tags.items())
    return file + struct.pack(f"{order}I", 0) + data


def encoded(picture, kind, **options):
    """A picture as a file of some format."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def corners():
    """24 × 16 pixels whose corners are red, green, blue (below) and white."""
    picture = Image.new("RGB", (24, 16))
    picture.paste((255, 0, 0), (0, 0, 12, 8))
    picture.paste((0, 255, 0), (12, 0, 24, 8))
    picture.paste((0, 0, 255), (0, 8, 12, 16))
    picture.paste((255, 255, 255), (12, 8, 24, 16))
    return picture


def turned(orientation, kind="PNG", **options):
    """A file of `corners` that says the orientation it is to be shown in."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return encoded(corners(), kind, exif=exif, **options)
