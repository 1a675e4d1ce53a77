"""One run from a source to a store on disk: what is there already, the blocks that are left, the end."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxlmm.outofcore.run_settings import check_same
from jaxlmm.runtime.overlap import overlapped
from jaxlmm.runtime.progress import progress
from jaxlmm.sources.fingerprint import array_crc, content_sum
from jaxlmm.sources.lazy import read_responses
from jaxlmm.sources.sources import At, Source
from jaxlmm.sources.weighted import WeightedMatrix
from jaxlmm.storage.journal import Journal, finished
from jaxlmm.storage.places import check_name, remove
from jaxlmm.storage.result_store import ResultStore, clean_up
from jaxlmm.storage.stored import check_replaceable, is_result_store, part_of, read_settings, stored_settings

__all__ = ["check_content", "check_share", "interrupted", "open_run", "run_blocks"]


def check_share(share: tuple[int, int] | None) -> tuple[int, int]:
    """This process's share of the work and how many there are; as ``jax.distributed`` says by default."""
    if share is None:
        return (jax.process_index(), jax.process_count()) if jax.distributed.is_initialized() else (0, 1)
    index, count = share if isinstance(share, tuple) and len(share) == 2 else (-1, 0)
    if not 0 <= index < count:
        raise ValueError(f"share must be (i, k) with 0 <= i < k, found {share}; the first of 4 shares is (0, 4).")
    return index, count


def open_run(
    target: Path,
    settings: Mapping[str, Any],
    share: tuple[int, int],
    *,
    resume: bool | str,
    overwrite: bool,
    create: Callable[[], bool],
) -> ResultStore | None:
    """The store to write to, made or found; None if the results are complete already.

    Raises
    ------
    ValueError
        What is there does not allow it; says what to do.
    """
    if resume not in (False, True, "verify"):
        raise ValueError(f"resume must be True, False or 'verify', found {resume!r}.")
    if resume and overwrite:
        raise ValueError(
            "resume and overwrite are both given; one goes on with what is there, the other replaces it."
        )
    part, name = part_of(target), "share-{}-of-{}".format(*share)
    check_name(str(target))
    if not target.parent.is_dir():
        raise ValueError(f"the folder '{target.parent}' does not exist; make it first.")
    if os.path.lexists(part) and not (part / "settings.json").is_file():
        raise ValueError(f"'{part}' is in the way, and is no unfinished run; move it, or give another path.")
    clean_up(target)
    if os.path.lexists(target) and not part.exists():
        if resume and is_result_store(target):
            check_same(stored_settings(target), settings, str(target), verify=resume == "verify")
            return None
        if not overwrite:
            raise ValueError(f"'{target}' exists; give another path, or overwrite=True.")
    if os.path.lexists(target) and overwrite:
        check_replaceable(target)
    if part.exists() and overwrite:
        if share[1] > 1:
            raise ValueError(f"'{part}' exists, and several processes cannot replace it at once; remove it first.")
        with contextlib.ExitStack() as held:  # refuses if another process is writing, whatever its share
            for one in {name, *(path.stem for path in part.glob("*.journal"))}:
                held.enter_context(contextlib.closing(Journal(part, one)))
            remove(part)
    joined = share[1] > 1 and not Journal.place(part, name).exists()
    if part.exists() and not resume and not joined:
        done = len(finished(part))
        raise ValueError(
            f"'{part}' holds an unfinished run with {done} finished blocks; resume=True goes on with it, "
            "overwrite=True starts anew."
        )
    if not part.exists():
        create()  # or another process that shares the work was faster
    check_same(read_settings(part), settings, str(part), verify=resume == "verify")
    store = ResultStore(target, name)
    try:
        for path in part.glob("*.journal"):  # shares of another number overlap with this one
            if not path.stem.endswith(f"-of-{share[1]}"):
                Journal(part, path.stem).close()
    except ValueError:
        store.close()
        raise
    return store


