"""The scheduler's journal: records in an SQLite file, on the disk before anybody hears of them.

One small table, appended to. WAL mode with synchronous=FULL: a transaction that was committed
outlives the process and the machine. One thread at a time; and one process, by a lock on a file
beside it that the kernel takes back when its holder ends, however that was.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from fastps.errors import ConfigError
from fastps.scheduler import records, wire
from fastps.scheduler.records import Record

__all__ = ["Journal"]

FORMAT = 2  # of the file, in PRAGMA user_version
LOCK_SUFFIX = "-lock"


class Journal:
    """An open journal file, made when it is not there.

    Parameters
    ----------
    path : path-like
        The file; beside it SQLite keeps two more, and the lock is one.

    Attributes
    ----------
    n_records : int
        How many there are.

    Raises
    ------
    ConfigError
        The file cannot be opened, is something else, or another process has it open.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = self._take_lock()
        try:
            self._open()
        except BaseException:
            os.close(self._lock)
            raise

    def _take_lock(self) -> int:
        beside = self.path.with_name(self.path.name + LOCK_SUFFIX)
        try:
            lock = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._not_opened(error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise ConfigError(
                f"the journal {str(self.path)!r} is in use by another scheduler: two must never "
                "run on one. End that one first, or give another file"
            ) from error
        return lock

    def _not_opened(self, error: Exception) -> ConfigError:
        return ConfigError(
            f"the journal {str(self.path)!r} cannot be opened: {error}; give a file in a "
            "folder that exists, on a local disk"
        )

    def _open(self) -> None:
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
            (self.n_records,) = self._file.execute("SELECT count(*) FROM records").fetchone()
        except sqlite3.Error as error:
            raise self._not_opened(error) from error

    def write(self, new: Sequence[Record]) -> None:
        """Append records, all or none; when this returns they are on the disk.

        Raises
        ------
        OSError
            They are not there. They may be written again.
        """
        self._write(new, replace=False)

    def replace(self, records_of_all: Sequence[Record]) -> None:
        """Put these in the place of all records, at once; errors as for `write`."""
        self._write(records_of_all, replace=True)

    def _write(self, new: Sequence[Record], replace: bool) -> None:
        rows = []
        for record in new:
            kind, body = records.to_json(record)
            rows.append((kind, wire.dump(body).decode()))
        try:
            with self._file:
                self._file.execute("BEGIN IMMEDIATE")
                if replace:
                    self._file.execute("DELETE FROM records")
                self._file.executemany("INSERT INTO records (kind, body) VALUES (?, ?)", rows)
        except sqlite3.Error as error:
            raise OSError(f"the journal {str(self.path)!r} cannot be written: {error}") from error
        self.n_records = len(rows) if replace else self.n_records + len(rows)

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
        """Close the file and let its lock go. Closing twice is fine."""
        self._file.close()
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1
