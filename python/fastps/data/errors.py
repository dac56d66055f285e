"""The exception of input data that cannot be used."""

from __future__ import annotations

from fastps.errors import ValueRangeError

__all__ = ["DataError"]


class DataError(ValueRangeError):
    """Input data is missing, damaged, or not what it should be.

    The message starts with the file and, where there is one, the line: ``a1a:17: label 'x' ...``.
    """
