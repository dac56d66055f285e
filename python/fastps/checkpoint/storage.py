"""Where checkpoints lie: a folder of this machine, or anything that fsspec knows.

A file is there whole and for good, or not at all. Folders of this machine: it is written under
another name, fsynced and renamed, and the folder is fsynced. Others (s3://, gs://, hdfs://,
memory://): one put under a name that nobody else uses. The manifest goes last and never takes the
place of another. Every failure is a `CheckpointError` that names the file and says what to do.
Any thread.
"""

from __future__ import annotations

import abc
import errno
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from fastps.checkpoint.manifest import ATTEMPT, MANIFEST, TAG, Manifest, check_tag, decode, encode
from fastps.errors import CheckpointError, ConfigError

__all__ = ["Store"]

# A folder may go with the attempt that failed while another one makes its own in it.
MAKE_ATTEMPTS = 3
PARTIAL = ".partial"  # ends the names of files that are being written

# What to do about an error, by its number.
ADVICE = {
    errno.ENOSPC: "no space is left: free some, or save elsewhere",
    errno.EDQUOT: "the disk quota is used up: free some space, or save elsewhere",
    errno.EFBIG: "the file is larger than allowed here: see `ulimit -f`, or save elsewhere",
    errno.EACCES: "no permission: give the user of every server access to the folder",
    errno.EPERM: "no permission: give the user of every server access to the folder",
    errno.EROFS: "the file system is read-only: save elsewhere",
    errno.ENOENT: "it does not exist",
    errno.ENOTDIR: "something on its path is a file, not a folder",
    errno.EISDIR: "it is a folder, not a file",
    errno.EIO: "the disk or the network failed: look into the system's log",
    errno.ENAMETOOLONG: "the name is too long",
}
# What file systems that do not know hard links say of one.
NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS}
# What stores that do not know conditional puts say of one (s3fs: ENOSYS is 501).
NO_CONDITIONS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
# Object stores: making a folder there would make its bucket, which takes rights that few jobs have.
WITHOUT_FOLDERS = {"s3", "gs", "abfs", "oss", "r2"}


