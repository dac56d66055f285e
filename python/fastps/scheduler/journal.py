"""The scheduler's journal: records in an SQLite file, on the disk before anybody hears of them.

One small table, appended to. WAL mode with synchronous=FULL: a transaction that was committed
outlives the process and the machine. One thread at a time.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from fastps.errors import ConfigError
from fastps.scheduler import records, wire
from fastps.scheduler.records import Record

__all__ = ["Journal"]

FORMAT = 1  # of the file, in PRAGMA user_version


class Journal:
    """An open journal file, made when it is not there.

    Parameters
    ----------
    path : path-like
        The file; SQLite keeps two more beside it.

    Raises
    ------
    ConfigError
        The file cannot be opened, or is something else.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._file = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
            (version,) = self._file.execute("PRAGMA user_version").fetchone()
            (n_tables,) = self._file.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if version != (FORMAT if n_tables else 0):
                raise ConfigError(f"{str(self.path)!r} is no journal of this version of fastps")
            self._file.execute("PRAGMA journal_mode=WAL")
            self._file.execute("PRAGMA synchronous=FULL")
            with self._file:
                self._file.execute("BEGIN IMMEDIATE")
                self._file.execute(
                    "CREATE TABLE IF NOT EXISTS records "
                    "(number INTEGER PRIMARY KEY, kind TEXT NOT NULL, body TEXT NOT NULL)"
                )
                self._file.execute(f"PRAGMA user_version={FORMAT}")
        except sqlite3.Error as error:
            raise ConfigError(
                f"the journal {str(self.path)!r} cannot be opened: {error}; give a file in a "
                "folder that exists, on a local disk"
            ) from error

    def write(self, new: Sequence[Record]) -> None:
        """Append records, all or none; when this returns they are on the disk.

        Raises
        ------
        OSError
            They are not there. They may be written again.
        """
        rows = []
        for record in new:
            kind, body = records.to_json(record)
            rows.append((kind, wire.dump(body).decode()))
        try:
            with self._file:
                self._file.execute("BEGIN IMMEDIATE")
                self._file.executemany("INSERT INTO records (kind, body) VALUES (?, ?)", rows)
        except sqlite3.Error as error:
            raise OSError(f"the journal {str(self.path)!r} cannot be written: {error}") from error

    def read(self) -> list[Record]:
        """Return all records, oldest first.

        Raises
        ------
        ConfigError
            The file is damaged.
        WireError
            It has records of another version of fastps.
        """
        try:
            rows = self._file.execute("SELECT kind, body FROM records ORDER BY number").fetchall()
        except sqlite3.Error as error:
            raise ConfigError(f"the journal {str(self.path)!r} cannot be read: {error}") from error
        return [records.from_json(kind, wire.load(body.encode())) for kind, body in rows]

    def close(self) -> None:
        """Close the file. Closing twice is fine."""
        self._file.close()
