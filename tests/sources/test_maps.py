"""Arrays on memory maps: their numbers come from the file, and a file that is cut short never ends the process."""

from __future__ import annotations

import copy
import functools
import gc
import json
import mmap
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import jaxlmm
from jaxlmm.sources.maps import MappedFile, in_memory, mapped_file
from jaxlmm.sources.sources import open_source
from jaxlmm.storage.journal import Journal

if not hasattr(os, "preadv"):
    pytest.skip("maps are read as they are on this system", allow_module_level=True)

N, M = 60, 400


def on_map(values: np.ndarray, folder: Path, mode: Any = "r") -> Any:
    np.save(folder / "y.npy", values)
    return np.load(folder / "y.npy", mmap_mode=mode)


# -- the same numbers ------------------------------------------------------------------------------


@hypothesis.given(data=st.data(), shape=hnp.array_shapes(min_dims=1, max_dims=4, max_side=7))
def test_views_of_every_kind_are_read_from_the_file(data: st.DataObject, shape: tuple[int, ...]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        values = np.arange(np.prod(shape), dtype=data.draw(st.sampled_from([">f8", "<f4", "i2"]))).reshape(shape)
        values = np.asfortranarray(values) if data.draw(st.booleans()) else values
        mapped = on_map(values, Path(folder))
        at = data.draw(hnp.basic_indices(shape, min_dims=1, allow_newaxis=True))
        axes = data.draw(st.permutations(range(values[at].ndim)))
        view, expected = mapped[at].transpose(axes), values[at].transpose(axes)
        part = mapped_file(view)
        assert (part is None) == (view.size == 0)
        found = in_memory(view)
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype
        if part is not None:
            assert not np.shares_memory(found, view)
            block = tuple(slice(n // 3, n - n // 4) for n in view.shape)
            np.testing.assert_array_equal(part.read(block), expected[block])


def test_what_is_on_no_map_is_left_as_it_is() -> None:
    array = np.arange(6.0)
    assert in_memory(array) is array and mapped_file(array[::-1]) is None
    shared = np.frombuffer(mmap.mmap(-1, 4096), dtype=float)
    assert in_memory(shared) is shared


def test_a_private_map_keeps_its_changes(tmp_path: Path) -> None:
    private = on_map(np.zeros(9), tmp_path, "c")
    private[3] = 1.0
    assert in_memory(private) is private


# -- files that are cut short ----------------------------------------------------------------------

# All cases one after the other in one process, each in a folder of its own: a signal would end it, and leave this
# case and all that come later without an answer.
RUN = """
import json, os, sys, traceback
import numpy as np
import jaxlmm
path = "y.npy"
def saved(values, mode="r"):
    np.save(path, values)
    return np.load(path, mmap_mode=mode)
def cut(): os.truncate(path, 500)
X, g = np.column_stack([np.ones(60), np.random.default_rng(0).normal(size=60)]), np.arange(60) % 9
home = os.getcwd()
for k, (how, code) in enumerate(json.loads(sys.argv[1])):
    os.mkdir(f"{home}/{k}")
    os.chdir(f"{home}/{k}")
    rng = np.random.default_rng(k)
    Y, wide = rng.normal(size=(60, 3)), rng.normal(size=(60, 400))
    try:
        exec(code)
        answer = "no error"
    except OSError as error:
        answer = "OSError" if "it was cut short" in str(error) else traceback.format_exc()
    except ValueError as error:
        answer = "OSError" if "'y.npy' is not an array" in str(error) else traceback.format_exc()
    except Exception:
        answer = traceback.format_exc()
    print(json.dumps([how, answer]), flush=True)
"""
CUT: dict[str, tuple[str, str]] = {
    "fit": ("z = saved(wide); cut(); jaxlmm.fit(X, z, g)", "OSError"),
    "fit, one response": ("z = saved(wide[:, 0]); cut()\nos.truncate(path, 200); jaxlmm.fit(X, z, g)", "OSError"),
    "fit, private map": ("z = saved(wide, 'c'); cut(); jaxlmm.fit(X, z, g)", "OSError"),
    "fit, backwards": ("z = saved(wide)[::-1, ::-1]; cut(); jaxlmm.fit(X, z, g)", "OSError"),
    "fit, plain mmap": (
        "import mmap\nsaved(wide); z = np.frombuffer(mmap.mmap(os.open(path, os.O_RDONLY), 0, prot=mmap.PROT_READ), "
        "offset=128).reshape(60, 400); cut(); jaxlmm.fit(X, z, g)", "OSError"),
    "fit, data frame": (
        "import pandas\nz = pandas.DataFrame(saved(wide), copy=False); cut(); jaxlmm.fit(X, z, g)", "OSError"),
    "fit, DataArray": (
        "import xarray\nz = xarray.DataArray(saved(wide).reshape(60, 40, 10), dims=('t', 'a', 'b')); cut()\n"
        "jaxlmm.fit(X, z, g, obs_dim='t')", "OSError"),
    "X": ("z = saved(rng.normal(size=(60, 2))); cut(); jaxlmm.fit(z, Y, g)", "OSError"),
    "groups": ("z = saved(g); cut()\nos.truncate(path, 200); jaxlmm.fit(X, Y, z)", "OSError"),
    "weights": ("z = saved(np.ones(60)); cut()\nos.truncate(path, 200); jaxlmm.fit(X, Y, g, weights=z)", "OSError"),
    "predict": ("z = saved(rng.normal(size=(60, 2))); cut(); jaxlmm.fit(X, Y, g).predict(z)", "OSError"),
    "after the fit": (
        "z = saved(wide); f = jaxlmm.fit(X, z, g); cut(); f.ranef(), f.resid(), f.select([3]).profile()", "no error"),
    "store": ("z = saved(wide); cut(); jaxlmm.fit(X, z, g, out='o.zarr')", "OSError"),
    "store, backwards": ("z = saved(wide)[:, ::-1]; cut(); jaxlmm.fit(X, z, g, out='o.zarr')", "OSError"),
    "store, private map": ("z = saved(wide, 'c'); cut(); jaxlmm.fit(X, z, g, out='o.zarr')", "OSError"),
    "store, path": ("saved(wide); cut(); jaxlmm.fit(X, path, g, out='o.zarr')", "OSError"),
    "load": ("z = saved(Y); jaxlmm.fit(X, Y, g).save('f'); cut(); jaxlmm.load('f', Y=z)", "OSError"),
}  # fmt: skip


@functools.cache
def answers() -> tuple[dict[str, str], str]:
    """What each case ended with, and what the process said."""
    cases = json.dumps([(how, code) for how, (code, _) in CUT.items()])
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([sys.executable, "-c", RUN, cases], cwd=folder, capture_output=True, text=True)
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    return dict(said), f"ended with {done.returncode}: {done.stderr}"


@pytest.mark.parametrize("how", CUT)
def test_a_file_that_is_cut_short_is_an_error_not_a_signal(how: str) -> None:
    if "store" in how:
        pytest.importorskip("zarr")
    if "DataArray" in how:
        pytest.importorskip("xarray")
    if "frame" in how:
        pytest.importorskip("pandas")
    found, process = answers()
    assert how in found, process
    assert found[how] == CUT[how][1], found[how]


def test_small_maps_are_held_in_memory(tmp_path: Path) -> None:
    Y = np.random.default_rng(0).normal(size=(N, M))
    fit = jaxlmm.fit(np.ones((N, 1)), on_map(Y, tmp_path), np.arange(N) % 9)
    assert type(fit.Y) is np.ndarray and mapped_file(fit.Y) is None
    np.testing.assert_array_equal(fit.Y, Y)


# -- descriptors are closed once -------------------------------------------------------------------


def test_copies_of_a_mapped_file_have_descriptors_of_their_own(tmp_path: Path) -> None:
    """A copy that closed the same number would close the file that another thread was given meanwhile."""
    source = open_source(on_map(np.arange(40.0).reshape(4, 10), tmp_path))
    for make in (copy.deepcopy, copy.copy, lambda s: pickle.loads(pickle.dumps(s))):  # type: ignore[no-untyped-call]
        made: Callable[[Any], Any] = make
        other = made(source)
        np.testing.assert_array_equal(other.read((slice(2, 5),)), source.read((slice(2, 5),)))
        del other
        gc.collect()
        np.testing.assert_array_equal(source.read((slice(0, 2),))[:, 1], [1, 11, 21, 31])
    part = MappedFile(str(tmp_path / "y.npy"), 128, (4, 10), (80, 8), np.dtype(float))
    number = part.file.fileno()
    twin = copy.copy(part)
    assert twin.file.fileno() != number


def test_a_journal_is_closed_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "a")
    number = journal.file
    journal.close()
    other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
    assert other == number, "the number is given again"
    journal.close()
    assert os.write(other, b"mine") == 4
    os.close(other)


@pytest.mark.parametrize("calls", [1, 2])
def test_a_run_closes_no_descriptor_of_others(calls: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every number that jaxlmm closes, it has opened since it closed it last."""
    pytest.importorskip("zarr")
    from jaxlmm.storage import journal

    opened: list[int] = []
    real_open, real_close = os.open, os.close

    def noted(*arguments: Any) -> int:
        opened.append(real_open(*arguments))
        return opened[-1]

    def checked(number: int) -> None:
        opened.remove(number)  # ValueError if it was closed before
        real_close(number)

    class Os:
        def __getattr__(self, name: str) -> Any:
            return {"open": noted, "close": checked}.get(name) or getattr(os, name)

    monkeypatch.setattr(journal, "os", Os())
    for k in range(calls):
        jaxlmm.fit(np.ones((N, 1)), np.random.default_rng(k).normal(size=(N, M)), np.arange(N) % 9,
                            out=tmp_path / "o.zarr", block=100, overwrite=True, progress=False)  # fmt: skip
    assert not opened