class Store:
    """The checkpoints in one folder.

    Parameters
    ----------
    uri : str or path
        A path, or a URL: ``file:///data/c``, ``s3://bucket/c``, ``memory://c``. How to reach a
        store is up to its own settings (``AWS_ENDPOINT_URL``, ``FSSPEC_S3_KEY``, ...), which each
        server needs as well.

    Attributes
    ----------
    uri : str
        The same for every process: relative paths made absolute.

    Raises
    ------
    ConfigError
        No such kind of URL is known, or what it needs is not installed.
    """

    def __init__(self, uri: str | os.PathLike[str]) -> None:
        text = os.fspath(uri)
        if not isinstance(text, str) or not text:
            raise ConfigError(f"the folder of checkpoints is {uri!r}; needed is a path or a URL")
        scheme, colon, rest = text.partition("://")
        if not colon or scheme in ("file", "local"):
            root = Path(rest if colon else text).expanduser().absolute()
            self.uri = str(root)
            self._files: _Files = _LocalFiles(root)
        else:
            self.uri = text.rstrip("/") if rest.strip("/") else text
            self._files = _RemoteFiles(self.uri)

    def __repr__(self) -> str:
        return f"Store({self.uri!r})"

    def where(self, name: str) -> str:
        """Return a file's full name, for messages."""
        return f"{self.uri.rstrip('/')}/{name}"

    # Files.

    def write_file(self, name: str, data: bytes) -> None:
        """Write a file that is there whole when this returns, for good, and else not at all.

        Parameters
        ----------
        name : str
            Relative to the root; nobody else writes one of that name.
        data : bytes
            Its content.
        """
        with self._explained("write", name):
            self._files.write(name, data)

    def write_new_file(self, name: str, data: bytes) -> bool:
        """Write a file; return False, and leave what is there, when there is one of that name."""
        with self._explained("write", name):
            try:
                self._files.write_new(name, data)
            except FileExistsError:
                return False
        return True

    def remove_file(self, name: str) -> None:
        """Remove a file, if it is there."""
        with self._explained("remove", name):
            self._files.remove(name)

    def write_manifest(self, manifest: Manifest) -> None:
        """Write the manifest of a checkpoint, all of whose files are there.

        Raises
        ------
        CheckpointError
            There is a checkpoint of that name, or a file cannot be written.
        """
        data = encode(manifest)
        name = f"{manifest.tag}/{MANIFEST}"
        with self._explained("write", name):
            try:
                self._files.write_new(name, data)
            except FileExistsError:
                # A put whose answer was lost is repeated by the library below: then it is ours.
                if self._files.read(name) != data:
                    raise CheckpointError(self._is_taken(manifest.tag)) from None

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        with self._explained("read", name):
            return self._files.read(name)

    def replace_manifest(self, manifest: Manifest) -> None:
        """Write a manifest, all of whose files are there, in the place of a former one at once."""
        former = self.read_manifest(manifest.tag) if manifest.tag in self.list_tags() else None
        name = f"{manifest.tag}/{MANIFEST}"
        with self._explained("write", name):
            self._files.write(name, encode(manifest))
        if former is not None and former.attempt != manifest.attempt:
            self.remove_attempt(former.tag, former.attempt)

    def read_manifest(self, tag: str) -> Manifest:
        """Return the manifest of the checkpoint of that name.

        Raises
        ------
        CheckpointError
            There is none, or it is damaged or of an unknown version.
        """
        name = f"{check_tag(tag)}/{MANIFEST}"
        try:
            data = self.read(name)
        except CheckpointError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise CheckpointError(self._not_there(tag)) from error
            raise
        manifest = decode(data, self.where(name))
        if manifest.tag != tag:
            raise CheckpointError(
                f"{self.where(name)} is the manifest of checkpoint {manifest.tag!r}: its "
                "folder cannot be renamed; give it its name again"
            )
        return manifest

    def check_parts(self, manifest: Manifest) -> None:
        """Make sure that the files of a checkpoint are there, with their sizes.

        Raises
        ------
        CheckpointError
            They are not: who wrote them and this process do not see the same folder.
        """
        folder = f"{manifest.tag}/{manifest.attempt}"
        with self._explained("list", folder):
            sizes = self._files.files(folder)
        for part in (part for table in manifest.tables for part in table.parts):
            name = part.file.rpartition("/")[2]
            if sizes.get(name) != part.bytes:
                raise CheckpointError(
                    f"{self.where(f'{manifest.tag}/{part.file}')} was written with {part.bytes} "
                    f"bytes, but this process finds {sizes.get(name, 'no such file')}: give a "
                    "folder that all servers and workers share"
                )

    def list_tags(self) -> list[str]:
        """Return the names of the complete checkpoints, sorted."""
        with self._explained("list", ""):
            return [tag for tag in self.list_folders() if self._files.exists(f"{tag}/{MANIFEST}")]

    # Removal.

    def check_free(self, tag: str) -> None:
        """Raise `CheckpointError` when there is a complete checkpoint of that name."""
        if tag in self.list_tags():
            raise CheckpointError(self._is_taken(tag))

    def list_folders(self) -> list[str]:
        """Return the folders that may be checkpoints, with and without manifest, sorted."""
        with self._explained("list", ""):
            return sorted(name for name in self._files.folders("") if TAG.fullmatch(name))

    def remove(self, tag: str) -> None:
        """Remove a checkpoint, its manifest first: what is left of it counts as none."""
        with self._explained("remove", f"{tag}/{MANIFEST}"):
            self._files.remove(f"{tag}/{MANIFEST}")
        for attempt in self.list_attempts(tag):
            self.remove_attempt(tag, attempt)
        with self._explained("remove", tag):
            for name in self._files.files(tag):
                if name.endswith(PARTIAL):
                    self._files.remove(f"{tag}/{name}")
            self._files.remove_folder(tag)

    def list_attempts(self, tag: str) -> list[str]:
        """Return the attempts to write a checkpoint of which files are left."""
        with self._explained("list", tag):
            return sorted(name for name in self._files.folders(tag) if ATTEMPT.fullmatch(name))

    def remove_attempt(self, tag: str, attempt: str) -> None:
        """Remove what an attempt wrote, and the checkpoint's folder if nothing else is in it."""
        folder = f"{tag}/{attempt}"
        with self._explained("remove", folder):
            for name in self._files.files(folder):
                if name.endswith((".safetensors", PARTIAL)):
                    self._files.remove(f"{folder}/{name}")
            self._files.remove_folder(folder)
            self._files.remove_folder(tag)

    def age(self, tag: str, attempt: str) -> float:
        """Return how many seconds ago an attempt wrote its last file; 0 when nobody can tell."""
        with self._explained("list", f"{tag}/{attempt}"):
            return max(0.0, time.time() - self._files.written_at(f"{tag}/{attempt}"))

    def has_only_attempts(self, tag: str) -> bool:
        """Whether nothing but attempts to save is in a folder: so nobody else's files."""
        with self._explained("list", tag):
            folders = self._files.folders(tag)
            return (
                bool(folders)
                and all(ATTEMPT.fullmatch(name) for name in folders)
                and all(name.endswith(PARTIAL) for name in self._files.files(tag))
                and not any(self._files.folders(f"{tag}/{name}") for name in folders)
                and all(
                    name.endswith((".safetensors", PARTIAL))
                    for folder in folders
                    for name in self._files.files(f"{tag}/{folder}")
                )
            )

    # Errors.

    def _is_taken(self, tag: str) -> str:
        return (
            f"there is a checkpoint {tag!r} in {self.uri} already, and none is overwritten; give "
            "another tag, or none"
        )

    def _not_there(self, tag: str) -> str:
        tags = self.list_tags()
        if not tags:
            return f"there is no complete checkpoint in {self.uri}"
        shown = ", ".join(tags[-10:])
        return f"there is no complete checkpoint {tag!r} in {self.uri}; the last are {shown}"

    @contextmanager
    def _explained(self, doing: str, name: str) -> Iterator[None]:
        """Turn whatever a file system raises into a CheckpointError."""
        try:
            yield
        except (CheckpointError, ConfigError, MemoryError):
            raise
        except ImportError as error:
            raise _missing_package(self.uri, error) from error
        # A store raises what its libraries please: botocore, aiohttp, pyarrow have their own.
        except Exception as error:
            where = self.where(name) if name else self.uri
            raise CheckpointError(f"cannot {doing} {where}: {_why(error)}") from error


