"""What happened in a schedule, one line an event, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simulator.world import World

__all__ = ["Trace"]


class Trace:
    """Lines with their times. Kept only when somebody wants to read them: making them is slow."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.lines: list[str] = []

    def note(self, who: str, what: str) -> None:
        """Add a line."""
        self.lines.append(f"{self._world.now / 1e6:10.6f}  {who:<14} {what}")

    def text(self) -> str:
        """Return all lines."""
        return "\n".join(self.lines)
