"""Where results are made before they take their place, and what a process that was killed left there.

Files and folders are made beside their place, under a name that no other process uses and with a lock
that ends with the process, and take their place by one renaming. So at the place is always one whole
result, whoever else writes to it, and what a killed process left is known by its free lock: the next
that writes there removes it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows: no locks
    fcntl = None  # type: ignore[assignment]

__all__ = ["WHOLE", "at_work", "check_name", "put_in_place", "remove", "scratch_file", "scratch_folder", "sweep"]

# The finished results in a scratch folder, and what they replace.
WHOLE, REPLACED = "whole", "replaced"
# Without locks, what was not touched for as long, in seconds, is left over.
STALE = 86400.0
UNLOCKED = -1
# Between a renaming and the next of another process, which are tried again.
PAUSE, TRIES = 0.01, 50
# Bytes of a name in common file systems, and what is added to it here.
LONGEST, ADDED = 255, 22


def check_name(path: str) -> None:
    """ValueError for a name that no file can have."""
    name = os.path.basename(path.rstrip("/"))
    if not name or "\0" in path:
        raise ValueError(f"{path!r:.80} is no name of a file.")
    if len(os.fsencode(name)) > LONGEST - ADDED:
        raise ValueError(f"'{name:.40}...' is too long a name for a file; give a shorter one.")


@contextlib.contextmanager
def scratch_folder(target: Path) -> Iterator[Path]:
    """A new folder beside ``target``, locked; removed in the end with what is still in it."""
    while True:
        made = _name(target, "new")
        made.mkdir()
        held = _hold(made, mine=True)
        if held is not None:
            break
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        _let_go(held)


@contextlib.contextmanager
def scratch_file(target: Path) -> Iterator[tuple[Path, Any]]:
    """A new file beside ``target``, open for writing, locked; removed in the end if it is still there."""
    while True:
        made = _name(target, "new")
        file = open(made, "xb")
        if fcntl is None or _lock(file.fileno(), made, True):
            break
        file.close()
    with file:
        try:
            yield made, file
        finally:
            made.unlink(missing_ok=True)


def put_in_place(whole: Path, target: Path, *, overwrite: bool, check: Callable[[Path], None]) -> None:
    """Rename a folder to ``target``; what is there goes aside, into the folder that ``whole`` is in.

    Raises
    ------
    FileExistsError
        Something is there, and ``overwrite`` is False.
    ValueError
        ``check(target)``: it is not to be replaced.
    """
    for k in range(TRIES):
        try:
            os.rename(whole, target)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR) and not target.exists():
                raise
        if not overwrite:
            raise FileExistsError(f"{target} exists; give another path, or overwrite=True.")
        try:
            check(target)
        except ValueError:  # or another process is about to put its result there
            if k + 1 == TRIES:
                raise
            time.sleep(PAUSE)
            continue
        with contextlib.suppress(FileNotFoundError):
            os.rename(target, whole.with_name(f"{REPLACED}-{uuid.uuid4().hex[:12]}"))
    raise OSError(f"{target} is written by many processes at once, and it was never this one's turn; try again.")


def remove(folder: Path) -> None:
    """Delete a folder; by another name first, so that it is there whole or not at all."""
    gone = _name(folder, "old")
    try:
        os.rename(folder, gone)
    except FileNotFoundError:  # another process was faster
        return
    shutil.rmtree(gone, ignore_errors=True)


def sweep(target: Path) -> None:
    """Remove what killed processes left of their work on ``target``, and finish what they had nearly finished."""
    for path in _scratch(target):
        held = _hold(path)
        if held is None:  # of a process that is alive
            continue
        if any(path.glob(f"{REPLACED}-*")) and not os.path.lexists(target):  # killed between two renamings
            with contextlib.suppress(OSError):
                os.rename(path / WHOLE, target)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        _let_go(held)


def at_work(target: Path) -> bool:
    """Whether another process may be about to put results at ``target``."""
    return any(path.suffix == ".new" for path in _scratch(target))


def _scratch(target: Path) -> list[Path]:
    pattern = re.compile(re.escape(target.name) + r"(\.part|\.[0-9a-f]{12}\.new)?\.[0-9a-f]{12}\.(new|old)")
    try:
        return [path for path in target.parent.iterdir() if pattern.fullmatch(path.name)]
    except OSError:
        return []


def _name(target: Path, kind: str) -> Path:
    return target.with_name(f"{target.name}.{uuid.uuid4().hex[:12]}.{kind}")


def _hold(path: Path, *, mine: bool = False) -> int | None:
    """A locked descriptor of a file or folder; None if another process holds it, or it is gone."""
    if fcntl is None:
        return UNLOCKED if mine or _is_stale(path) else None
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    if _lock(file, path, mine):
        return file
    os.close(file)
    return None


def _lock(file: int, path: Path, mine: bool) -> bool:
    """Whether a descriptor is locked now, and still that of the path."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return mine or _is_stale(path)
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except OSError:
        return False


def _is_stale(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > STALE
    except OSError:
        return False


def _let_go(held: int) -> None:
    if held != UNLOCKED:
        os.close(held)
