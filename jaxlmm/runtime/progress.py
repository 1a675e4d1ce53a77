"""A bar with what is done, per second, and the time left, for whatever takes longer than two seconds.

Who begins long work says how much there is, ``with progress(...)``; what does it, however deep, says ``advance(n)``
and need not know whether anyone looks. Work within other work counts for that. Interrupts say how far it came.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import importlib.util
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import tqdm

__all__ = ["Progress", "advance", "progress", "start"]

# Seconds before a bar is drawn, and between two drawings while nothing is done (a program is compiled).
DELAY, TICK = 2.0, 1.0
# Of the thread that draws it.
NAME = "jaxlmm progress"


class Progress:
    """How much of some work is done. ``draw`` makes the bar, if there is to be one."""

    def __init__(self, total: int, draw: Callable[[], Any] | None) -> None:
        self.total, self.done, self._skipped = total, 0, 0
        self._draw, self._bar = draw, cast(Any, None)
        self._began, self._lock, self._ended = time.monotonic(), threading.RLock(), threading.Event()
        # The bar stands there in time, and its clock goes on, also while nothing is counted.
        self._thread = None if draw is None else threading.Thread(target=self._tick, daemon=True, name=NAME)
        if self._thread is not None:
            self._thread.start()

    def add(self, n: int) -> None:
        """n more are done; fewer, where something must be done again, if n < 0."""
        with self._lock:
            n = min(n, self.total - self.done)
            self.done += n
            if self._bar is not None:
                self._bar.update(n)

    def reach(self, done: int) -> None:
        """As many are done now, whatever was counted before."""
        self.add(done - self.done)

    def skip(self, n: int) -> None:
        """n were done by an earlier run, and take no part in the rate."""
        with self._lock:
            n = min(n, self.total - self.done)
            self._skipped += n
            if self._bar is not None:
                self._bar.initial += n
                self._bar.last_print_n += n
            self.add(n)

    def end(self) -> None:
        """Nothing more is counted; the bar stays as it is."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        with self._lock:
            if self._bar is not None:
                self._bar.close()

    def _tick(self) -> None:
        wait = DELAY
        while not self._ended.wait(wait):
            wait = TICK
            with self._lock:
                if self._ended.is_set():
                    return
                if self._bar is None:
                    assert self._draw is not None
                    self._bar = self._draw()
                    self._bar.initial, self._bar.n, self._bar.last_print_n = self._skipped, self.done, self.done
                    self._bar.start_t -= time.monotonic() - self._began
                self._bar.refresh()


_current: contextvars.ContextVar[Progress | None] = contextvars.ContextVar("progress", default=None)


def advance(n: int) -> None:
    """Count n more for the work that this thread is in the middle of, if it is counted."""
    work = _current.get()
    if work is not None:
        work.add(n)


def start(name: str, total: int, unit: str, show: bool | None = None) -> Progress:
    """Work that is counted from now on until its ``end``; parameters as of :func:`progress`."""
    if show is None:
        show = sys.stderr.isatty() or _in_kernel()
    return Progress(total, functools.partial(_bar, name, total, unit) if show else None)


@contextlib.contextmanager
def progress(
    name: str, total: int, unit: str, show: bool | None = None, *, kept: Callable[[], str] | str = ""
) -> Iterator[Progress]:
    """A bar while the body runs, which ``advance`` moves.

    Parameters
    ----------
    name : str
        Of the work, as the bar says it.
    total : int
    unit : str
        What is counted, in the plural.
    show : bool, optional
        Default: on a terminal and in a notebook. Nothing is drawn in the first two seconds.
    kept : str or callable, optional
        What an interrupt leaves and how to go on, a sentence; added to the KeyboardInterrupt with how far it came.

    Yields
    ------
    Progress
        That of the work around, if there is one, in the place of its own.
    """
    around = _current.get()
    if around is not None:
        yield around
        return
    work = start(name, total, unit, show)
    token = _current.set(work)
    try:
        yield work
        work.reach(total)
    except KeyboardInterrupt as stop:
        text = kept() if callable(kept) else kept
        stop.add_note(f"{name} stopped after {work.done:,} of {total:,} {unit}. {text}".rstrip())
        raise
    finally:
        _current.reset(token)
        work.end()


def _bar(name: str, total: int, unit: str) -> Any:
    kind = tqdm.tqdm
    if _in_kernel() and _has_widgets():
        from tqdm import notebook

        kind = notebook.tqdm
    return kind(desc=name, total=total, unit=f" {unit}", unit_scale=True, file=sys.stderr)


def _in_kernel() -> bool:
    """Whether this is a notebook, or another front end of a Jupyter kernel."""
    if "ipykernel" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    return shell is not None and "IPKernelApp" in shell.config


@functools.cache
def _has_widgets() -> bool:
    return importlib.util.find_spec("ipywidgets") is not None
