"""Ctrl-C at any line of what limits BLAS: its threads come back, and the next limit still works."""

from __future__ import annotations

import linecache
import sys
import threading
from types import FrameType
from typing import Any

import numpy as np
import pytest
from conftest import blas

import jaxlmm
from jaxlmm.runtime import threads
from jaxlmm.runtime.threads import single_threaded_blas

# Python itself drops an interrupt that falls into a finaliser.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class Interrupt:
    """KeyboardInterrupt at the k-th step (call or line) inside the module ``threads``.

    Python never interrupts between the body of a ``with`` and its end, but says that the line of the ``with`` is run
    again there; that is no step.
    """

    def __init__(self, k: int) -> None:
        self.left = k
        self.inside: set[tuple[int, int]] = set()

    def is_step(self, frame: FrameType, event: str) -> bool:
        if event == "return":
            self.inside = {at for at in self.inside if at[0] != id(frame)}
            return False
        if event != "line" or not linecache.getline(threads.__file__, frame.f_lineno).lstrip().startswith("with "):
            return True
        at = (id(frame), frame.f_lineno)
        begins = at not in self.inside
        self.inside ^= {at}
        return begins

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code.co_filename != threads.__file__:
            return None
        if self.is_step(frame, event):
            self.left -= 1
        if self.left == 0 and event != "return":
            sys.settrace(None)
            raise KeyboardInterrupt
        return self


def interrupted(k: int, work: Any) -> bool:
    """Whether ``work`` was interrupted at step k; False once it has fewer steps."""
    interrupt, before = Interrupt(k), sys.gettrace()
    sys.settrace(interrupt)
    try:
        work()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    return interrupt.left <= 0


def limited() -> None:
    with single_threaded_blas(), single_threaded_blas():
        assert set(blas()) == {1}


def limited_in_a_thread() -> None:
    """Fails where an interrupt left the lock to this thread."""
    thread = threading.Thread(target=limited, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()


def test_an_interrupt_at_any_step_gives_blas_its_threads_back(two_threads: list[int]) -> None:
    k = 1
    while interrupted(k, limited):
        assert blas() == two_threads, f"step {k}"
        assert not threads._LIMIT._holders
        limited_in_a_thread()
        assert blas() == two_threads, f"after step {k}"
        k += 1
    assert k > 40  # the steps were really taken


def test_an_interrupted_fit_gives_blas_its_threads_back(two_threads: list[int]) -> None:
    rng = np.random.default_rng(0)
    codes = np.arange(60) % 7
    X = np.column_stack([np.ones(60), rng.normal(size=60)])
    Y = rng.normal(size=(60, 40))
    expected = jaxlmm.fit(X, Y, codes)
    taken = 0
    for k in range(1, 200):
        taken += interrupted(k, lambda: jaxlmm.fit(X, Y, codes))
        assert blas() == two_threads, f"step {k}"
        if taken < k:
            break
    assert taken > 20
    limited_in_a_thread()
    np.testing.assert_array_equal(jaxlmm.fit(X, Y, codes).coef, expected.coef)
