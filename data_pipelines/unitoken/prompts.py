"""Prompts for UniToken, as in its training data."""

import numpy as np
from PIL import Image

from data_pipelines.images import anyres, transforms
from data_pipelines.prompts import ImageInputs, PromptBuilder, PromptError, short
from data_pipelines.tokenizers.chameleon import ChameleonVocabulary
from data_pipelines.unitoken import rows, samples, sequence
from data_pipelines.unitoken.rows import SequencesConfig


class UniTokenPrompts(PromptBuilder):
    """Makes prompts and looks at pictures as the training data did.

    Attributes:
        vocabulary: Encodes the texts.
        grid: Rows and columns of a drawn image's codes.
        sizes: Its height and width in grids of 32 pixels, None without size tokens.
        row_length: Tokens of the rows of the training data.
    """

    def __init__(
        self, vocabulary: ChameleonVocabulary, config: SequencesConfig
    ) -> None:
        """Takes the rules from a stage's `data` group, of kind 'sequences'.

        Raises:
            PromptError: The kind is another, or pictures are no whole number of codes.
        """
        if config.kind != "sequences":
            raise PromptError(
                f"prompts need a stage whose data.kind is 'sequences', not "
                f"{config.kind!r}"
            )
        stride = config.layout.code_stride
        if config.image_size % stride:
            raise PromptError(
                f"pictures of {config.image_size} px are no whole number of codes of "
                f"{stride} px; correct data.image_size or data.layout.code_stride"
            )
        side = config.image_size // stride
        self.vocabulary = vocabulary
        self.grid = (side, side)
        grids = config.image_size // sequence.SIZE_STEP
        self.sizes = (grids, grids) if config.layout.size_tokens else None
        self.row_length = config.row_length
        self._config = config

    def view(self, image: Image.Image | np.ndarray) -> ImageInputs:
        """Prepare an image for the tokenizer and the continuous encoder."""
        if isinstance(image, np.ndarray):
            image = Image.fromarray(image)
        config = self._config
        side = config.views.size
        tiles = np.zeros((0, side, side, 3), np.uint8)
        if config.shows_views:
            tiles = rows.show_image(image, config)
        square = transforms.to_square(image, config.image_size, config.background)
        size = image.size
        if config.canvas == "square":
            size = (config.image_size, config.image_size)
        return ImageInputs(square, tiles, size)

    def request(self, text: str) -> np.ndarray:
        """Returns the ids of the message that asks for a picture, int32 [p].

        Raises:
            PromptError: The prompt and its picture do not fit a row.
        """
        config = self._config
        message = samples.request(text, config.layout)
        ids = sequence.encode_text(message, self.vocabulary)
        if (ids == sequence.IMAGE_MARK).any():
            raise PromptError(
                f"the prompt {short(text)} holds {sequence.PLACEHOLDER}, which stands "
                "for a picture; remove it"
            )
        # BOS and the end of the prompt's turn stand around it; no features are drawn.
        picture = self.grid[0] * (self.grid[1] + 1) + 2 * bool(self.sizes) + 2
        self._check_room(text, len(ids) + 2, picture, "the picture it asks for")
        return ids

    def question(
        self, codes: np.ndarray, size: tuple[int, int], text: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns what stands before the answer to a question about a picture.

        Args:
            codes: The picture's codes, int [rows, columns].
            size: `ImageInputs.size`.
            text: The question.

        Returns:
            Tokens and feature index, int32 [p] each, see `packing.Sample`.

        Raises:
            PromptError: They do not fit a row.
        """
        config = self._config
        message = samples.ask(text, config.layout)
        try:
            turns = sequence.encode_conversation([message], 1, self.vocabulary)
        except sequence.SequenceError as error:
            raise PromptError(f"the question {short(text)}: {error}") from error
        feature_index = anyres.feature_indices(*size, config.views)
        picture = sequence.ImageContent(codes, feature_index)
        sample = sequence.lay_out(turns, [picture], self.vocabulary, config.layout)
        self._check_room(text, len(sample.tokens), 2, "an answer")
        return sample.tokens, sample.feature_index

    def reply(self, text: str) -> np.ndarray:
        """Returns the ids of an answer and of the token that ends it, int32 [a]."""
        return np.array([*self.vocabulary.encode(text), self.vocabulary.end], np.int32)

    def text(self, ids: np.ndarray) -> str:
        """Returns the text of an answer."""
        return self.vocabulary.decode(ids).strip()

    def _check_room(self, text: str, length: int, more: int, what: str) -> None:
        room = self._config.row_length - more
        if length > room:
            raise PromptError(
                f"the prompt {short(text)} takes {length} tokens, but beside {what} "
                f"there is room for {room} in the rows of {self._config.row_length} "
                "the model was trained on; shorten it"
            )
