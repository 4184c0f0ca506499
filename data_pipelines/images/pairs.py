"""Elements of the kinds 'pictures' and 'pairs': one square picture, maybe a caption."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from data_pipelines.config import AugmentConfig, PairsConfig, PicturesConfig
from data_pipelines.images import decoding, transforms
from data_pipelines.storage.record_cache import Gallery
from data_pipelines.storage.records import Record, RecordError
from data_pipelines.tokenizers.chameleon import ChameleonVocabulary
from data_pipelines.tokenizers.clip import ClipVocabulary

Element = dict[str, np.ndarray]
Build = Callable[[int, np.random.Generator], Element]

# A mirrored picture contradicts a text that names a side or a direction of turning.
_SIDES = re.compile(r"\b(left|right|anti|counter)?-?(left|right|clockwise)\w*", re.I)


@dataclass(frozen=True)
class Fitted:
    """A picture scaled to fit its square, transparency kept, with its captions."""

    picture: Image.Image
    captions: Sequence[str]

    @property
    def nbytes(self) -> int:
        """Bytes of the pixels."""
        return 4 * self.picture.width * self.picture.height


def fit_record(record: Record, size: int, crop: float = 1.0) -> Fitted:
    """Decodes a record's picture and scales it to fit a square of `size` pixels.

    With a random `crop` to come, that share of its area is to cover the square.

    Raises:
        PictureError: its bytes are no usable picture.
    """
    picture = decoding.decode(record["image"], f"record {record['id']!r}")
    if crop < 1:
        enough = math.ceil(size / crop**0.5)
        return Fitted(transforms.cover(picture, enough), record["captions"])
    return Fitted(transforms.fit(picture, size), record["captions"])


def place(
    fitted: Fitted,
    config: PicturesConfig | PairsConfig,
    rng: np.random.Generator,
    text: str = "",
) -> np.ndarray:
    """Returns a fitted picture over its background, uint8 [H, W, 3], augmented."""
    augment: AugmentConfig = config.augment
    background = config.background
    if augment.background and rng.random() < augment.background:
        red, green, blue = rng.integers(0, 256, 3).tolist()
        background = (red, green, blue)
    picture = fitted.picture
    if augment.crop < 1:
        picture = transforms.random_crop(picture, config.image_size, augment.crop, rng)
    image = transforms.to_square(picture, config.image_size, background)
    if augment.flip and rng.random() < augment.flip and not _SIDES.search(text):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def picture_elements(gallery: Gallery[Fitted], config: PicturesConfig) -> Build:
    """Returns what builds {image uint8 [H, W, 3], record int32 []}.

    A record that was set aside gives way to the next good one.
    """

    def build(index: int, rng: np.random.Generator) -> Element:
        number, fitted = gallery.good_from(index)
        return {
            "image": place(fitted, config, rng),
            "record": np.array(number, np.int32),
        }

    return build


def caption_encoder(
    vocabulary: ChameleonVocabulary, config: PairsConfig
) -> Callable[[str], np.ndarray]:
    """Returns what turns a caption into ids, int32 [X], cut at X or padded.

    Raises:
        VocabularyError: `clip_tokenizer` is no such file.
    """
    length = config.text_length
    if config.clip_tokenizer is not None:
        tokenizer = ClipVocabulary.from_file(config.clip_tokenizer)
        return lambda caption: tokenizer.frame(caption, length)

    def encode(caption: str) -> np.ndarray:
        ids = vocabulary.encode(caption)
        if config.text_end:
            ids = [*ids[: length - 1], vocabulary.size]
        row = np.full(length, vocabulary.pad, np.int32)
        row[: min(len(ids), length)] = ids[:length]
        return row

    return encode


def pair_elements(
    gallery: Gallery[Fitted], vocabulary: ChameleonVocabulary, config: PairsConfig
) -> Build:
    """Returns what builds {image uint8 [H, W, 3], text int32 [X], record int32 []}.

    The text is one of the record's captions by chance, cut at X ids or padded.
    """
    encode = caption_encoder(vocabulary, config)

    def build(index: int, rng: np.random.Generator) -> Element:
        number, fitted = gallery.good_from(index)
        caption = fitted.captions[int(rng.integers(len(fitted.captions)))]
        text = encode(caption)
        image = place(fitted, config, rng, caption)
        return {"image": image, "text": text, "record": np.array(number, np.int32)}

    return build


def require_caption(record: Record) -> Record:
    """Returns a record that has a caption.

    Raises:
        RecordError: it has none.
    """
    if not record["captions"]:
        raise RecordError(f"record {record['id']!r} has no caption to pair it with")
    return record
