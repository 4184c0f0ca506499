"""What earlier programs wrote, as records of version 3.

Manifests of format 1 and 2 are of records with one picture or none, whose fields stand
in the record itself: image, width, height, codes, grid; their `concept` is the `group`.
This is the one place that knows them.
"""

from typing import Any

_OLD = frozenset(
    {
        *("id", "image", "width", "height", "captions", "questions", "concept"),
        *("category", "subcategory", "keywords", "source", "license", "codes", "grid"),
    }
)
_CROP = "letterbox"  # earlier programs fitted whole pictures into a square


def translated(value: Any) -> Any:
    """A record of version 3 for one of an earlier program; all else as it is.

    A picture's bytes stay what they are: bytes, or their number where the pictures
    stand in another file. What is wrong with a field stays wrong, to be refused.
    """
    if not isinstance(value, dict) or value.keys() != _OLD:
        return value
    image, width, height = value["image"], value["width"], value["height"]
    codes, grid = value["codes"], value["grid"]
    images: list[dict[str, Any]] = []
    if image or width != 0 or height != 0:
        coded = [] if codes is None and grid is None else [(codes, grid)]
        images.append(
            {
                "bytes": image,
                "width": width,
                "height": height,
                "codes": [{"data": d, "grid": g, "crop": _CROP} for d, g in coded],
            }
        )
    return {
        "id": value["id"],
        "source": value["source"],
        "license": value["license"],
        "images": images,
        "messages": [],
        "captions": value["captions"],
        "questions": value["questions"],
        "group": value["concept"],
        "category": value["category"],
        "subcategory": value["subcategory"],
        "keywords": value["keywords"],
        "extra": {},
    }
