"""What is of one process and cannot be sent to another."""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn

from fastps.errors import ConfigError

__all__ = ["NotPicklableError", "OfOneProcess"]


class NotPicklableError(ConfigError, TypeError):
    """What was to be pickled or copied belongs to this process. TypeError, as pickle has it."""


class OfOneProcess:
    """Base of what cannot be pickled nor copied; the error says what to do instead."""

    _instead: ClassVar[str]

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise NotPicklableError(
            f"{type(self).__name__} cannot be pickled nor copied: it belongs to this process and "
            f"its session. {self._instead}"
        )

    def __reduce__(self) -> NoReturn:
        self.__reduce_ex__(0)
