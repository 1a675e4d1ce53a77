"""Lazy fits of dask arrays: the same dataset as in memory, from threads and from a cluster that loses a worker."""

from __future__ import annotations

import collections
import io
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import threadpoolctl

import jaxlmm
from jaxlmm.runtime import progress

xr = pytest.importorskip("xarray")
dask = pytest.importorskip("dask")
pytest.importorskip("jaxlmm.outofcore.cluster")
import dask.array as da  # noqa: E402

N, C, T, G = 40, 6, 4, 8
SUBJECT = np.repeat(np.arange(G), N // G)
DATES = np.arange("2020-01-01", "2020-01-05", dtype="M8[D]").astype("M8[ns]")


def responses() -> Any:
    """Channels x trials x times, with responses of most kinds of status and coordinates of all kinds."""
    rng = np.random.default_rng(1)
    values = rng.normal(size=(N, C, T)) + 2 * rng.normal(size=(G, C, T))[SUBJECT]
    values[4, 0, 1] = values[30:, 3, 2] = np.nan
    values[:, 1, 0] -= values[:, 1, 0].reshape(G, -1).mean(axis=1)[SUBJECT]  # singular
    values[:, 2, 3] = np.nan
    values[:, 4, 1] = 7.0
    values[:, 5, 2] = 1e200
    values[3, 5, 2] = -1e300
    return xr.DataArray(
        values.swapaxes(0, 1),
        dims=("channel", "trial", "time"),
        coords={
            "trial": np.arange(N) + 100,
            "subject": ("trial", np.array(list("abcdefgh"))[SUBJECT]),
            "cond": ("trial", np.tile(["x", "y"], N // 2)),
            "age": ("trial", rng.normal(size=N)),
            "precision": ("trial", rng.uniform(0.5, 2, size=N)),
            "channel": [f"E{k}" for k in range(C)],
            "region": ("channel", list("ffmmbb")),
            "time": DATES,
            "noise": (("trial", "time"), np.zeros((N, T))),
            "session": 7,
        },
        attrs={"units": "T/m", "other": 1},
    )


def design(coords: Any) -> np.ndarray:
    return np.column_stack([np.ones(N), coords["age"], np.arange(N) % 2])


NAMES = ["one", "age", "odd"]


def same(found: Any, expected: Any, rtol: float = 1e-9) -> None:
    """Equal to rounding, and exactly where nothing is rounded; same types, order and attributes."""
    assert list(found.variables) == list(expected.variables) and found.attrs == expected.attrs
    xr.testing.assert_allclose(found, expected, rtol=rtol)
    for name, variable in expected.variables.items():
        assert found[name].dims == variable.dims and found[name].dtype == variable.dtype, name
        assert {k: str(v) for k, v in found[name].attrs.items()} == {k: str(v) for k, v in variable.attrs.items()}
    for name in ("n_used", "singular", "converged", "status"):
        np.testing.assert_array_equal(found[name].values, expected[name].values, err_msg=name)


class Reads:
    """Counts how often each block is read."""

    def __init__(self) -> None:
        self.counts: collections.Counter[tuple[int, ...]] = collections.Counter()

    def __call__(self, block: np.ndarray, block_id: Any = None) -> np.ndarray:
        self.counts[block_id] += 1
        return block

    def watch(self, Y: Any, **chunks: int) -> Any:
        lazy = Y.chunk(chunks)
        return lazy.copy(data=lazy.data.map_blocks(self, dtype=lazy.dtype, meta=np.empty((0,) * lazy.ndim)))


# -- the same results ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "chunks",
    [{"channel": 2, "trial": -1, "time": 3}, {"channel": 1, "trial": 7, "time": -1}, {}],
    ids=["responses", "observations-too", "one"],
)
@pytest.mark.parametrize(
    "order", [("channel", "trial", "time"), ("trial", "time", "channel"), ("time", "channel", "trial")]
)
def test_the_dataset_of_a_fit_in_memory(chunks: dict[str, int], order: tuple[str, ...]) -> None:
    Y, reads = responses().transpose(*order), Reads()
    expected = jaxlmm.fit(design, Y, "subject", obs_dim="trial", names=NAMES).to_dataset()
    found = jaxlmm.fit(design, reads.watch(Y, **chunks), "subject", obs_dim="trial", names=NAMES)
    assert not reads.counts  # the call itself reads nothing
    blocks = Y.chunk(chunks).chunksizes
    for name, variable in found.data_vars.items():
        assert dask.is_dask_collection(variable.data), name
        for dim in variable.dims:
            assert variable.chunksizes[dim] == {"term": (3,), "ran_par": (1,), **blocks}[dim], (name, dim)
    same(found.compute(), expected)
    statuses = {jaxlmm.Status(v).name for v in expected["status"].values.flat}
    assert statuses == {"OK", "SINGULAR", "NONFINITE", "CONSTANT"}
    assert set(reads.counts.values()) == {1}


@pytest.mark.parametrize(
    "options",
    [
        {"method": "ML", "df": "residual", "missing": "refuse", "level": 0.5},
        {"df": "kenward-roger", "weights": "precision", "group_name": "person", "terms": {"both": ["age", "odd"]}},
        {"groups": None, "df": "normal"},
        {"groups": [("s", code) for code in SUBJECT], "weights": lambda coords: 1 / coords["precision"]},
    ],
    ids=["options", "names", "least-squares", "labels-and-function"],
)
def test_options(options: dict[str, Any]) -> None:
    Y = responses()
    model = {"groups": "subject", "obs_dim": "trial", "names": NAMES} | options
    found = jaxlmm.fit(design, Y.chunk(channel=4), **model)
    level = model.pop("level", 0.95)
    same(found.compute(), jaxlmm.fit(design, Y, **model).to_dataset(level))


def test_formulas() -> None:
    pytest.importorskip("formulaic")
    Y = responses()
    table = Y["trial"].to_dataframe()[["subject", "cond", "age"]]
    expected = jaxlmm.lmm("cond * age + (1 | subject)", Y=Y, obs_dim="trial", weights="precision")
    for data in (None, table):
        found = jaxlmm.lmm(
            "cond * age + (1 | subject)", data, Y.chunk(channel=4, trial=11), weights="precision", level=0.9
        )
        same(found.compute(), expected.to_dataset(0.9))
    assert found.attrs["formula"] == "cond * age + (1 | subject)"
    plain = jaxlmm.lmm("cond + (1 | subject)", table.reset_index(), da.from_array(Y.values[0], chunks=(9, 3)))
    assert plain["pvalue"].dims == ("term", "response")
    want = jaxlmm.lmm("cond + (1 | subject)", table, Y.values[0])
    np.testing.assert_allclose(plain["pvalue"].values.T, want.pvalue, rtol=1e-9)


@pytest.mark.parametrize(
    ("shape", "dims"), [((N,), ()), ((N, 6), ("response",)), ((N, 2, 3), ("dim_1", "dim_2"))], ids=["1d", "2d", "3d"]
)
def test_plain_dask_arrays(shape: tuple[int, ...], dims: tuple[str, ...]) -> None:
    Y = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    X = design({"age": np.arange(N) ** 2})
    found = jaxlmm.fit(X, da.from_array(Y, chunks=2), SUBJECT)
    expected = jaxlmm.fit(X, xr.DataArray(Y, dims=("o", *dims)), SUBJECT, obs_dim="o").to_dataset()
    assert found["coef"].dims == ("term", *dims) and found["status"].dims == dims
    same(found.compute(), expected.drop_vars("response", errors="ignore"))  # unnamed responses are numbered in memory


def test_a_masked_value_is_a_missing_one() -> None:
    Y = responses().values[0]
    masked = da.from_array(Y, chunks=(-1, 1)).map_blocks(lambda b: np.ma.masked_greater(b, 1.5), dtype=float)
    found = jaxlmm.fit(np.ones((N, 1)), masked, SUBJECT)
    expected = jaxlmm.fit(np.ones((N, 1)), np.where(Y > 1.5, np.nan, Y), SUBJECT)
    np.testing.assert_array_equal(found["n_used"], expected.n_used)
    np.testing.assert_allclose(found["coef"].values.T, expected.coef, rtol=1e-9)


def test_a_zarr_store_is_written_chunk_by_chunk(tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    Y, reads = responses(), Reads()
    found = jaxlmm.fit(design, reads.watch(Y, channel=4), "subject", obs_dim="trial", names=NAMES)
    write_zarr(found, tmp_path / "a.zarr")
    assert set(reads.counts.values()) == {1}
    with xr.open_zarr(tmp_path / "a.zarr") as read:
        assert read["coef"].variable.chunksizes["channel"] == (4, 2)
        expected = jaxlmm.fit(design, Y, "subject", obs_dim="trial", names=NAMES).to_dataset()
        xr.testing.assert_allclose(read.load(), expected, rtol=1e-9)
        assert read["status"].dtype == np.int8 and read["singular"].dtype == bool


def write_zarr(data: Any, path: Path, **options: Any) -> Any:
    # Version 3 of the format warns that text is not in its standard yet; older zarr knows only 2.
    return data.to_zarr(path, **({"zarr_format": 2} if sys.modules["zarr"].__version__ >= "3" else {}), **options)


# -- the graph -------------------------------------------------------------------------------------


def test_a_chunk_is_fitted_once_for_all_that_is_computed_together() -> None:
    reads = Reads()
    found = jaxlmm.fit(design, reads.watch(responses(), channel=2, time=2), "subject", obs_dim="trial")
    for compute in (
        lambda: found["pvalue"].compute(),
        lambda: dask.compute(found["coef"], found["se"], found["status"].sum()),
        lambda: (found["coef"] / found["se"] - found["statistic"]).compute(),
        lambda: found.persist(),
    ):
        reads.counts.clear()
        compute()
        assert len(reads.counts) == 6 and set(reads.counts.values()) == {1}
    reads.counts.clear()
    found["coef"].sel(channel="E3", time=DATES[0]).compute()
    assert reads.counts == {(1, 0, 0): 1}  # only the chunk that is asked for


def keys(**change: Any) -> list[str]:
    model = {"X": design, "groups": "subject", "obs_dim": "trial"} | change
    return [v.data.name for v in jaxlmm.fit(Y=responses().chunk(channel=2), **model).data_vars.values()]


def test_keys_depend_on_what_is_computed() -> None:
    first = keys()
    assert len(set(first)) == len(first) and keys() == first
    assert keys(groups=[("s", code) for code in SUBJECT]) == first  # labels change no number
    for change in (
        {"X": lambda coords: design(coords) * [1, 2, 1]}, {"groups": None}, {"groups": SUBJECT // 2},
        {"weights": "precision"}, {"method": "ML"}, {"df": "residual"}, {"missing": "refuse"}, {"level": 0.9},
    ):  # fmt: skip
        assert not set(keys(**change)) & set(first), change


def test_the_design_is_in_the_graph_once() -> None:
    n, chunks = 3000, 40
    X = np.random.default_rng(0).normal(size=(n, 5))
    Y = da.zeros((n, chunks), chunks=(-1, 1))
    found = jaxlmm.fit(X, Y, np.arange(n) % 50)
    graph = dask.optimize(found)[0].__dask_graph__()
    sizes = [len(pickle.dumps(task)) for task in dict(graph).values()]
    assert len(sizes) > 20 * chunks
    assert sum(size > 5000 for size in sizes) == 1 and max(sizes) < 1.5 * (X.nbytes + 8 * n)


def test_threads_at_once() -> None:
    rng = np.random.default_rng(0)
    V = rng.normal(size=(N, 600)) + rng.normal(size=(G, 600))[SUBJECT]
    V[3, ::7] = np.nan
    found = jaxlmm.fit(design({"age": rng.normal(size=N)}), da.from_array(V, chunks=(-1, 20)), SUBJECT)
    alone, limits = found.compute(scheduler="synchronous"), blas_threads()
    for _ in range(3):
        same(found.compute(scheduler="threads", num_workers=4), alone, rtol=1e-12)
    assert blas_threads() == limits and not jax.config.jax_enable_x64


def bars(call: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """What is drawn on the screen while something is computed, whose bar comes at once."""
    screen = io.StringIO()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", screen)
        patch.setattr(progress, "DELAY", 0.0)
        patch.setattr(progress, "TICK", 0.01)
        call()
    assert not [thread for thread in threading.enumerate() if thread.name == progress.NAME]
    return screen.getvalue()


def test_a_bar_while_dask_computes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Y = responses()

    def slowly(block: np.ndarray) -> np.ndarray:
        time.sleep(0.1)
        return block

    def fit(show: bool | None) -> Any:
        lazy = Y.chunk(channel=2)
        lazy = lazy.copy(data=lazy.data.map_blocks(slowly, dtype=float, meta=np.empty((0, 0, 0))))
        return jaxlmm.fit(design, lazy, "subject", progress=show, **MODEL)

    shown = fit(True)
    assert "Fit: 100%" in bars(shown.compute, monkeypatch)
    drawn = bars(lambda: shown["pvalue"].sel(channel=["E0", "E1"]).compute(), monkeypatch)
    assert "8.00/8.00" in drawn and "responses/s" in drawn
    pytest.importorskip("zarr")
    assert "24.0/24.0" in bars(lambda: write_zarr(shown, tmp_path / "a.zarr"), monkeypatch)
    # Not where nothing is fitted, nothing is asked for, there is no terminal, or dask's own bar is there already.
    done = shown.persist()
    assert bars(done.compute, monkeypatch) == bars((Y.chunk() + 1).compute, monkeypatch) == ""
    assert bars(fit(False).compute, monkeypatch) == bars(fit(None).compute, monkeypatch) == ""
    monkeypatch.setattr(progress, "_in_kernel", lambda: True)
    assert "100%" in bars(fit(None).compute, monkeypatch)
    with dask.diagnostics.ProgressBar(out=io.StringIO()):
        assert bars(fit(None).compute, monkeypatch) == ""


def test_a_bar_ends_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    lazy = responses().chunk(channel=2)
    lazy = lazy.copy(data=lazy.data.map_blocks(read_badly, dtype=float, meta=np.empty((0, 0, 0))))
    found = jaxlmm.fit(design, lazy, "subject", progress=True, **MODEL)

    def fails() -> None:
        with pytest.raises(OSError, match="disk on fire"):
            found.compute(scheduler="synchronous")

    assert "Fit:  " in bars(fails, monkeypatch)


def blas_threads() -> set[tuple[str, int]]:
    return {(lib["filepath"], lib["num_threads"]) for lib in threadpoolctl.threadpool_info()}


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Y": responses()}, "level is given without out: it is for results on disk, and of dask arrays"),
        (
            {"obs_dim": None, "groups": None},
            "Y has 3 dimensions; say which holds the observations, obs_dim=...; the dimensions of Y are "
            "'channel' (6), 'trial' (40), 'time' (4).",
        ),
        ({"Y": da.zeros((N, 2))}, "obs_dim is 'trial', but Y is no DataArray: its first axis holds"),
        ({"Y": da.zeros(()), "obs_dim": None}, "Y has no dimension"),
        ({"Y": (lambda a: a[a > 0])(da.ones(N)), "obs_dim": None}, "Y has chunks of unknown size"),
        ({"Y": responses().chunk().astype(complex)}, "Y must be numeric, found dtype complex128; take its real part"),
        ({"level": 95}, "level must lie between 0 and 1"),
    ],
    ids=["memory", "no-obs_dim", "obs_dim", "0d", "unknown", "complex", "level"],
)  # fmt: skip
def test_errors_of_the_call(change: dict[str, Any], message: str) -> None:
    arguments = {
        "X": design,
        "Y": responses().chunk(),
        "groups": "subject",
        "obs_dim": "trial",
        "level": 0.9,
    } | change
    with pytest.raises(ValueError) as error:
        jaxlmm.fit(**arguments)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        {"obs_dim": "epoch"}, {"X": np.ones((7, 1))}, {"groups": "person"}, {"groups": "region"},
        {"weights": "noise"},
        {"X": np.ones((N, 2))}, {"X": lambda coords: np.full((N, 1), np.nan)}, {"names": ["a"]}, {"terms": {"a": 9}},
        {"method": "GLS"}, {"df": "kr"}, {"missing": "impute"}, {"method": "ML", "df": "kenward-roger"},
        {"Y": responses().rename(time="term")}, {"Y": responses().isel(time=slice(0))},
    ],
    ids=lambda change: "-".join(change),
)  # fmt: skip
def test_errors_are_those_of_a_fit_in_memory(change: dict[str, Any]) -> None:
    arguments = {"X": design, "Y": responses(), "groups": "subject", "obs_dim": "trial"} | change
    with pytest.raises(ValueError) as expected:
        jaxlmm.fit(**arguments)
    reads = Reads()
    with pytest.raises(ValueError) as found:
        jaxlmm.fit(**arguments | {"Y": reads.watch(arguments["Y"])})
    assert str(found.value) == str(expected.value) and not reads.counts


@pytest.mark.parametrize(
    ("formula", "data", "message"),
    [
        ("y ~ cond", None, "y"),
        ("age ~ cond", None, "names a response, but the responses are Y"),
        ("cond", {"cond": ["x"]}, "data has 1 rows, Y has 40 along 'trial'"),
    ],
)
def test_errors_of_formulas(formula: str, data: Any, message: str) -> None:
    pytest.importorskip("formulaic")
    data = None if data is None else xr.Dataset({"cond": ("i", data["cond"])}).to_dataframe()
    with pytest.raises(ValueError, match=message):
        jaxlmm.lmm(formula, data, responses().chunk(), obs_dim="trial")


def test_a_chunk_that_cannot_be_fitted_is_named() -> None:
    Y = responses().astype(object)
    Y[3, 5, 2] = "n/a"
    lazy = jaxlmm.fit(design, Y.chunk(channel=2, time=2), "subject", obs_dim="trial")
    lazy["coef"].isel(channel=0, time=0).compute()  # the others can
    with pytest.raises(ValueError) as error:
        lazy.compute()
    assert "chunk (1, 1) of Y (channel 2:4, time 2:4): Y must be numeric, found 'n/a'" in str(error.value)


def test_a_chunk_of_another_shape_than_it_says_is_refused() -> None:
    Y = da.zeros((N, 6), chunks=(-1, 2)).map_blocks(
        lambda b, block_id: b[:, :1] if block_id[1] == 2 else b + np.arange(N)[:, None] ** 2, dtype=float,
        meta=np.empty((0, 0)),
    )  # fmt: skip
    with pytest.raises(ValueError) as error:
        jaxlmm.fit(np.ones((N, 1)), Y, SUBJECT).compute()
    assert "chunk (2,) of Y (response 4:6): its responses have the shape (1,), where Y's chunks say (2,)." in str(
        error.value
    )


@pytest.mark.parametrize("package", ["dask", "xarray"])
def test_without_the_packages(package: str) -> None:
    code = f"import sys; sys.modules['{package}'] = None\nimport jaxlmm.outofcore.cluster"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert 'ImportError: lazy fits need dask and xarray: pip install "jaxlmm[dask]"' in run.stderr


# -- a cluster -------------------------------------------------------------------------------------


# Without a fit to the rows that are there, whose code every process would have to compile.
MODEL: dict[str, Any] = {"obs_dim": "trial", "names": NAMES, "missing": "refuse"}


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed")
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "60s"}),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, memory_limit=0
        ) as cluster,
        distributed.Client(cluster) as made,
    ):
        yield made