def _why(error: Exception) -> str:
    number = error.errno if isinstance(error, OSError) else None
    if number is None and isinstance(error, FileNotFoundError):
        number = errno.ENOENT
    if number is None and isinstance(error, PermissionError):
        number = errno.EACCES
    said = " ".join(str(error).split()) or type(error).__name__
    advice = ADVICE.get(number or 0)
    if advice is None:
        return f"{type(error).__name__}: {said:.500}"
    return f"{advice} ({said:.500})"


class _Files(abc.ABC):
    """A file system, names relative to a root. Raises whatever it likes."""

    @abc.abstractmethod
    def write(self, name: str, data: bytes) -> None: ...

    @abc.abstractmethod
    def write_new(self, name: str, data: bytes) -> None:
        """Write; FileExistsError when there is one of that name."""

    @abc.abstractmethod
    def read(self, name: str) -> bytes: ...

    @abc.abstractmethod
    def exists(self, name: str) -> bool: ...

    @abc.abstractmethod
    def folders(self, folder: str) -> list[str]:
        """Return the folders in a folder; none when it does not exist."""

    @abc.abstractmethod
    def files(self, folder: str) -> dict[str, int]:
        """Return the files in a folder with their sizes; none when it does not exist."""

    @abc.abstractmethod
    def written_at(self, folder: str) -> float:
        """Return when the last file of a folder was written, in Unix time; inf: unknown."""

    @abc.abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

    @abc.abstractmethod
    def remove_folder(self, folder: str) -> None:
        """Remove a folder, if it is there and empty."""


class _LocalFiles(_Files):
    def __init__(self, root: Path) -> None:
        self._root = root

    def write(self, name: str, data: bytes) -> None:
        target = self._root / name
        with self._partial(target, data) as partial:
            partial.replace(target)

    def write_new(self, name: str, data: bytes) -> None:
        target = self._root / name
        with self._partial(target, data) as partial:
            try:
                os.link(partial, target)
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
                self._write_last(target, data)

    def _write_last(self, target: Path, data: bytes) -> None:
        """Write a file in place, where there are no links; not even a piece of it when it fails."""
        try:
            _write_synced(target, data)
        except FileExistsError:
            raise
        except OSError:
            with suppress(OSError):
                target.unlink(missing_ok=True)
            raise

    @contextmanager
    def _partial(self, target: Path, data: bytes) -> Iterator[Path]:
        """Write a durable file beside `target` for the block to give it that name."""
        _make_folder(target.parent)
        partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}{PARTIAL}")
        try:
            _write_synced(partial, data)
            yield partial
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
        _sync_folder(target.parent)

    def read(self, name: str) -> bytes:
        return (self._root / name).read_bytes()

    def exists(self, name: str) -> bool:
        return (self._root / name).exists()

    def folders(self, folder: str) -> list[str]:
        return [entry.name for entry in self._entries(folder) if entry.is_dir()]

    def files(self, folder: str) -> dict[str, int]:
        return {
            entry.name: entry.stat().st_size
            for entry in self._entries(folder)
            if not entry.is_dir()
        }

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self._root / folder) as entries:
                return list(entries)
        except FileNotFoundError:
            return []

    def written_at(self, folder: str) -> float:
        times = [entry.stat().st_mtime for entry in self._entries(folder)]
        return max(times, default=(self._root / folder).stat().st_mtime)

    def remove(self, name: str) -> None:
        (self._root / name).unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            _sync_folder((self._root / name).parent)

    def remove_folder(self, folder: str) -> None:
        try:
            (self._root / folder).rmdir()
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise


def _write_synced(path: Path, data: bytes) -> None:
    """Write a new file, durable but for its name."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it, durable."""
    for _ in range(MAKE_ATTEMPTS - 1):
        with suppress(FileNotFoundError):
            _make_missing(folder)
            return
    _make_missing(folder)


def _make_missing(folder: Path) -> None:
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        each.mkdir(exist_ok=True)  # another server may have been faster
        _sync_folder(each.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _RemoteFiles(_Files):
    def __init__(self, uri: str) -> None:
        try:
            import fsspec
        except ImportError as error:
            raise ConfigError(
                f"checkpoints at {uri} need fsspec, which is not installed; install it with: "
                "pip install 'fastps[checkpoint]'"
            ) from error
        try:
            self._fs: Any
            self._fs, root = fsspec.core.url_to_fs(uri)
        except ImportError as error:
            raise _missing_package(uri, error) from error
        except ValueError as error:
            raise ConfigError(f"checkpoints at {uri}: {error}") from error
        self._root = root.rstrip("/")

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _make_folder(self, path: str) -> None:
        protocols = self._fs.protocol
        known = {protocols} if isinstance(protocols, str) else set(protocols)
        if not known & WITHOUT_FOLDERS:
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)

    def write(self, name: str, data: bytes) -> None:
        path = self._path(name)
        self._make_folder(path)
        self._fs.pipe_file(path, data)

    def write_new(self, name: str, data: bytes) -> None:
        path = self._path(name)
        self._make_folder(path)
        try:
            self._fs.pipe_file(path, data, mode="create")
        except FileExistsError:
            raise
        except Exception as error:
            # Stores say "there is one" in their own ways (s3fs: EINVAL).
            if self.exists(name):
                raise FileExistsError(path) from error
            is_unknown = isinstance(error, TypeError | NotImplementedError)
            if not is_unknown and getattr(error, "errno", 0) not in NO_CONDITIONS:
                raise
            self._fs.pipe_file(path, data)

    def read(self, name: str) -> bytes:
        content: bytes = self._fs.cat_file(self._path(name))
        return content

    def exists(self, name: str) -> bool:
        self._fs.invalidate_cache()
        return bool(self._fs.exists(self._path(name)))

    def folders(self, folder: str) -> list[str]:
        return [_base(entry) for entry in self._entries(folder) if entry["type"] == "directory"]

    def files(self, folder: str) -> dict[str, int]:
        return {
            _base(entry): int(entry["size"] or 0)
            for entry in self._entries(folder)
            if entry["type"] != "directory"
        }

    def _entries(self, folder: str) -> list[dict[str, Any]]:
        path = self._path(folder)
        self._fs.invalidate_cache()
        try:
            entries = self._fs.ls(path, detail=True)
        except FileNotFoundError:
            return []
        # Object stores list a folder's own marker among its content.
        return [entry for entry in entries if entry["name"].strip("/") != path.strip("/")]

    def written_at(self, folder: str) -> float:
        times = [
            entry.get("LastModified") or entry.get("mtime") or entry.get("created")
            for entry in self._entries(folder)
        ]
        seconds: list[float] = [each.timestamp() for each in times if isinstance(each, datetime)]
        return max(seconds) if times and len(seconds) == len(times) else float("inf")

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._fs.rm_file(self._path(name))

    def remove_folder(self, folder: str) -> None:
        with suppress(FileNotFoundError):
            if self._fs.isdir(self._path(folder)) and not self._entries(folder):
                self._fs.rmdir(self._path(folder))


def _base(entry: dict[str, Any]) -> str:
    return str(entry["name"]).rstrip("/").rpartition("/")[2]


def _missing_package(uri: str, error: ImportError) -> ConfigError:
    """Say what to install so that fsspec can reach `uri`."""
    extra = "checkpoint,s3" if uri.startswith(("s3://", "s3a://")) else "checkpoint"
    return ConfigError(
        f"checkpoints at {uri} need a package that is not installed ({error}); install it, or "
        f"pip install 'fastps[{extra}]'"
    )
