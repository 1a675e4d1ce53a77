"""A bar for fits that dask computes, on this machine; a cluster has bars of its own.

Dask tells callbacks which tasks it will do, and which are done. The tasks that fit are those that need the design
of a lazy fit, whatever dask fused them with, so only they are counted, and other graphs show nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from dask.callbacks import Callback
from dask.diagnostics.progress import ProgressBar

from jaxlmm.runtime.progress import Progress, start

__all__ = ["watch"]


@dataclass(frozen=True)
class _Fit:
    """A lazy fit: its responses, the chunks that hold them, whether a bar is drawn (None: on a terminal)."""

    responses: int
    chunks: int
    show: bool | None


@dataclass
class _Run:
    """What one call of dask computes: the responses of each task that fits, and how many were fitted."""

    sizes: dict[Hashable, float]
    work: Progress
    done: float = 0.0


class _Bar(Callback):
    """Counts the responses of all lazy fits of this process, in each call of dask alone."""

    def __init__(self) -> None:
        self._fits: dict[str, _Fit] = {}
        self._runs: dict[int, _Run] = {}

    def add(self, key: str, fit: _Fit) -> None:
        self._fits[key] = fit
        if self._callback not in Callback.active:
            self.register()

    def _start_state(self, dsk: Any, state: Any) -> None:
        sizes: dict[Hashable, float] = {}
        shown: set[bool | None] = set()
        for key in self._fits.keys() & state["dependents"].keys():
            fit = self._fits[key]
            shown.add(fit.show)
            sizes |= dict.fromkeys(state["dependents"][key], fit.responses / fit.chunks)
        show = True if True in shown else None if None in shown else False
        if show is None and _has_bar():
            return
        if sizes and show is not False:
            self._runs[id(state)] = _Run(sizes, start("Fit", round(sum(sizes.values())), "responses", show))

    def _posttask(self, key: Any, result: Any, dsk: Any, state: Any, worker_id: Any) -> None:
        run = self._runs.get(id(state))
        if run is not None and key in run.sizes:
            run.done += run.sizes[key]
            run.work.reach(round(run.done))

    def _finish(self, dsk: Any, state: Any, errored: bool) -> None:
        run = self._runs.pop(id(state), None)
        if run is not None:
            run.work.end()


_bar = _Bar()


def watch(key: str, responses: int, chunks: int, show: bool | None) -> None:
    """Show a bar whenever dask fits some of these responses on this machine.

    Parameters
    ----------
    key : str
        Of the design in the graph, on which the tasks that fit depend.
    responses, chunks : int
        In the whole result; of a part of it each chunk counts as their mean.
    show : bool, optional
        Default: on a terminal and in a notebook, unless dask's own bar is there.
    """
    _bar.add(key, _Fit(responses, chunks, show))


def _has_bar() -> bool:
    """Whether dask draws a bar itself: its thread is alive."""
    targets = (getattr(thread, "_target", None) for thread in threading.enumerate())
    return any(isinstance(getattr(target, "__self__", None), ProgressBar) for target in targets)