def read_slowly(block: np.ndarray, folder: str, block_id: Any = None) -> np.ndarray:
    """A block; the last one says which process has it, and waits until that process is to be killed."""
    folder_path = Path(folder)
    if block_id == (2, 0, 0) and not (folder_path / "killed").exists():
        (folder_path / "part").write_text(str(os.getpid()))
        (folder_path / "part").rename(folder_path / "pid")
        time.sleep(600)
    return block


def read_badly(block: np.ndarray, block_id: Any = None) -> np.ndarray:
    if block_id == (1, 0, 0):
        raise OSError("disk on fire")
    return block


def wait_for(path: Path) -> None:
    for _ in range(3000):
        if path.exists():
            return
        time.sleep(0.1)
    raise TimeoutError(path)


def test_on_a_cluster(client: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Y = responses()
    expected = jaxlmm.fit(design, Y, "subject", **MODEL).to_dataset()
    found = jaxlmm.fit(design, Y.chunk(channel=2, trial=9), "subject", **MODEL)
    same(found.compute(), expected)
    pytest.importorskip("zarr")
    write_zarr(found, tmp_path / "a.zarr")
    with xr.open_zarr(tmp_path / "a.zarr") as read:
        xr.testing.assert_allclose(read.load(), expected, rtol=1e-9)
    # The bar of the documentation.
    distributed = pytest.importorskip("distributed")
    task = write_zarr(found, tmp_path / "b.zarr", compute=False).persist()
    distributed.progress(task, notebook=False)
    assert "Completed" in capsys.readouterr().out
    task.compute()
    with xr.open_zarr(tmp_path / "b.zarr") as read:
        xr.testing.assert_allclose(read.load(), expected, rtol=1e-9)
    # Responses that are on the workers already.
    there = Y.chunk(channel=2).persist()
    same(jaxlmm.fit(design, there, "subject", **MODEL).compute(), expected)


def test_labels_that_the_workers_do_not_know(client: Any) -> None:
    class Person(str):  # of this function, so that no other process can load one
        def __reduce__(self) -> Any:
            raise TypeError("not to be sent")

    labels = [Person(f"s{code}") for code in SUBJECT]
    found = jaxlmm.fit(design, responses().chunk(channel=3), labels, **MODEL)
    same(found.compute(), jaxlmm.fit(design, responses(), labels, **MODEL).to_dataset())


def test_a_worker_is_killed_while_it_fits(client: Any, tmp_path: Path) -> None:
    Y = responses()
    lazy = Y.chunk(channel=2)
    lazy = lazy.copy(data=lazy.data.map_blocks(read_slowly, str(tmp_path), dtype=float, meta=np.empty((0, 0, 0))))
    found = jaxlmm.fit(design, lazy, "subject", **MODEL)
    running = client.compute(found)
    wait_for(tmp_path / "pid")
    (tmp_path / "killed").touch()
    killed = int((tmp_path / "pid").read_text())
    assert killed in client.run(os.getpid).values() and killed != os.getpid()
    os.kill(killed, signal.SIGKILL)
    expected = jaxlmm.fit(design, Y, "subject", **MODEL).to_dataset()
    same(running.result(timeout=600), expected)
    client.wait_for_workers(2, timeout=600)  # the cluster replaces it
    assert killed not in client.run(os.getpid).values()


def test_a_chunk_that_cannot_be_read(client: Any) -> None:
    lazy = responses().chunk(channel=2)
    lazy = lazy.copy(data=lazy.data.map_blocks(read_badly, dtype=float, meta=np.empty((0, 0, 0))))
    found = jaxlmm.fit(design, lazy, "subject", obs_dim="trial")
    with pytest.raises(OSError, match="disk on fire"):
        found.compute()
    assert found["status"].isel(channel=0).compute().shape == (T,)  # of another chunk
