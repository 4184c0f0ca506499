"""Faults that a user can mend; standard library only, so that anyone may import it."""


class UserError(Exception):
    """A fault the user can mend; its message is one sentence or a few.

    Command lines end with the message and exit code 1, without a traceback.
    """


class ConfigError(UserError, ValueError):
    """A config names something unknown, lacks something or holds a wrong value."""
