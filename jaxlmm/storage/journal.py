"""Which blocks of a run are finished: one line a block, with the checksum of its results.

A line is written when all results of its block are; a line that was cut short is not taken, nor is
a block whose results do not have the checksum when the run goes on.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: no lock, the rest works
    fcntl = None  # type: ignore[assignment]

__all__ = ["Journal", "finished"]

SUFFIX = ".journal"
CLOSED = -1
# Block, checksum of its results, and what else is known of it.
LINE = re.compile(r"(\d{1,18}) (\d{1,10}) (\d{1,18}) \.", re.ASCII)


class Journal:
    """The journal of one process, open for writing, locked against another process on the same share.

    Parameters
    ----------
    folder : Path
    name : str
        Of the share of the work.

    Raises
    ------
    ValueError
        Another process has it open.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.path = self.place(folder, name)
        self.file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        if fcntl is not None:
            try:
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(self.file)
                raise ValueError(
                    f"another process is writing these results ('{self.path}'); wait for it or stop it."
                ) from None
            except OSError:  # a file system without locks
                pass
        text = self.path.read_bytes()
        if text and not text.endswith(b"\n"):  # killed while writing a line, or the disk was full
            self._write(b"\n")

    @staticmethod
    def place(folder: Path, name: str) -> Path:
        """Where the journal of a share is."""
        return folder / f"{name}{SUFFIX}"

    def add(self, block: int, checksum: int, extra: int = 0) -> None:
        """Say that a block is finished."""
        self._write(f"{block} {checksum} {extra} .\n".encode())

    def _write(self, line: bytes) -> None:
        while line:
            line = line[os.write(self.file, line) :]

    def close(self) -> None:
        """Let go of the file and the lock; a second time nothing, for the number may be another file's by then."""
        file, self.file = self.file, CLOSED
        if file != CLOSED:
            os.close(file)


def finished(folder: Path) -> dict[int, tuple[int, int]]:
    """Finished blocks, by number: the checksums of all journals in a folder."""
    found: dict[int, tuple[int, int]] = {}
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        for line in path.read_text(errors="replace").splitlines():
            match = LINE.fullmatch(line)
            if match:
                found[int(match[1])] = (int(match[2]), int(match[3]))
    return found
