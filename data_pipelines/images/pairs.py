"""The kinds 'images' and 'pairs': one square image, maybe with a caption."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from data_pipelines.config import (
    DataConfig,
    Source,
    check_positive,
    check_probability,
    policy_of,
)
from data_pipelines.elements import BatchSpec, BuildRecord, Element, Elements
from data_pipelines.images import decoding, transforms
from data_pipelines.storage.manifest import Policy, file_digest
from data_pipelines.storage.record_cache import RecordCache
from data_pipelines.storage.records import Record, RecordError
from data_pipelines.tokenizers.chameleon import ChameleonVocabulary
from data_pipelines.tokenizers.clip import ClipVocabulary
from data_pipelines.tokenizers.vocabulary import ImageTextVocabulary
from unitoken_jax.files import UserPath

# A mirrored picture contradicts a text that names a side or a direction of turning.
_SIDES = re.compile(r"\b(left|right|anti|counter)?-?(left|right|clockwise)\w*", re.I)


@dataclass(frozen=True)
class AugmentConfig:
    """Light changes of images, drawn anew each time; none by default.

    Attributes:
        flip: probability of mirroring; never done when the text names a side.
        background: probability of a random plain background behind transparency.
        crop: share of a image's area, the least that a random crop keeps; it is
            resized to the square, with sides of 3 : 4 to 4 : 3. 1 fits whole images.
    """

    flip: float = 0.0
    background: float = 0.0
    crop: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.crop <= 1:
            raise ValueError(f"crop must be in (0, 1], not {self.crop}")
        check_probability("flip", self.flip)
        check_probability("background", self.background)


@dataclass(frozen=True)
class ImagesConfig(DataConfig):
    """Images: the first of each record, which one element a record stands for.

    Attributes:
        augment: changes of images.
    """

    kind: Literal["images"] = "images"
    augment: AugmentConfig = AugmentConfig()

    def elements(
        self, source: Source, vocabulary: ImageTextVocabulary | None, seed: int
    ) -> Elements:
        """Return an element for each image."""
        del vocabulary, seed
        policy = policy_of(source)

        def prepare(record: Record) -> Fitted:
            return fit_record(record, self.image_size, self.augment.crop, policy)

        cache = self.record_cache(source, prepare)
        summary = f"{self.kind}: {len(cache):,} records"
        return Elements(cache, image_elements(cache, self), summary=summary)

    def batch_spec(
        self, batch: int, *, tokens: int | None = None, codebooks: int = 1
    ) -> BatchSpec:
        """Return shape and type of every array that a batch brings to the devices."""
        return {"image": ((batch, self.image_size, self.image_size, 3), np.uint8)}


@dataclass(frozen=True)
class PairsConfig(DataConfig):
    """Images, each with one of its captions: the first of each record.

    Attributes:
        augment: changes of images.
        text_length: X, ids of a caption; longer ones are cut.
        text_end: whether a caption ends with one more id, the size of the vocabulary:
            a CLIP text tower reads at the largest id. CLIP's own tokenizer has it.
        clip_tokenizer: file of CLIP's tokenizer, for captions in its ids instead of
            the data set's; None is the data set's.
    """

    kind: Literal["pairs"] = "pairs"
    augment: AugmentConfig = AugmentConfig()
    text_length: int = 16
    text_end: bool = False
    clip_tokenizer: UserPath | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "text_length")
        if self.text_end and self.clip_tokenizer is not None:
            raise ValueError(
                "text_end is of captions in the data set's ids; with clip_tokenizer "
                "every caption ends as CLIP's do, so leave text_end out"
            )

    def elements(
        self, source: Source, vocabulary: ImageTextVocabulary | None, seed: int
    ) -> Elements:
        """Return an element for each image, with one of its captions."""
        del seed
        words = self.require_chameleon(vocabulary)
        policy = policy_of(source)

        def prepare(record: Record) -> Fitted:
            checked = require_caption(record)
            return fit_record(checked, self.image_size, self.augment.crop, policy)

        cache = self.record_cache(source, prepare)
        elements = Elements(
            cache,
            pair_elements(cache, words, self),
            summary=f"{self.kind}: {len(cache):,} records",
        )
        if self.clip_tokenizer is None:
            return elements
        return replace(elements, made_with=(file_digest(Path(self.clip_tokenizer)),))

    def batch_spec(
        self, batch: int, *, tokens: int | None = None, codebooks: int = 1
    ) -> BatchSpec:
        """Return shape and type of every array that a batch brings to the devices."""
        return {
            "image": ((batch, self.image_size, self.image_size, 3), np.uint8),
            "text": ((batch, self.text_length), np.int32),
        }


@dataclass(frozen=True)
class Fitted:
    """A picture scaled to fit its square, transparency kept, with its captions."""

    picture: Image.Image
    captions: Sequence[str]

    @property
    def nbytes(self) -> int:
        """Bytes of the pixels."""
        return 4 * self.picture.width * self.picture.height


def fit_record(
    record: Record, size: int, crop: float = 1.0, policy: Policy = "released"
) -> Fitted:
    """Decodes a record's first picture and scales it to fit a square of `size` pixels.

    With a random `crop` to come, that share of its area is to cover the square.

    Raises:
        ImageError: its bytes are no usable picture.
        RecordError: the record is of text alone.
    """
    picture = decoding.decode_image(record, policy=policy)
    if crop < 1:
        enough = math.ceil(size / crop**0.5)
        return Fitted(transforms.cover(picture, enough), record["captions"])
    return Fitted(transforms.fit(picture, size), record["captions"])


def place(
    fitted: Fitted,
    config: ImagesConfig | PairsConfig,
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


def image_elements(cache: RecordCache[Fitted], config: ImagesConfig) -> BuildRecord:
    """Returns what builds {image uint8 [H, W, 3], record int32 []}.

    A record that was set aside gives way to the next good one.
    """

    def build(index: int, rng: np.random.Generator) -> Element:
        number, fitted = cache.good_from(index)
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
    cache: RecordCache[Fitted], vocabulary: ChameleonVocabulary, config: PairsConfig
) -> BuildRecord:
    """Returns what builds {image uint8 [H, W, 3], text int32 [X], record int32 []}.

    The text is one of the record's captions by chance, cut at X ids or padded.
    """
    encode = caption_encoder(vocabulary, config)

    def build(index: int, rng: np.random.Generator) -> Element:
        number, fitted = cache.good_from(index)
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
