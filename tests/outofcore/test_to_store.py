"""Fits from disk to disk: the same results as in memory, through any interruption."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import blups, value_of

import jaxlmm
from jaxlmm.outofcore import run_settings
from jaxlmm.sources import fingerprint, lazy, plan
from jaxlmm.storage import result_store

pd = pytest.importorskip("pandas")
pytest.importorskip("formulaic")
xr = pytest.importorskip("xarray")
zarr = pytest.importorskip("zarr")

N, GROUPS, M, BLOCK = 60, 6, 230, 40
EXTRA = ["se_gls", "theta", "hessian"]
RESULTS = 20 + len(EXTRA)  # arrays that are written for a block, beside the missing cells


@pytest.fixture(scope="module")
def case() -> dict[str, Any]:
    """A design, and responses of which some are incomplete, constant or infinite."""
    rng = np.random.default_rng(3)
    g = np.repeat([f"s{j}" for j in range(GROUPS)], N // GROUPS)
    X = np.column_stack([np.ones(N), rng.normal(size=N)])
    Y = rng.normal(size=(N, M)) + rng.normal(size=(GROUPS, M)).repeat(N // GROUPS, axis=0)
    Y[rng.random((N, M)) < 0.002] = np.nan
    Y[:, 11], Y[3, 200] = 4.0, np.inf
    return {"X": X, "Y": Y, "groups": g}


def run(case: dict[str, Any], folder: Path, **options: Any) -> Any:
    if not (folder / "y.npy").exists():
        np.save(folder / "y.npy", case["Y"])
    arguments = {**case, "Y": folder / "y.npy", "out": folder / "out.zarr", "block": BLOCK, **options}
    return jaxlmm.fit(**arguments)


def content(store: Path) -> dict[str, bytes]:
    return {str(p.relative_to(store)): p.read_bytes() for p in store.rglob("*") if p.is_file()}


def same(a: Any, b: Any) -> None:
    xr.testing.assert_allclose(a.drop_vars(EXTRA, errors="ignore"), b.drop_vars(EXTRA, errors="ignore"), rtol=1e-10)


# -- results --------------------------------------------------------------------------------------


@pytest.mark.parametrize("df", ["satterthwaite", "kenward-roger"])
def test_the_results_are_those_of_fit(case: dict[str, Any], tmp_path: Path, df: str) -> None:
    found = run(case, tmp_path, df=df)
    expected = jaxlmm.fit(**case, df=df)
    same(found, expected.to_dataset().drop_vars("response"))
    assert found.attrs["df"] == df and found.status.attrs["flag_meanings"].startswith("ok singular")
    assert sorted(os.listdir(tmp_path)) == ["out.zarr", "y.npy"]
    again = jaxlmm.load(tmp_path / "out.zarr")
    for name in ("coef", "se", "se_gls", "df", "pvalue", "lam", "sigma2", "loglik", "status", "n_used", "icc"):
        np.testing.assert_allclose(getattr(again, name), getattr(expected, name), rtol=1e-10, err_msg=name)
    np.testing.assert_allclose(again.vcov, expected.vcov, rtol=1e-9)
    np.testing.assert_allclose(again.test([0, 1]).pvalue, expected.test([0, 1]).pvalue, rtol=1e-9)
    with pytest.raises(ValueError, match="saved without its responses"):
        blups(again)
    whole = jaxlmm.load(tmp_path / "out.zarr", Y=case["Y"])
    np.testing.assert_allclose(blups(whole), blups(expected), rtol=1e-8, atol=1e-12)


def test_axes_and_labels_of_a_zarr_array(case: dict[str, Any], tmp_path: Path) -> None:
    Y = case["Y"][:, :210].reshape(N, 5, 7, 6)
    array = zarr.create_array(tmp_path / "y.zarr", data=Y, chunks=(20, 5, 2, 3), dimension_names=["t", "a", "b", "c"])
    found = run(case, tmp_path, Y=array, coords={"a": list("vwxyz")})
    assert found["coef"].sizes == {"term": 2, "a": 5, "b": 7, "c": 6} and list(found.a.values) == list("vwxyz")
    expected = jaxlmm.fit(case["X"], Y.reshape(N, -1), case["groups"])
    np.testing.assert_allclose(found.coef.values.reshape(2, -1).T, expected.coef, rtol=1e-10)
    np.testing.assert_array_equal(found.status.values.ravel(), expected.status)
    assert zarr.open_group(tmp_path / "out.zarr")["coef"].chunks == (2, 5, 2, 3)
    named = run(case, tmp_path, Y=Y, dims=("x", "y", "z"), out=tmp_path / "b.zarr")
    assert named.sigma2.dims == ("x", "y", "z")
    np.testing.assert_allclose(named.coef.values, found.coef.values, rtol=1e-10)
    assert run(case, tmp_path, Y=Y, out=tmp_path / "c.zarr").sigma2.dims == ("dim_1", "dim_2", "dim_3")


def test_a_labelled_array_by_formula(case: dict[str, Any], tmp_path: Path) -> None:
    labels = {"time": [0.1, 0.2, 0.3], "x": ("trial", case["X"][:, 1]), "who": ("trial", case["groups"])}
    Y = xr.DataArray(
        case["Y"][:, :30].reshape(N, 10, 3), dims=("trial", "channel", "time"), coords=labels, attrs={"units": "uV"}
    ).transpose("channel", "trial", "time")
    Y.to_dataset(name="y").to_zarr(tmp_path / "y.zarr", zarr_format=2)
    opened = xr.open_zarr(tmp_path / "y.zarr", chunks=None)["y"]
    found = jaxlmm.lmm("x + (1 | who)", Y=opened, obs_dim="trial", out=tmp_path / "out.zarr")
    expected = jaxlmm.lmm("x + (1 | who)", Y=Y, obs_dim="trial")
    same(found, expected.to_dataset())
    assert found.coef.attrs["units"] == "uV" and found.attrs["formula"] == "x + (1 | who)"
    table = pd.DataFrame({"x": case["X"][:, 1], "who": case["groups"], "w": np.linspace(1, 2, N)})
    weighted = jaxlmm.lmm("x + (1 | who)", table, case["Y"], out=tmp_path / "w.zarr", weights="w")
    plain = jaxlmm.fit(**case, weights=table["w"])
    np.testing.assert_allclose(weighted.coef.values.T, plain.coef, rtol=1e-10)
    again = jaxlmm.load(tmp_path / "out.zarr")
    assert again.dims == ("channel", "time") and again.sel(time=0.2).n_responses == 10
    np.testing.assert_allclose(again.predict(table.head(3)[["x"]]), expected.predict(table.head(3)[["x"]]), rtol=1e-9)


def test_text_of_pandas_beside_responses_and_dropped_rows(case: dict[str, Any], tmp_path: Path) -> None:
    def text(values: Any) -> Any:
        return pd.array(list(values), dtype="string")  # what pandas 3 makes of any text

    x = case["X"][:, 1].copy()
    x[3] = np.nan
    along = {"x": ("trial", x), "who": ("trial", text(case["groups"])), "region": ("channel", text("abcde"))}
    Y = xr.DataArray(case["Y"][:, :5], dims=("trial", "channel"), coords=along)
    expected = jaxlmm.lmm("x + (1 | who)", Y=Y, obs_dim="trial")
    found = jaxlmm.lmm("x + (1 | who)", Y=Y, obs_dim="trial", out=tmp_path / "out.zarr")
    np.testing.assert_allclose(found.coef.values.T, expected.coef, rtol=1e-10)
    assert list(found.region.values) == list("abcde")


def test_fit_takes_responses_that_are_not_in_memory(
    case: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lazy, "LOAD_BYTES", 1000)
    monkeypatch.setattr(plan, "BLOCK_BYTES", 50 * N * 8)
    np.save(tmp_path / "y.npy", case["Y"])
    expected, mapped = jaxlmm.fit(**case), np.load(tmp_path / "y.npy", mmap_mode="r")
    array = zarr.create_array(tmp_path / "y.zarr", data=case["Y"], chunks=(30, 50))
    for Y in (mapped, array):
        found = jaxlmm.fit(case["X"], Y, case["groups"])
        assert type(found.Y).__name__ == "LazyMatrix"
        for name in ("coef", "pvalue", "lam", "loglik", "status", "n_used"):
            np.testing.assert_allclose(
                value_of(found, name), value_of(expected, name), rtol=1e-8, atol=1e-12, err_msg=name
            )
        np.testing.assert_allclose(blups(found), blups(expected), rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(found.select([3, 100]).resid(), expected.select([3, 100]).resid(), rtol=1e-9)
        np.testing.assert_allclose(found.resid(), expected.resid(), rtol=1e-9)
        two = found.select([3, 100]).profile().sigma, expected.select([3, 100]).profile().sigma
        np.testing.assert_allclose(*two, rtol=1e-7)
        assert found.summary(7) == expected.summary(7)
    two = [
        jaxlmm.compare(*[jaxlmm.fit(case["X"][:, :p], Y, case["groups"], method="ML") for p in (1, 2)]).statistic
        for Y in (array, case["Y"])
    ]
    np.testing.assert_allclose(*two, rtol=1e-8, atol=1e-9)
    labelled = jaxlmm.fit(
        case["X"], xr.DataArray(mapped.reshape(N, 46, 5), dims=("t", "a", "b")), case["groups"], obs_dim="t"
    )
    assert type(labelled.Y).__name__ == "LazyMatrix"
    np.testing.assert_allclose(labelled.coef, expected.coef, rtol=1e-9)
    axes = jaxlmm.fit(case["X"], mapped.reshape(N, 46, 5), case["groups"], dims=("a", "b"))
    same(axes.to_dataset(), labelled.to_dataset())
    with pytest.raises(ValueError, match="Y has 60 rows, X has 59"):
        jaxlmm.fit(case["X"][1:], mapped, case["groups"][1:])


# -- interruptions --------------------------------------------------------------------------------

CHILD = """
import sys
import numpy as np
import jaxlmm