def run_blocks(
    store: ResultStore,
    source: Source,
    share: tuple[int, int],
    compute: Callable[[Any, tuple[int, ...]], Mapping[str, np.ndarray]],
    stamp: str | None,
    verify: bool,
    show: bool | None,
) -> bool:
    """Read, compute and write the blocks of this share that are not finished; whether all shares are.

    Parameters
    ----------
    compute : function
        Responses (n_obs, c), with their weights if they have some, and the shape of the block -> results
        ([lead,] *block) by name.
    stamp : str or None
        Of the source when the run began.
    verify : bool
        Whether to compare the responses of finished blocks with what they were; so it is without
        a stamp.
    show : bool or None
        A bar, as :func:`jaxlmm.runtime.progress.progress` takes it.
    """
    blocks, done = store.blocks, store.finished()
    if verify or stamp is None:
        check_content(source, blocks, done)
    sizes = [math.prod(_shape(at)) for at in blocks]
    mine = [k for k in range(len(blocks)) if k % share[1] == share[0]]
    todo = [k for k in mine if k not in done]
    with progress("Fit", sum(sizes[k] for k in mine), "responses", show) as work:
        work.skip(work.total - sum(sizes[k] for k in todo))

        def read(k: int) -> tuple[Any, int]:
            try:
                block = read_responses(source, blocks[k])
            except OSError as error:
                raise OSError(
                    f"{error}. What was finished stays; mend it and call again with resume='verify', or "
                    "resume=True if no file had to be changed"
                ) from error
            return block, 0 if source.in_memory else _content(block)

        def fit(k: int, block: tuple[Any, int]) -> tuple[Mapping[str, np.ndarray], int]:
            before = work.done
            made = compute(block[0], _shape(blocks[k]))
            work.reach(before + sizes[k])
            return made, block[1]

        def write(k: int, made: tuple[Mapping[str, np.ndarray], int]) -> None:
            try:
                store.write(k, *made)
            except OSError as error:
                raise OSError(
                    error.errno,
                    f"results cannot be written to '{store.part}': {error.strerror or error}. "
                    f"{len(finished(store.part))} of {len(blocks)} blocks are finished and stay; make room, and call "
                    "again with resume=True",
                ) from error

        overlapped(todo, read, fit, write)
    try:
        changed = source.stamp() != stamp
    except OSError as error:
        raise OSError(f"{source.describe()} is gone, so what was read last may be wrong: {error}") from error
    if changed:
        raise ValueError(
            f"{source.describe()} was changed while it was read, so the results mix two states of it; start anew "
            "with overwrite=True."
        )
    return store.complete()


def interrupted(store: ResultStore, share: tuple[int, int], overwrite: bool) -> str:
    """What an interrupted run leaves, and how it goes on; nothing, if there is no finished block of any."""
    done = len(finished(store.part))
    if not done and share[1] == 1:
        store.close()
        remove(store.part)
        return f"No block was finished, and nothing is left at '{store.part}'; call again as before."
    how = " in the place of overwrite=True" if overwrite else ""
    return (
        f"'{store.part}' holds {done} of {len(store.blocks)} blocks, finished. The same call with resume=True{how} "
        f"goes on with the others: jaxlmm.fit(..., out='{store.out}', resume=True), or lmm, or model.fit."
    )


def check_content(source: Source, blocks: list[At], done: Mapping[int, int]) -> None:
    """ValueError if responses that were fitted are not what they were."""
    for k, known in done.items():
        if _content(read_responses(source, blocks[k])) != known:
            where = ", ".join(f"{s.start}:{s.stop}" for s in blocks[k])
            raise ValueError(
                f"Y has changed since the run began: responses [{where}] differ. Give the same Y, or "
                "overwrite=True to start anew."
            )


def _content(block: np.ndarray | WeightedMatrix) -> int:
    """Checksum of responses, and of their weights."""
    if not isinstance(block, WeightedMatrix):
        return content_sum(block)
    both = np.array([content_sum(block.Y), content_sum(np.asarray(block.weights))])
    return array_crc(both)


def _shape(at: At) -> tuple[int, ...]:
    return tuple(s.stop - s.start for s in at)
