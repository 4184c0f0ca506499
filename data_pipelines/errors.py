"""The base of every complaint of the data pipelines about its input or output.

Messages are sentences: which file or record, what is wrong with it, what to do.
"""

from unitoken_jax.config import UserError


class DataError(UserError, ValueError):
    """Input that cannot be used, or output that could not be written."""


class LoaderError(DataError):
    """A stream of batches cannot be made as asked; the message says why."""
