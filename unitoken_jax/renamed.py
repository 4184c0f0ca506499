"""Names that configs and checkpoints had earlier: old name → new name."""

from collections.abc import Mapping

FIELDS: Mapping[str, str] = {
    "colour": "color",
    "normalise": "normalize",
    "perceptual_portions": "perceptual_chunks",
    "portions": "chunks",
    "products": "quantization",
    "quantisation": "quantization",
}
"""Of a config's field; `config.build` refuses an old one and names the new."""

PARAMETERS: Mapping[str, str] = {
    "quantiser": "quantizer",
}
"""Of a part of a parameter's path; a checkpoint with old ones is read as if renamed."""
