"""Ctrl-C at any line of what limits BLAS: its threads come back, and the next limit still works."""

from __future__ import annotations

import sys
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
    """KeyboardInterrupt at the k-th step (call, line or return) inside the module ``threads``."""

    def __init__(self, k: int) -> None:
        self.left = k

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code.co_filename != threads.__file__:
            return None
        if event != "return":
            self.left -= 1
        if self.left == 0:
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


def test_an_interrupt_at_any_step_gives_blas_its_threads_back(two_threads: list[int]) -> None:
    k = 1
    while interrupted(k, limited):
        assert blas() == two_threads, f"step {k}"
        assert not threads._LIMIT._holders
        limited()
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
    np.testing.assert_array_equal(jaxlmm.fit(X, Y, codes).coef, expected.coef)
