"""Statistics of draws on disk, piece by piece, so that a long test goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxlmm.resampling.refit import Statistics
from jaxlmm.runtime.arguments import shown

__all__ = ["Journal", "open_journal"]


@dataclass(frozen=True)
class Journal:
    """A folder with a file for each piece of the responses; None keeps nothing."""

    folder: Path | None

    def read(self, number: int, where: np.ndarray) -> Statistics | None:
        """Piece ``number``, if it is there, whole, and of the responses ``where``."""
        if self.folder is None or not (path := self._path(number)).exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                found = Statistics(*(file[name] for name in ("where", "values", "singular", "failed")))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        return found if np.array_equal(found.where, where) else None

    def write(self, number: int, found: Statistics) -> None:
        """Keep piece ``number``; the file is there whole or not at all."""
        if self.folder is None:
            return
        path = self._path(number)
        part = path.with_suffix(f".{os.getpid()}.part")
        try:
            with open(part, "wb") as file:
                np.savez(file, where=found.where, values=found.values, singular=found.singular, failed=found.failed)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)

    def kept(self, of: int, call: str) -> str:
        """What an interrupt leaves, and how to go on."""
        if self.folder is None:
            return "Nothing is kept of it; with out='folder' a test that was stopped goes on where it was."
        done = len(list(self.folder.glob("piece-*.npz")))
        return f"'{self.folder}' keeps {done} of {of} pieces; the same call goes on with the others: {call}"

    def _path(self, number: int) -> Path:
        assert self.folder is not None
        return self.folder / f"piece-{number:06d}.npz"


def open_journal(out: Any, settings: dict[str, Any], arrays: list[np.ndarray]) -> Journal:
    """The journal in the folder ``out``, a new one or that of the same test.

    Raises
    ------
    ValueError
        A folder that holds something else, or the pieces of another test: what differs is named.
    """
    if out is None:
        return Journal(None)
    try:
        folder = Path(os.fspath(out))
    except TypeError:
        raise ValueError(f"out must be the path of a folder, found {shown(out)}.") from None
    sums = [hashlib.sha256(np.ascontiguousarray(a).tobytes()).hexdigest() for a in arrays]
    settings = json.loads(json.dumps(settings | {"data": sums}))
    path = folder / "settings.json"
    if path.exists():
        before = json.loads(path.read_text())
        changed = [name for name in settings if before.get(name) != settings[name]]
        if changed:
            raise ValueError(
                f"out='{folder}' holds the draws of another test: {', '.join(changed)} differ. Use another folder, "
                "or remove this one."
            )
        return Journal(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"out='{folder}' exists and holds no permutation test; use a new folder.")
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"settings.{os.getpid()}.part"
    try:
        part.write_text(json.dumps(settings, indent=1))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return Journal(folder)
