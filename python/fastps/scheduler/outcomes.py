"""How the last saves and restores went, for those who ask late. Pure values."""

from __future__ import annotations

from collections import OrderedDict

from fastps.errors import CheckpointError
from fastps.scheduler.actions import Action, Reply, Ticket, refusal
from fastps.scheduler.messages import ATTEMPT, SAVE_AGAIN, TAG, Message

__all__ = ["Outcomes", "check_id", "check_place"]

OUTCOMES_MAX = 16
ID_DIGITS = 32
URI_BYTES_MAX = 4096


class Outcomes:
    """By the id of a save or restore: its answers, or why it failed. Of the newest few.

    The answer that tells what servers wrote may be long: only that of the newest save is kept.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[Message, ...] | str | CheckpointError] = OrderedDict()

    def __contains__(self, made_id: str) -> bool:
        return made_id in self._known

    def keep(self, made_id: str, outcome: tuple[Message, ...] | str | CheckpointError) -> None:
        """Remember the answers to its requests, or the text of its failure."""
        if isinstance(outcome, tuple) and len(outcome) > 1:
            for former, known in self._known.items():
                if isinstance(known, tuple):
                    self._known[former] = known[:1]
        self._known[made_id] = outcome
        while len(self._known) > OUTCOMES_MAX:
            self._known.popitem(last=False)

    def answer(self, made_id: str, ticket: Ticket, n: int = 0) -> list[Action]:
        """Answer a late request with the n-th message, or with the failure.

        Requires: made_id in self.
        """
        outcome = self._known[made_id]
        if isinstance(outcome, str):
            outcome = CheckpointError(outcome)
        if isinstance(outcome, CheckpointError):
            return [refusal(ticket, outcome)]
        if n >= len(outcome):
            raise CheckpointError(
                f"what the save {made_id} wrote is not known any more, for others were made since; "
                f"{SAVE_AGAIN}",
                again=True,
            )
        return [Reply(*ticket, outcome[n], with_map=True)]


def check_id(what: str, number: str) -> None:
    """Raise `CheckpointError` unless the text is one of 128 bits."""
    if len(number) != ID_DIGITS or set(number) - set("0123456789abcdef"):
        raise CheckpointError(f"{what} is {number!r:.50}, needed are {ID_DIGITS} hex digits")


def check_place(uri: str, tag: str, attempt: str | None = None) -> None:
    """Raise `CheckpointError` unless servers may make names of files of these."""
    if not 1 <= len(uri.encode()) <= URI_BYTES_MAX:
        raise CheckpointError(
            f"a checkpoint is at {uri!r:.100}; needed are 1 to {URI_BYTES_MAX} bytes"
        )
    if not TAG.fullmatch(tag):
        raise CheckpointError(f"a checkpoint has the tag {tag!r:.100}, not one like {TAG.pattern}")
    if attempt is not None and not ATTEMPT.fullmatch(attempt):
        raise CheckpointError(f"a save is attempt {attempt!r:.50}, not one like {ATTEMPT.pattern}")
