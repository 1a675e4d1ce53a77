"""Reading blocks of responses from everything that can hold them, and which blocks a run takes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxlmm
from jaxlmm.runtime.overlap import overlapped
from jaxlmm.sources.fingerprint import array_crc, files_stamp
from jaxlmm.sources.lazy import LazyMatrix
from jaxlmm.sources.opening import open_path
from jaxlmm.sources.plan import STEP, make_plan
from jaxlmm.sources.sources import is_lazy, open_source
from jaxlmm.storage.journal import Journal, finished

SHAPE = (30, 6, 5, 4)
BLOCKS = [
    (slice(0, 6), slice(0, 5), slice(0, 4)),
    (slice(2, 3), slice(1, 2), slice(3, 4)),
    (slice(1, 4), slice(0, 5), slice(0, 4)),
    (slice(4, 6), slice(2, 5), slice(1, 3)),
]


@pytest.fixture
def data() -> np.ndarray:
    return np.random.default_rng(0).normal(size=SHAPE)


def memory(data: np.ndarray, folder: Path) -> Any:
    return data, None


def mapped(data: np.ndarray, folder: Path) -> Any:
    np.save(folder / "y.npy", data)
    return np.load(folder / "y.npy", mmap_mode="r"), None


def mapped_view(data: np.ndarray, folder: Path) -> Any:
    """Part of a raw file with a header, observations in the last axis of the file."""
    whole = np.full((7, 5, 5, 33), 9.0)
    whole[1:, :, :4, 2:32] = np.moveaxis(data, 0, -1)
    with open(folder / "y.raw", "wb") as file:
        file.write(b"x" * 5000)
        file.write(whole.tobytes())
    view = np.memmap(folder / "y.raw", dtype=float, mode="r", offset=5000, shape=whole.shape)[1:, :, :4, 2:32]
    return np.moveaxis(view, -1, 0), None


def mapped_fortran(data: np.ndarray, folder: Path) -> Any:
    np.save(folder / "f.npy", np.asfortranarray(data))
    return np.load(folder / "f.npy", mmap_mode="r"), None


def mapped_big_endian_integers(data: np.ndarray, folder: Path) -> Any:
    data[...] = np.round(100 * data)
    np.save(folder / "i.npy", data.astype(">i4"))
    return np.load(folder / "i.npy", mmap_mode="r"), None


def mapped_with_steps(data: np.ndarray, folder: Path) -> Any:
    """Every other trial and time of a file."""
    whole = np.full((60, 6, 5, 8), 9.0)
    whole[::2, :, :, ::2] = data
    np.save(folder / "s.npy", whole)
    return np.load(folder / "s.npy", mmap_mode="r")[::2, :, :, ::2], None


def zarr_array(data: np.ndarray, folder: Path) -> Any:
    zarr = pytest.importorskip("zarr")
    zarr.create_array(folder / "y.zarr", data=data, chunks=(10, 2, 5, 2), dimension_names=["trial", "a", "b", "c"])
    return zarr.open_array(folder / "y.zarr", mode="r"), None


def zarr_format_2(data: np.ndarray, folder: Path) -> Any:
    zarr = pytest.importorskip("zarr")
    zarr.create_array(folder / "y2.zarr", data=data, chunks=(30, 2, 5, 2), zarr_format=2)
    return zarr.open_array(folder / "y2.zarr", mode="r"), None


def hdf5_dataset(data: np.ndarray, folder: Path) -> Any:
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "y.h5", "w") as file:
        file.create_dataset("part/y", data=data, chunks=(30, 2, 5, 2))
    return open_path(f"{folder / 'y.h5'}:/part/y"), None


def dask_array(data: np.ndarray, folder: Path) -> Any:
    return pytest.importorskip("dask.array").from_array(data, chunks=(7, 2, 5, 3)), None


def labelled(data: np.ndarray, folder: Path) -> Any:
    xr = pytest.importorskip("xarray")
    return xr.DataArray(np.moveaxis(data, 0, 2), dims=("a", "b", "trial", "c")), "trial"


def labelled_map(data: np.ndarray, folder: Path) -> Any:
    xr = pytest.importorskip("xarray")
    np.save(folder / "m.npy", np.moveaxis(data, 0, 2))
    return xr.DataArray(np.load(folder / "m.npy", mmap_mode="r"), dims=("a", "b", "trial", "c")), "trial"


def labelled_zarr(data: np.ndarray, folder: Path) -> Any:
    xr = pytest.importorskip("xarray")
    pytest.importorskip("zarr")
    array, _ = labelled(data, folder)
    array.to_dataset(name="y").to_zarr(folder / "l.zarr", zarr_format=2, encoding={"y": {"chunks": (2, 5, 30, 4)}})
    return xr.open_zarr(folder / "l.zarr", chunks=None)["y"], "trial"


def labelled_dask(data: np.ndarray, folder: Path) -> Any:
    pytest.importorskip("dask")
    array, dim = labelled(data, folder)
    return array.chunk({"a": 2, "trial": 11}), dim


HOLDERS = [
    memory, mapped, mapped_view, mapped_fortran, mapped_big_endian_integers, mapped_with_steps, zarr_array,
    zarr_format_2, hdf5_dataset, dask_array, labelled, labelled_map, labelled_zarr, labelled_dask,
]  # fmt: skip


@pytest.mark.parametrize("holder", HOLDERS, ids=lambda f: f.__name__)
def test_every_holder_gives_the_same_blocks(holder: Any, data: np.ndarray, tmp_path: Path) -> None:
    Y, obs_dim = holder(data, tmp_path)
    source = open_source(Y, obs_dim)
    assert source.shape == SHAPE
    for at in BLOCKS:
        np.testing.assert_array_equal(source.read(at), data[(slice(None), *at)])
    assert is_lazy(Y) == (holder not in (memory, labelled))
    matrix, flat = LazyMatrix.make(source, 15), data.reshape(30, -1)
    assert matrix.shape == flat.shape and len(matrix) == 30 and matrix.dtype == source.dtype
    np.testing.assert_array_equal(np.asarray(matrix), flat)
    mask = np.arange(120) % 7 == 2
    for columns in (slice(None), slice(5, 50, 3), np.array([119, 0, 60, 60]), mask, 17):
        np.testing.assert_array_equal(matrix[:, columns], flat[:, columns])
        np.testing.assert_array_equal(matrix[3:5, columns], flat[3:5, columns])
    rows, some = np.arange(30) % 2 == 0, np.array([3, 77])
    np.testing.assert_array_equal(matrix[np.ix_(rows, some)], flat[np.ix_(rows, some)])
    assert np.isscalar(matrix[3, 5]) and matrix[3, 5] == flat[3, 5]


def test_maps_are_read_from_their_files(data: np.ndarray, tmp_path: Path) -> None:
    """Not through the map, whose pages would count as memory and fail with a signal."""
    for holder in (mapped, mapped_view, mapped_fortran, labelled_map):
        Y, obs_dim = holder(data.copy(), tmp_path)
        assert type(open_source(Y, obs_dim)).__name__ == "_File"
    private = np.load(tmp_path / "y.npy", mmap_mode="c")
    private[0, 0, 0, 0] = 123.0  # is not in the file
    source = open_source(private)
    assert type(source).__name__ == "_Array" and source.read(BLOCKS[0])[0, 0, 0, 0] == 123.0


def test_a_file_that_is_cut_short_says_so(data: np.ndarray, tmp_path: Path) -> None:
    source = open_source(mapped(data, tmp_path)[0])
    with open(tmp_path / "y.npy", "r+b") as file:
        file.truncate(20_000)
    with pytest.raises(OSError, match=r"y\.npy' ends before byte \d+: it was cut short"):
        source.read(BLOCKS[0])


def test_names_of_axes_come_from_the_store(data: np.ndarray, tmp_path: Path) -> None:
    assert open_source(zarr_array(data, tmp_path)[0]).dims == ("a", "b", "c")
    assert open_source(labelled(data, tmp_path)[0], "trial").dims == ("a", "b", "c")
    Y = hdf5_dataset(data, tmp_path)[0]
    assert open_source(Y).dims is None
    assert open_source(mapped(data, tmp_path)[0]).dims is None


def test_numbers_that_stand_for_others_are_refused(data: np.ndarray, tmp_path: Path) -> None:
    Y = zarr_array(data, tmp_path)[0]
    import zarr

    for name in ("scale_factor", "_FillValue"):
        array = zarr.create_array(tmp_path / f"{name}.zarr", data=data, attributes={name: 0.5})
        with pytest.raises(ValueError, match=f"has the attribute '{name}'.*open it with xarray"):
            open_source(array)
    array = zarr.create_array(tmp_path / "nan.zarr", data=data, attributes={"_FillValue": float("nan")})
    np.testing.assert_array_equal(open_source(array).read(BLOCKS[0]), open_source(Y).read(BLOCKS[0]))


def test_codes_for_missing_that_xarray_writes_are_refused_however_small(data: np.ndarray, tmp_path: Path) -> None:
    xr, h5py = pytest.importorskip("xarray"), pytest.importorskip("h5py")
    import zarr

    array = xr.DataArray(data, dims=("t", "a", "b", "c")).to_dataset(name="y")
    for version in (2, 3):
        array.to_zarr(tmp_path / f"plain{version}.zarr", zarr_format=version, consolidated=False)
        np.testing.assert_array_equal(
            open_source(zarr.open_array(tmp_path / f"plain{version}.zarr" / "y", mode="r")).read(BLOCKS[0]), data
        )
        coded = tmp_path / f"coded{version}.zarr"
        array.to_zarr(coded, zarr_format=version, consolidated=False, encoding={"y": {"_FillValue": -999.0}})
        with pytest.raises(ValueError, match="so its numbers stand for others; open it with xarray"):
            open_source(zarr.open_array(coded / "y", mode="r"))
    with h5py.File(tmp_path / "coded.h5", "w") as file:
        file["y"] = data.reshape(30, -1)
        file["y"].attrs["scale_factor"] = 0.1
        with pytest.raises(ValueError, match="has the attribute 'scale_factor'"):
            jaxlmm.fit(np.ones((30, 1)), file["y"], np.repeat(range(5), 6))


def test_a_map_whose_file_was_replaced_is_read_from_memory(data: np.ndarray, tmp_path: Path) -> None:
    Y = mapped(data, tmp_path)[0]
    np.save(tmp_path / "new.npy", data + 1)
    (tmp_path / "new.npy").rename(tmp_path / "y.npy")
    np.testing.assert_array_equal(open_source(Y).read(BLOCKS[0]), data)


def test_virtual_datasets_have_no_stamp(data: np.ndarray, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "inner.h5", "w") as file:
        file["y"] = data
    layout = h5py.VirtualLayout(shape=data.shape, dtype=data.dtype)
    layout[...] = h5py.VirtualSource(str(tmp_path / "inner.h5"), "y", shape=data.shape)
    with h5py.File(tmp_path / "outer.h5", "w") as file:
        source = open_source(file.create_virtual_dataset("y", layout))
        assert source.stamp() is None
        np.testing.assert_array_equal(source.read(BLOCKS[0]), data)


def test_what_is_no_source_is_refused(data: np.ndarray) -> None:
    for Y, message in (
        (data.astype(complex), "must be numeric, found dtype complex128"),
        (data.astype(str), "must be numeric, found dtype <U"),
        (data[:, 0, 0, 0], "must have shape"),
        ([1.0, 2.0], "Y is a list; give a numpy array"),
        (np.ma.masked_array(data, data > 1), "Y is a MaskedArray; give"),
    ):
        with pytest.raises(ValueError, match=message):
            open_source(Y)


@pytest.mark.parametrize("holder", [mapped, zarr_array, hdf5_dataset], ids=lambda f: f.__name__)
def test_stamps_change_with_the_data_and_nothing_else(holder: Any, data: np.ndarray, tmp_path: Path) -> None:
    first, again, other = tmp_path / "first", tmp_path / "again", tmp_path / "other"
    for folder in (first, again, other):
        folder.mkdir()
    stamp = open_source(holder(data, first)[0]).stamp()
    assert stamp is not None and stamp == open_source(reopen(holder, first)).stamp()
    assert stamp != open_source(holder(data + 1, other)[0]).stamp()
    first.rename(tmp_path / "moved")
    assert stamp == open_source(reopen(holder, tmp_path / "moved")).stamp()


def reopen(holder: Any, folder: Path) -> Any:
    name = {mapped: "y.npy", zarr_array: "y.zarr", hdf5_dataset: "y.h5"}[holder]
    return open_path(f"{folder / name}:/part/y" if holder is hdf5_dataset else folder / name)


def test_two_parts_of_one_file_have_two_stamps(data: np.ndarray, tmp_path: Path) -> None:
    Y = mapped(data, tmp_path)[0]
    assert open_source(Y[:15]).stamp() != open_source(Y[15:]).stamp()
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["a"], file["b"] = data, data
        assert open_source(file["a"]).stamp() != open_source(file["b"]).stamp()


def test_checksums_follow_the_values(data: np.ndarray, tmp_path: Path) -> None:
    assert array_crc(data) == array_crc(np.asfortranarray(data)) != array_crc(data + 1e-16)
    assert array_crc(data[::-1]) != array_crc(data)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("1")
    before = files_stamp(str(tmp_path / "a"))
    (tmp_path / "a" / "y").write_text("2")
    assert files_stamp(str(tmp_path / "a")) != before


# -- opening paths --------------------------------------------------------------------------------


def test_paths_that_are_no_arrays(data: np.ndarray, tmp_path: Path) -> None:
    zarr_array(data, tmp_path)
    hdf5_dataset(data, tmp_path)[0].file.close()
    import zarr

    zarr.open_group(tmp_path / "g.zarr", mode="w").create_array("inner", data=data)
    (tmp_path / "text.npy").write_text("hello")
    (tmp_path / "y.csv").write_text("1,2")
    np.save(tmp_path / "objects.npy", np.array([{}, None]), allow_pickle=True)
    (tmp_path / "empty").mkdir()
    for path, message in (
        ("none.npy", "none.npy' does not exist"),
        ("text.npy", "not an array of numbers in numpy's format"),
        ("objects.npy", "not an array of numbers in numpy's format"),
        ("y.csv", "give a .npy file, a Zarr array"),
        ("empty", "not a Zarr array"),
        ("g.zarr", r"is a Zarr group; give one of its arrays: '.*g\.zarr/inner'"),
        ("y.h5", r"has no dataset ''; give one of '.*y\.h5:/part/y'"),
        ("y.h5:/z", r"has no dataset '/z'; give one of '.*y\.h5:/part/y'"),
        ("none.h5:/z", "none.h5' does not exist"),
    ):
        with pytest.raises(ValueError, match=message):
            open_path(tmp_path / path)
    (tmp_path / "fake.h5").write_text("hello")
    with pytest.raises(ValueError, match="is not an HDF5 file"):
        open_path(tmp_path / "fake.h5")
    assert open_path(tmp_path / "g.zarr" / "inner").shape == SHAPE


# -- plans ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [(1000,), (7, 11), (3, 4, 50), (1, 1)])
@pytest.mark.parametrize("chunks", [None, "small"])
@pytest.mark.parametrize("responses", [None, 1, 13, 10**6])
@pytest.mark.filterwarnings("ignore:Y is stored in chunks")
def test_blocks_cover_every_response_once(dims: tuple[int, ...], chunks: str | None, responses: int | None) -> None:
    plan = make_plan(dims, 800, None if chunks is None else [min(3, n) for n in dims], responses)
    seen = np.zeros(dims, dtype=int)
    for at in plan.blocks():
        seen[at] += 1
    assert (seen == 1).all() and len(plan) == len(plan.blocks())
    if responses and chunks is None:
        assert math.prod(plan.block) <= responses


def test_blocks_are_whole_chunks_and_of_the_size_asked_for() -> None:
    assert make_plan((100_000,), 8000, (100,)).block[0] % 100 == 0
    assert make_plan((1_000_000,), 8000).block[0] % STEP == 0  # none is padded
    assert make_plan((64, 200, 50), 8000, (16, 50, 50)).block == (16, 50, 50)
    for size in (80, 8_000, 800_000):
        block = make_plan((10**8,), size).block[0]
        assert 64e6 < block * size <= 128 * 2**20


def test_chunks_that_do_not_fit_are_cut_and_it_is_said() -> None:
    with pytest.warns(UserWarning, match="chunks of 1000000 responses, too many to hold in memory.* about 62 times"):
        plan = make_plan((1_000_000,), 8000, (1_000_000,))
    assert plan.block[0] == 16384
    with pytest.raises(ValueError, match="block must be a number of responses, 1 or more, found 0"):
        make_plan((10,), 8, None, 0)


# -- journals -------------------------------------------------------------------------------------


def test_a_journal_holds_what_was_written_and_no_half_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "a")
    journal.add(0, 111)
    journal.add(7, 222, 5)
    with pytest.raises(ValueError, match="another process is writing these results"):
        Journal(tmp_path, "a")
    journal.close()
    whole = (tmp_path / "a.journal").read_bytes()
    for length in range(len(whole)):  # killed at any byte
        (tmp_path / "a.journal").write_bytes(whole[:length])
        found = finished(tmp_path)
        assert set(found) == {
            k for k, end in ((0, len(whole.splitlines(True)[0])), (7, len(whole))) if end - 1 <= length
        }
        journal = Journal(tmp_path, "a")
        journal.add(9, 333)
        journal.close()
        assert finished(tmp_path) == found | {9: (333, 0)}
    (tmp_path / "a.journal").write_bytes(whole)
    Journal(tmp_path, "b").add(8, 1)
    assert finished(tmp_path) == {0: (111, 0), 7: (222, 5), 8: (1, 0)}


# -- overlap --------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 2, 3, 20])
def test_overlapped_keeps_the_order(n: int) -> None:
    written: list[tuple[int, int]] = []
    overlapped(range(n), lambda i: i * i, lambda i, r: r + i, lambda i, made: written.append((i, made)))
    assert written == [(i, i * i + i) for i in range(n)]


@pytest.mark.parametrize("stage", ["read", "compute", "write"])
def test_what_a_stage_raises_ends_the_run_and_what_was_computed_is_written(stage: str) -> None:
    written: list[int] = []

    def fail(name: str, i: int) -> int:
        if name == stage and i == 5:
            raise OSError(f"{name} of 5")
        return i

    def write(i: int, made: int) -> None:
        fail("write", i)
        written.append(i)

    with pytest.raises(OSError, match=f"{stage} of 5"):
        overlapped(range(20), lambda i: fail("read", i), lambda i, r: fail("compute", i), write)
    assert written == [0, 1, 2, 3, 4]


def test_reading_is_at_most_two_blocks_ahead() -> None:
    read: list[int] = []
    done: list[int] = []

    def compute(i: int, block: int) -> int:
        assert len(read) <= i + 3
        return block

    overlapped(range(30), lambda i: read.append(i) or i, compute, lambda i, made: done.append(i))
    assert len(done) == 30
