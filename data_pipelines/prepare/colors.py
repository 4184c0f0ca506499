"""Names of colours: those of a picture's pixels, those that scenes are painted in."""

import numpy as np

# The middle of each name; scenes are painted within a few levels of these.
PAINTS: dict[str, tuple[int, int, int]] = {
    "red": (225, 45, 45),
    "orange": (245, 140, 25),
    "yellow": (250, 215, 50),
    "green": (70, 170, 65),
    "blue": (45, 100, 220),
    "purple": (145, 70, 190),
    "pink": (245, 135, 185),
    "brown": (135, 85, 50),
    "black": (30, 30, 30),
    "gray": (140, 140, 140),
    "white": (250, 250, 250),
}
NAMES = tuple(PAINTS)
SPELLINGS = {"grey": "gray", **{name: name for name in NAMES}}

_NO_NAME = len(NAMES)
# Upper ends of the hues in degrees; red closes the circle.
_HUES = {15: "red", 41: "orange", 68: "yellow", 165: "green", 258: "blue"}
_HUES |= {300: "purple", 322: "", 342: "pink", 360: "red"}  # magenta is disputed
_HUE_ENDS = np.array(list(_HUES))
_HUE_NAMES = np.array([(*NAMES, "").index(name) for name in _HUES.values()])


def color_shares(pixels: np.ndarray) -> dict[str, float]:
    """The share of a picture's opaque area that every colour name covers.

    Args:
        pixels: uint8 [H, W, 4], straight alpha.

    Returns:
        Shares that sum to one at most: skin, sand and other tones between the names
        count for none of them. Empty if nothing is opaque.
    """
    alpha = pixels[..., 3].reshape(-1).astype(np.float64)
    names = _names(pixels[..., :3].reshape(-1, 3))
    if not alpha.any():
        return {}
    weights = np.bincount(names, alpha, minlength=_NO_NAME + 1) / alpha.sum()
    shares = zip(NAMES, weights[:_NO_NAME].tolist(), strict=True)
    return {name: share for name, share in shares if share}


def single_color(pixels: np.ndarray, share: float) -> str | None:
    """The colour name that covers at least `share` of the opaque area, if any."""
    shares = color_shares(pixels)
    name = max(shares, key=shares.__getitem__, default=None)
    return name if name is not None and shares[name] >= share else None


def repaint(pixels: np.ndarray, paint: tuple[int, int, int]) -> np.ndarray:
    """Paints a picture of one colour in another, keeping its shading and alpha.

    Args:
        pixels: uint8 [H, W, 4].
        paint: The colour that its mean brightness becomes.

    Returns:
        uint8 [H, W, 4].
    """
    brightness = pixels[..., :3].mean(-1)
    alpha = pixels[..., 3].astype(np.float64)
    mean = (brightness * alpha).sum() / max(alpha.sum(), 1.0)
    # Half of the shading is kept: a highlight must not change the colour's name.
    shade = 1 + 0.5 * np.clip(brightness / max(mean, 1.0) - 1, -0.6, 0.6)
    painted = pixels.copy()
    painted[..., :3] = np.clip(shade[..., None] * np.array(paint), 0, 255)
    return painted


def _names(rgb: np.ndarray) -> np.ndarray:
    """Indices into NAMES, or _NO_NAME, of uint8 colours [n, 3]."""
    values = rgb.astype(np.float64)
    high, low = values.max(-1), values.min(-1)
    chroma = high - low
    red, green, blue = values.T
    safe = np.maximum(chroma, 1.0)
    hue = 60 * np.select(
        [high == red, high == green],
        [(green - blue) / safe % 6, (blue - red) / safe + 2],
        (red - green) / safe + 4,
    )
    names = _HUE_NAMES[np.searchsorted(_HUE_ENDS, hue)]
    dull = chroma < 0.5 * high
    warm = (hue > 8) & (hue <= 41)
    names[warm & (high < 185)] = NAMES.index("brown")
    names[((warm & (high >= 185)) | (names == NAMES.index("yellow"))) & dull] = _NO_NAME
    # light reds are pinks
    names[(names == NAMES.index("red")) & (low > 120)] = NAMES.index("pink")
    pale = chroma < np.maximum(0.16 * high, 16)
    names[pale] = NAMES.index("gray")
    names[pale & (high >= 225)] = NAMES.index("white")
    names[(high < 60) | (pale & (high < 75))] = NAMES.index("black")
    return names
