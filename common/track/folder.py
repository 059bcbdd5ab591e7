"""The folder of one stream: its name, its lock, and the words that tell readers to look again.

``ROOT/<percent-quoted stream>~<epoch>/`` holds ``catalog`` (replaced by rename), the pages, and
``state``: a block of machine words that the writer locks with flock for as long as it lives and
bumps whenever the set of pages or the catalog changes. So a reader lists the folder only when there
is something new in it.
"""

import fcntl
import mmap
import os
import shutil
from pathlib import Path
from urllib.parse import quote, unquote

from common.errors import FormatError, StoreFull, StreamBusy, StreamNotFound
from common.names import check_name
from common.track.page import PAGE_MODE, parse_page_name

STATE = "state"
CATALOG = "catalog"
FOLDER_MODE = 0o700

_STATE_SIZE = 4096
_MAGIC = int.from_bytes(b"HWSTATE1", "little")
_MAGIC_WORD, _PAGES_WORD, _CATALOG_WORD = range(3)


def folder_name(stream: str, epoch: int) -> str:
    """Return the name of the folder of one epoch of a stream."""
    return f"{quote(stream, safe='+=')}~{epoch}"


def parse_folder_name(name: str) -> tuple[str, int] | None:
    """Return (stream, epoch) of a folder's name, ``None`` if it is not a stream's."""
    quoted, tilde, epoch = name.rpartition("~")
    if not tilde or not (epoch.isascii() and epoch.isdigit()) or len(epoch) > 20:
        return None
    try:
        stream = check_name(unquote(quoted))
    except FormatError:
        return None
    return (stream, int(epoch)) if folder_name(stream, int(epoch)) == name else None


def streams_under(root: Path) -> list[tuple[str, int]]:
    """Return every (stream, epoch) with a folder under ``root``, sorted."""
    try:
        names = os.listdir(root)
    except FileNotFoundError:
        return []
    found = [parse_folder_name(name) for name in names]
    return sorted(item for item in found if item is not None)


class State:
    """The words of one stream folder. The writer's holds the lock, a reader's is read-only."""

    __slots__ = ("_fd", "_inode", "_map", "_words")

    def __init__(self, fd: int, *, writable: bool) -> None:
        """Map an open file; ``fd`` is kept open by a writer for its lock, else closed."""
        self._fd = fd if writable else -1
        self._inode = os.fstat(fd).st_ino
        access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        self._map = mmap.mmap(fd, _STATE_SIZE, access=access)
        self._words = memoryview(self._map).cast("Q")

    @classmethod
    def lock(cls, folder: Path) -> "State":
        """Create the folder if need be and become its one writer.

        Raises:
            StreamBusy: If another process, or another writer of this one, writes there.
            StoreFull: If there is no room for the folder.
        """
        while True:
            try:
                folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
                fd = os.open(folder / STATE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PAGE_MODE)
            except FileNotFoundError:
                continue  # removed in between
            except OSError as error:
                raise StoreFull(f"cannot create {folder}: {error.strerror}") from error
            if cls._claim(fd, folder):
                break
            os.close(fd)
        try:
            os.posix_fallocate(fd, 0, _STATE_SIZE)
        except OSError as error:
            os.close(fd)
            raise StoreFull(f"no room in {folder}: {error.strerror}") from error
        state = cls(fd, writable=True)
        state._words[_MAGIC_WORD] = _MAGIC
        return state

    @staticmethod
    def _claim(fd: int, folder: Path) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(fd)
            raise StreamBusy(f"another process writes the pages in {folder}") from error
        try:
            return os.stat(folder / STATE).st_ino == os.fstat(fd).st_ino
        except FileNotFoundError:
            return False  # its last owner removed it while we opened it

    @classmethod
    def view(cls, folder: Path) -> "State":
        """Open it as a reader.

        Raises:
            StreamNotFound: If no writer has been there.
        """
        try:
            fd = os.open(folder / STATE, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise StreamNotFound(f"no pages in {folder}") from error
        try:
            if os.fstat(fd).st_size < _STATE_SIZE:
                raise StreamNotFound(f"no pages in {folder} yet")
            return cls(fd, writable=False)
        finally:
            os.close(fd)

    def replaced(self, folder: Path) -> bool:
        """Whether the folder has been removed and made anew; this one's inode is not used again."""
        try:
            return os.stat(folder / STATE).st_ino != self._inode
        except FileNotFoundError:
            return False

    @property
    def pages(self) -> int:
        """Counts the changes of the set of pages."""
        return self._words[_PAGES_WORD]

    @property
    def catalogs(self) -> int:
        """Counts the changes of the catalog."""
        return self._words[_CATALOG_WORD]

    def bump_pages(self) -> None:
        """Tell readers that pages came or went."""
        self._words[_PAGES_WORD] += 1

    def bump_catalogs(self) -> None:
        """Tell readers that the catalog was replaced."""
        self._words[_CATALOG_WORD] += 1

    def close(self) -> None:
        """Let go of map and lock."""
        self._words.release()
        self._map.close()
        self._unlock()

    def _unlock(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        self._unlock()


def sweep(root: Path, before: float) -> list[tuple[str, int]]:
    """Remove stream folders that no process writes and whose files are all older than ``before``.

    Args:
        root: A node's page folder.
        before: Unix seconds.

    Returns:
        What was removed.
    """
    removed = []
    for stream, epoch in streams_under(root):
        folder = root / folder_name(stream, epoch)
        if _newest(folder) >= before:
            continue
        try:
            state = State.lock(folder)
        except (StreamBusy, StoreFull):
            continue
        state.bump_pages()
        shutil.rmtree(folder, ignore_errors=True)
        state.close()
        removed.append((stream, epoch))
    return removed


def _newest(folder: Path) -> float:
    """Return when the newest page or catalog was made, Unix seconds; 0 if there is none."""
    newest = 0.0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name == CATALOG or parse_page_name(entry.name) is not None:
                    newest = max(newest, entry.stat().st_mtime)
    except FileNotFoundError:
        return newest
    return newest
