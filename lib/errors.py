"""Errors of a user's input: each message is one line that says what, where and the remedy."""

import errno


class InputError(ValueError):
    """A user's input cannot be used; the message is one line: the value, its place, the remedy."""


class ParamsError(InputError):
    """A parameter is unknown, of the wrong type, out of range or contradicts another one."""


class DataError(InputError):
    """The data cannot be used as the parameters ask; the message names file, column and row."""


class NotFiniteError(InputError, FloatingPointError):
    """The loss or its gradient is not finite: names step, documents and learning rate."""


class ModelError(InputError):
    """A model id cannot be resolved, or its weights are damaged."""


class DiskFullError(InputError, OSError):
    """There is no room for a file; the message names it."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.errno = errno.ENOSPC