def main(folder, out):
    X, groups = np.load(folder + "/x.npy"), np.load(folder + "/groups.npy")
    jaxlmm.fit(X, folder + "/big.npy", groups, out=folder + "/" + out, block=100, resume=True)

if __name__ == "__main__":
    main(*sys.argv[1:])
"""


def journal_lines(part: Path) -> int:
    return sum(len(path.read_text().splitlines()) for path in part.glob("*.journal"))


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_run_that_is_killed_goes_on_and_ends_bit_by_bit_the_same(case: dict[str, Any], tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", case["X"])
    np.save(tmp_path / "groups.npy", case["groups"])
    np.save(tmp_path / "big.npy", np.tile(case["Y"], 6) * np.linspace(1, 2, 6 * M))
    script = tmp_path / "child.py"
    script.write_text(CHILD)

    def start(out: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, str(script), str(tmp_path), out])

    assert start("whole.zarr").wait() == 0
    part, kills = tmp_path / "killed.zarr.part", 0
    for more in (1, 3, 5):
        process, before = start("killed.zarr"), journal_lines(part)
        while process.poll() is None and journal_lines(part) < before + more:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        assert not (tmp_path / "killed.zarr").exists() or not kills
    assert kills >= 2  # a fast machine may finish before the last
    assert start("killed.zarr").wait() == 0
    assert content(tmp_path / "whole.zarr") == content(tmp_path / "killed.zarr")
    assert not part.exists()


class Killed(BaseException):
    """In the place of a signal."""


@pytest.mark.parametrize("at", [0, 1, RESULTS - 1, RESULTS, RESULTS + 1, 2 * RESULTS + 1, 100])
def test_killed_between_any_two_writes(
    case: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    expected, writes = run(case, tmp_path, out=tmp_path / "whole.zarr"), [0]
    write = result_store._write_chunk

    def counted(*arguments: Any) -> None:
        writes[0] += 1
        if writes[0] > at:
            raise Killed
        write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(result_store, "_write_chunk", counted)
        with pytest.raises(Killed):
            run(case, tmp_path)
    part = tmp_path / "out.zarr.part"
    assert journal_lines(part) == at // RESULTS
    run(case, tmp_path, resume=True)
    assert content(tmp_path / "out.zarr") == content(tmp_path / "whole.zarr")
    assert len(expected.sigma2) == M


@pytest.mark.parametrize("damage", ["cut", "changed", "gone", "journal"])
def test_a_block_that_is_not_whole_on_disk_is_not_taken_as_done(
    case: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    run(case, tmp_path, out=tmp_path / "whole.zarr")
    interrupt(case, tmp_path, monkeypatch, blocks=4)
    part = tmp_path / "out.zarr.part"
    chunk = part / "store" / "pvalue" / "0.2"
    assert chunk.exists()
    if damage == "cut":
        chunk.write_bytes(chunk.read_bytes()[:-5])
    elif damage == "changed":
        chunk.write_bytes(chunk.read_bytes()[::-1])
    elif damage == "gone":
        chunk.unlink()
    else:
        journal = next(part.glob("*.journal"))
        journal.write_bytes(journal.read_bytes()[:-3])
    fitted: list[int] = []
    original = result_store.ResultStore.write
    monkeypatch.setattr(
        result_store.ResultStore, "write", lambda self, k, *a: (fitted.append(k), original(self, k, *a))[1]
    )
    run(case, tmp_path, resume=True)
    assert fitted == ([3, 4, 5] if damage == "journal" else [2, 4, 5])  # the others are not fitted again
    assert content(tmp_path / "out.zarr") == content(tmp_path / "whole.zarr")


def interrupt(
    case: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch, blocks: int, **options: Any
) -> None:
    """A run that dies after some blocks."""
    original = result_store.ResultStore.write

    def write(self: Any, k: int, *arguments: Any) -> None:
        if k >= blocks:
            raise Killed
        original(self, k, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(result_store.ResultStore, "write", write)
        with pytest.raises(Killed):
            run(case, folder, **options)
    assert journal_lines(folder / "out.zarr.part") == blocks


@pytest.mark.parametrize("step", ["create", "consolidate", "move"])
def test_killed_before_the_last_steps(
    case: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    run(case, tmp_path, out=tmp_path / "whole.zarr")

    def die(*arguments: Any, **options: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        if step == "create":
            patch.setattr(result_store.ResultStore, "__init__", die)
        elif step == "consolidate":
            patch.setattr(zarr, "consolidate_metadata", die)
        else:
            rename = os.rename
            patch.setattr(os, "rename", lambda a, b: die() if Path(b).name == "out.zarr" else rename(a, b))
        with pytest.raises(Killed):
            run(case, tmp_path)
    assert not (tmp_path / "out.zarr").exists()
    run(case, tmp_path, resume=True)
    assert content(tmp_path / "out.zarr") == content(tmp_path / "whole.zarr")
    assert sorted(os.listdir(tmp_path)) == ["out.zarr", "whole.zarr", "y.npy"]


def test_resuming_what_is_complete_or_was_never_begun(case: dict[str, Any], tmp_path: Path) -> None:
    first = run(case, tmp_path, resume=True)
    before = content(tmp_path / "out.zarr")
    again = run(case, tmp_path, resume=True)
    xr.testing.assert_identical(first.load(), again.load())
    assert content(tmp_path / "out.zarr") == before


# -- what may not be resumed ----------------------------------------------------------------------


def other_y(case: dict[str, Any], folder: Path) -> dict[str, Any]:
    Y = case["Y"].copy()
    Y[5, M - 1] += 1e-9  # a response that is not fitted yet
    np.save(folder / "y.npy", Y)
    return {}


def other_x(case: dict[str, Any], folder: Path) -> dict[str, Any]:
    X = case["X"].copy()
    X[7, 1] = np.nextafter(X[7, 1], 9)
    return {"X": X}


CHANGES: dict[str, tuple[Callable[..., dict[str, Any]], str]] = {
    "Y": (other_y, "Y was changed, or is another"),
    "type of Y": (lambda case, folder: {"Y": case["Y"].astype(np.float32)}, "the dtype of Y was <f8, is <f4"),
    "shape of Y": (lambda case, folder: {"Y": case["Y"][:, 1:]}, r"the shape of Y was \[60, 230\], is \[60, 229\]"),
    "X": (other_x, "the design .* is another"),
    "groups": (lambda case, folder: {"groups": case["groups"][::-1]}, "the design .* is another"),
    "names of groups": (
        lambda case, folder: {"groups": np.char.add(case["groups"], "x")},
        "the design .* is another",
    ),
    "weights": (lambda case, folder: {"weights": np.linspace(1, 2, N)}, "the design .* is another"),
    "names": (lambda case, folder: {"names": ["a", "b"]}, "the design .* is another"),
    "terms": (lambda case, folder: {"terms": {"t": ["x1"]}}, "the design .* is another"),
    "method": (lambda case, folder: {"method": "ML"}, "method was REML, is ML"),
    "df": (lambda case, folder: {"df": "normal"}, "df was satterthwaite, is normal"),
    "missing": (lambda case, folder: {"missing": "refuse"}, "missing was drop, is refuse"),
    "level": (lambda case, folder: {"level": 0.9}, "level was 0.95, is 0.9"),
    "coordinate": (
        lambda case, folder: {"coords": {"x": ("response", np.arange(M))}},
        "the dimensions or coordinates",
    ),
    "labels": (lambda case, folder: {"coords": {"response": np.arange(M)}}, "the dimensions or coordinates"),
}


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("complete", [False, True])
def test_a_changed_input_is_refused(
    case: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, complete: bool
) -> None:
    if complete:
        run(case, tmp_path)
    else:
        interrupt(case, tmp_path, monkeypatch, blocks=2)
    change, message = CHANGES[what]
    changed = change(case, tmp_path)
    with pytest.raises(ValueError, match=f"cannot be resumed: .*{message}"):
        run(case, tmp_path, resume=True, **changed)


@pytest.mark.parametrize("package", ["jaxlmm", "numpy", "jax"])
def test_another_version_is_refused(
    case: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    interrupt(case, tmp_path, monkeypatch, blocks=2)
    known = run_settings.importlib.metadata.version
    monkeypatch.setattr(run_settings.importlib.metadata, "version", lambda p: "0.0" if p == package else known(p))
    with pytest.raises(ValueError, match=f"cannot be resumed: {package} was {known(package)}, is 0.0"):
        run(case, tmp_path, resume=True)


def test_files_that_were_moved_or_mended_are_compared_where_they_were_fitted(
    case: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(case, tmp_path, out=tmp_path / "whole.zarr")
    interrupt(case, tmp_path, monkeypatch, blocks=2)
    os.utime(tmp_path / "y.npy", (1, 1))
    with pytest.raises(ValueError, match="resume='verify' compares what was fitted"):
        run(case, tmp_path, resume=True)
    other = case["Y"].copy()
    other[[4, 5], 50] = other[[5, 4], 50]
    np.save(tmp_path / "y.npy", other)
    with pytest.raises(ValueError, match=r"Y has changed since the run began: responses \[40:80\] differ"):
        run(case, tmp_path, resume="verify")
    np.save(tmp_path / "y.npy", case["Y"])
    run(case, tmp_path, resume="verify")
    whole, mended = content(tmp_path / "whole.zarr"), content(tmp_path / "out.zarr")
    assert {k for k in whole if whole[k] != mended[k]} <= {".zattrs", ".zmetadata"}  # which hold the stamp
    os.utime(tmp_path / "y.npy", (2, 2))
    run(case, tmp_path, resume="verify")
    other = case["Y"].copy()
    other[0, M - 1] += 1e-9
    np.save(tmp_path / "y.npy", other)
    with pytest.raises(ValueError, match=r"Y has changed since the run began: responses \[200:230\] differ"):
        run(case, tmp_path, resume="verify")
    run(case, tmp_path, Y=case["Y"], resume="verify", out=tmp_path / "memory.zarr")
    with pytest.raises(ValueError, match="Y was changed, or is another"):
        run(case, tmp_path, Y=other, resume="verify", out=tmp_path / "memory.zarr")


def test_a_source_without_a_stamp_is_compared_too(
    case: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    da = pytest.importorskip("dask.array")
    Y = da.from_array(case["Y"], chunks=(N, 20))
    interrupt(case, tmp_path, monkeypatch, blocks=2, Y=Y)
    other = case["Y"].copy()
    other[0, 3] = 0.0
    with pytest.raises(ValueError, match=r"Y has changed since the run began: responses \[0:40\] differ"):
        run(case, tmp_path, resume=True, Y=da.from_array(other, chunks=(N, 20)))
    same(run(case, tmp_path, resume=True, Y=Y), jaxlmm.fit(**case).to_dataset().drop_vars("response"))


def test_complete_results_of_a_source_without_a_stamp_are_compared(case: dict[str, Any], tmp_path: Path) -> None:
    da = pytest.importorskip("dask.array")
    run(case, tmp_path, Y=da.from_array(case["Y"], chunks=(N, 20)))
    run(case, tmp_path, Y=da.from_array(case["Y"], chunks=(N, 20)), resume=True)
    other = case["Y"].copy()
    other[0, 3] = 0.0
    with pytest.raises(ValueError, match=r"Y has changed since the run began: responses \[0:40\] differ"):
        run(case, tmp_path, resume=True, Y=da.from_array(other, chunks=(N, 20)))


def test_a_mended_block_leaves_no_missing_cells(
    case: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Responses with gaps whose block was cut short, and that have none when the run goes on."""
    Y = case["Y"].copy()
    Y[0, 50] = np.nan
    np.save(tmp_path / "y.npy", Y)
    add = result_store.Journal.add

    def die(self: Any, block: int, *arguments: Any) -> None:
        if block == 1:
            raise Killed
        add(self, block, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(result_store.Journal, "add", die)
        with pytest.raises(Killed):
            run(case, tmp_path)
    Y[:, 40:80] = np.random.default_rng(1).normal(size=(N, 40))
    np.save(tmp_path / "y.npy", Y)
    run(case, tmp_path, resume="verify")
    expected = jaxlmm.fit(case["X"], Y, case["groups"])
    np.testing.assert_allclose(jaxlmm.load(tmp_path / "out.zarr").vcov, expected.vcov, rtol=1e-9)


def test_sums_of_contents_tell_every_change() -> None:
    rng = np.random.default_rng(0)
    for dtype, order in (("f8", "C"), ("f4", "C"), ("f8", "F"), ("i2", "C"), ("f4", "F")):
        Y = np.asarray(100 * rng.normal(size=(31, 17)), dtype=dtype, order=order)
        known = fingerprint.content_sum(Y)
        assert known == fingerprint.content_sum(Y.copy(order=order))
        one, rows, columns = Y.copy(order=order), Y[::-1], Y[:, ::-1]
        one[30, 16] += 1
        flat = np.tile(np.arange(17), (31, 1)).astype(dtype, order=order)
        swapped = flat.copy(order=order)
        swapped[4] = swapped[4, ::-1]  # with the same sum
        assert fingerprint.content_sum(flat) != fingerprint.content_sum(swapped)
        for changed in (one, rows.copy(order=order), columns.copy(order=order), Y[:, :-1].copy(order=order)):
            assert fingerprint.content_sum(changed) != known


# -- what stands in the way -----------------------------------------------------------------------


def test_what_is_there_is_not_lost(case: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(case, tmp_path)
    with pytest.raises(ValueError, match=r"out\.zarr' exists; give another path, or overwrite=True"):
        run(case, tmp_path)
    interrupt(case, tmp_path, monkeypatch, blocks=3, overwrite=True, method="ML")
    assert xr.open_zarr(tmp_path / "out.zarr", chunks=None).attrs["method"] == "REML"  # until the new one is complete
    with pytest.raises(
        ValueError, match=r"out\.zarr\.part' holds an unfinished run with 3 finished blocks; resume=True"
    ):
        run(case, tmp_path, method="ML")
    assert run(case, tmp_path, method="ML", resume=True).attrs["method"] == "ML"
    assert run(case, tmp_path, overwrite=True).attrs["method"] == "REML"
    interrupt(case, tmp_path, monkeypatch, blocks=3, overwrite=True)
    assert run(case, tmp_path, overwrite=True).attrs["method"] == "REML"
    assert sorted(os.listdir(tmp_path)) == ["out.zarr", "y.npy"]


def test_only_results_are_replaced(case: dict[str, Any], tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("x")
    zarr.create_array(tmp_path / "data.zarr", data=case["Y"])
    for out in (home, tmp_path / "file", tmp_path / "data.zarr"):
        with pytest.raises(ValueError, match="exists; give another path"):
            run(case, tmp_path, out=out)
        with pytest.raises(ValueError, match="is not a store of results, so it is not replaced"):
            run(case, tmp_path, out=out, overwrite=True)
        with pytest.raises(ValueError, match="exists; give another path"):
            run(case, tmp_path, out=out, resume=True)
    assert (home / "thesis.txt").read_text() == "years of work"
    with pytest.raises(ValueError, match=r"folder .*none' does not exist; make it first"):
        run(case, tmp_path, out=tmp_path / "none" / "out.zarr")


def test_what_others_left_beside_the_results_is_not_removed(case: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "out.zarr.part").mkdir()
    (tmp_path / "out.zarr.part" / "thesis.txt").write_text("years of work")
    for options in ({"overwrite": True}, {"resume": True}, {}):
        with pytest.raises(ValueError, match=r"out\.zarr\.part' is in the way, and is no unfinished run; move it"):
            run(case, tmp_path, **options)
    with pytest.raises(ValueError, match="is in the way, and was not left by save"):
        jaxlmm.fit(**case).save(tmp_path / "out.zarr", overwrite=True)
    assert (tmp_path / "out.zarr.part" / "thesis.txt").read_text() == "years of work"


def test_a_share_that_is_alive_is_left_alone(case: dict[str, Any], tmp_path: Path) -> None:
    assert run(case, tmp_path, share=(0, 2)) is None
    alive = result_store.ResultStore(tmp_path / "out.zarr", "share-1-of-2")
    for options in ({"overwrite": True}, {"resume": True}):
        with pytest.raises(ValueError, match="another process is writing these results"):
            run(case, tmp_path, **options)
    alive.close()
    assert run(case, tmp_path, resume=True) is not None


def test_a_kill_while_cleaning_up_blocks_nothing(
    case: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*arguments: Any, **options: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(result_store, "remove", die)
        with pytest.raises(Killed):
            run(case, tmp_path)
    assert (tmp_path / "out.zarr").exists() and (tmp_path / "out.zarr.part").exists()
    run(case, tmp_path, resume=True)
    assert sorted(os.listdir(tmp_path)) == ["out.zarr", "y.npy"]


def test_an_unfinished_run_is_not_taken_for_results(
    case: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(case, tmp_path, monkeypatch, blocks=2)
    assert not (tmp_path / "out.zarr").exists()
    with pytest.raises(ValueError, match="its run is not finished: call it again with resume=True"):
        jaxlmm.load(tmp_path / "out.zarr")
    left = xr.open_zarr(tmp_path / "out.zarr.part" / "store", chunks=None, consolidated=False)
    assert np.isnan(left.coef.values[:, 2 * BLOCK :]).all() and np.isfinite(left.coef.values[:, : 2 * BLOCK]).any()


def test_two_runs_do_not_write_the_same_results(
    case: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(case, tmp_path, monkeypatch, blocks=2)
    store = result_store.ResultStore(tmp_path / "out.zarr", "share-0-of-1")
    for options in ({"resume": True}, {"overwrite": True}):
        with pytest.raises(ValueError, match="another process is writing these results"):
            run(case, tmp_path, **options)
    store.close()
    run(case, tmp_path, resume=True)


def test_a_disk_that_is_too_small_is_seen_before(
    case: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = result_store.shutil.disk_usage
    monkeypatch.setattr(result_store.shutil, "disk_usage", lambda path: usage(path)._replace(free=1000))
    with pytest.raises(OSError, match=r"the results need .* GB and .* has 1e-06 GB free; make room"):
        run(case, tmp_path)
    assert os.listdir(tmp_path) == ["y.npy"]


FULL = """
import resource, sys
import numpy as np
import jaxlmm

if __name__ == "__main__":
    folder = sys.argv[1]
    case = {name: np.load(folder + f"/{name}.npy") for name in ("X", "groups")}
    if len(sys.argv) > 2:  # a file cannot grow beyond this: writing fails as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
    try:
        jaxlmm.fit(Y=folder + "/y.npy", out=folder + "/out.zarr", block=40, resume=True, **case)
    except OSError as error:
        print(error)
"""


def test_a_disk_that_is_full_is_said_and_what_was_finished_stays(case: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("resource")
    run(case, tmp_path, out=tmp_path / "whole.zarr")
    np.save(tmp_path / "X.npy", case["X"])
    np.save(tmp_path / "groups.npy", case["groups"])
    (tmp_path / "full.py").write_text(FULL)
    # The design's chunk is larger than a block's results, so the journal is what fails, after some blocks.
    limit = max(p.stat().st_size for p in (tmp_path / "whole.zarr").rglob("*"))
    command = [sys.executable, str(tmp_path / "full.py"), str(tmp_path)]
    tried = subprocess.run([*command, str(limit)], capture_output=True, text=True, check=True)
    assert not (tmp_path / "out.zarr").exists() or not tried.stdout
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not done.stdout
    assert content(tmp_path / "out.zarr") == content(tmp_path / "whole.zarr")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_results_that_cannot_be_written(
    case: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    run(case, tmp_path, out=tmp_path / "whole.zarr")
    write, writes = result_store._write_chunk, [0]

    def failing(*arguments: Any) -> None:
        writes[0] += 1
        if writes[0] > 2 * RESULTS + 10:
            raise OSError(code, os.strerror(code))
        write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(result_store, "_write_chunk", failing)
        message = (
            rf"results cannot be written to '.*out\.zarr\.part': {os.strerror(code)}. 2 of 6 blocks are finished"
        )
        with pytest.raises(OSError, match=message) as caught:
            run(case, tmp_path)
        assert caught.value.errno == code
    run(case, tmp_path, resume=True)
    assert content(tmp_path / "out.zarr") == content(tmp_path / "whole.zarr")


# -- responses that cannot be read ----------------------------------------------------------------


def test_a_chunk_that_is_damaged_is_named(case: dict[str, Any], tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path / "y.zarr", data=case["Y"], chunks=(N, 40))
    run(case, tmp_path, out=tmp_path / "whole.zarr", Y=array)
    chunk = tmp_path / "y.zarr" / "c" / "0" / "3"
    kept = chunk.read_bytes()
    chunk.write_bytes(kept[:100])
    message = (
        r"responses \[120:160\] of Zarr array '.*y\.zarr' cannot be read: .* What was finished stays; .*'verify'"
    )
    with pytest.raises(OSError, match=message):
        run(case, tmp_path, Y=array)
    chunk.write_bytes(kept)
    found = run(case, tmp_path, Y=array, resume="verify")
    xr.testing.assert_equal(found.load(), xr.open_zarr(tmp_path / "whole.zarr", chunks=None).load())


def test_a_file_that_is_cut_or_changed_during_the_run(
    case: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = result_store.ResultStore.write

    def at_block(number: int, action: Callable[[], None]) -> None:
        def write(self: Any, k: int, *arguments: Any) -> None:
            if k == number:
                action()
            original(self, k, *arguments)

        monkeypatch.setattr(result_store.ResultStore, "write", write)

    np.save(tmp_path / "y.npy", case["Y"])
    at_block(1, lambda: os.truncate(tmp_path / "y.npy", 2000))
    with pytest.raises(OSError, match=r"responses \[\d+:\d+\] of file '.*y\.npy' cannot be read: .* was cut short"):
        run(case, tmp_path)
    np.save(tmp_path / "y.npy", case["Y"])
    at_block(3, lambda: os.utime(tmp_path / "y.npy", (5, 5)))
    with pytest.raises(ValueError, match="was changed while it was read, so the results mix two states"):
        run(case, tmp_path, overwrite=True)
    assert not (tmp_path / "out.zarr").exists()
    np.save(tmp_path / "y.npy", case["Y"])
    at_block(4, lambda: os.remove(tmp_path / "y.npy"))
    with pytest.raises(OSError, match=r"file '.*y\.npy' is gone"):
        run(case, tmp_path, overwrite=True)


def test_a_zarr_store_that_vanishes_does_not_become_zeros(
    case: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = zarr.create_array(tmp_path / "y.zarr", data=case["Y"], chunks=(N, 40))
    original = result_store.ResultStore.write

    def write(self: Any, k: int, *arguments: Any) -> None:
        if k == 1:
            (tmp_path / "y.zarr" / "c" / "0" / "5").unlink(missing_ok=True)
        original(self, k, *arguments)

    monkeypatch.setattr(result_store.ResultStore, "write", write)
    with pytest.raises(ValueError, match="was changed while it was read"):
        run(case, tmp_path, Y=array)
    assert not (tmp_path / "out.zarr").exists()


BAD = {
    "rows": ({"Y": np.zeros((N - 1, 5))}, "Y has 59 rows, X has 60; they must have the same rows"),
    "transposed": ({"Y": np.zeros((5, N))}, "Y has 5 rows, X has 60; it looks transposed, try Y.T"),
    "text": ({"Y": np.full((N, 2), "a")}, "Y must be numeric, found dtype <U1"),
    "complex": ({"Y": np.zeros((N, 2), dtype=complex)}, "Y must be numeric, found dtype complex128"),
    "empty": ({"Y": np.zeros((N, 0))}, "there is nothing to fit"),
    "list": ({"Y": [[1.0]]}, "Y has 1 rows, X has 60"),
    "obs_dim": ({"obs_dim": "trial"}, "obs_dim is 'trial', but Y is no DataArray"),
    "dims": ({"dims": ("a", "b")}, "dims must be 1 different names"),
    "reserved": ({"dims": ("term",)}, "have 'term', which the results use; rename it"),
    "coords": ({"coords": {"response": [1, 2]}}, "coords do not match Y"),
    "share": ({"share": (2, 2)}, r"share must be \(i, k\)"),
    "share of one": ({"share": 5}, r"share must be \(i, k\)"),
    "part of a block": ({"block": 2.5}, "block must be a number of responses"),
    "slash": (
        {"coords": {"a/b": ("response", np.arange(M))}},
        "coordinate 'a/b', which stores cannot hold; rename it",
    ),
    "resume": ({"resume": "yes"}, "resume must be True, False or 'verify'"),
    "both": ({"resume": True, "overwrite": True}, "resume and overwrite are both given"),
    "block": ({"block": 0}, "block must be a number of responses"),
    "method": ({"method": "REMML"}, "method must be one of"),
    "level": ({"level": 95}, "level must lie between 0 and 1"),
    "X": ({"X": np.ones((N, 2))}, "rank"),
    "path": ({"Y": "nothing.npy"}, "'nothing.npy' does not exist"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input(case: dict[str, Any], tmp_path: Path, what: str) -> None:
    options, message = BAD[what]
    with pytest.raises(ValueError, match=message):
        run(case, tmp_path, **options)
    assert not (tmp_path / "out.zarr").exists() and not (tmp_path / "out.zarr.part").exists()


# -- several processes ----------------------------------------------------------------------------


def test_shares_make_the_same_results(case: dict[str, Any], tmp_path: Path) -> None:
    run(case, tmp_path, out=tmp_path / "whole.zarr")
    assert run(case, tmp_path, share=(1, 3)) is None
    with pytest.raises(ValueError, match="unfinished run with 2 finished blocks"):
        run(case, tmp_path, share=(1, 3))
    with pytest.raises(ValueError, match="cannot be resumed: method was REML, is ML"):
        run(case, tmp_path, share=(0, 3), method="ML")
    assert run(case, tmp_path, share=(0, 3)) is None
    found = run(case, tmp_path, share=(2, 3))
    assert content(tmp_path / "out.zarr") == content(tmp_path / "whole.zarr")
    same(found, xr.open_zarr(tmp_path / "whole.zarr", chunks=None))


def test_what_shares_left_is_finished_by_one(case: dict[str, Any], tmp_path: Path) -> None:
    run(case, tmp_path, out=tmp_path / "whole.zarr")
    assert run(case, tmp_path, share=(1, 3)) is None
    run(case, tmp_path, resume=True)
    assert content(tmp_path / "out.zarr") == content(tmp_path / "whole.zarr")


DISTRIBUTED = """
import sys
import jax
import numpy as np

if __name__ == "__main__":
    folder, port, index = sys.argv[1], sys.argv[2], int(sys.argv[3])
    jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=index)
    import jaxlmm

    X, groups = np.load(folder + "/X.npy"), np.load(folder + "/groups.npy")
    found = jaxlmm.fit(X, folder + "/y.npy", groups, out=folder + "/out.zarr", block=40)
    print(jax.process_count(), len(jax.devices()), len(jax.local_devices()), found is None)
    jax.distributed.shutdown()
"""


def test_two_processes_of_jax_distributed(case: dict[str, Any], tmp_path: Path) -> None:
    import socket

    run(case, tmp_path, out=tmp_path / "whole.zarr")
    np.save(tmp_path / "X.npy", case["X"])
    np.save(tmp_path / "groups.npy", case["groups"])
    (tmp_path / "child.py").write_text(DISTRIBUTED)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    children = [
        subprocess.Popen(
            [sys.executable, str(tmp_path / "child.py"), str(tmp_path), port, str(index)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for index in range(2)
    ]  # fmt: skip
    results = [child.communicate(timeout=300) for child in children]
    assert [child.returncode for child in children] == [0, 0], results
    words = [out.split() for out, _ in results]
    assert [w[:3] for w in words] == [["2", "2", "1"]] * 2
    assert "False" in {w[3] for w in words}  # the last one has the results
    xr.testing.assert_allclose(
        xr.open_zarr(tmp_path / "out.zarr", chunks=None),
        xr.open_zarr(tmp_path / "whole.zarr", chunks=None),
        rtol=1e-12,
    )
    assert not (tmp_path / "out.zarr.part").exists()
