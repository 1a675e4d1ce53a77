"""How fast and in how much memory are responses fitted from disk to disk?

    python benchmarks/stream_speed.py [--folder .] [--gigabytes 20] [--largest 10000000]

1. By source: n = 1000, p = 4, 40 unequal groups, 100,000 responses (0.8 GB) as a .npy file, Zarr without
   and with compression, HDF5, dask on Zarr, xarray on Zarr, and a numpy array. Each in a fresh process:
   reading all blocks and nothing else, then ``fit`` with ``out``, both with the files out of the page cache.
2. By size: n = 200, float32, 10,000 to ``--largest`` responses of a .npy file.
3. Bounded memory: n = 1000, float64, a file of ``--gigabytes``.
4. A pool of statsmodels in dask's processes, and R's lme4 ``refit``, on a few responses of 1; each is
   skipped with a message where it is missing.

Needs about 1.3 times ``--gigabytes`` of disk in ``--folder``, for the time of the run. Writes
results/stream_speed.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from common import save, simulate

HERE = str(Path(__file__).parent)
# Responses are random in pieces of this many, which are repeated: making them is not what is measured.
PIECE = 16384

CHILD = """
import json, os, sys, time
sys.path.insert(0, {here!r})
import numpy as np
import jaxlmm
from stream_speed import forget, high_water, opened
from jaxlmm.sources.lazy import LazyMatrix, read_block
from jaxlmm.sources.sources import open_source

design = np.load({design!r})
X, groups = design["X"], design["groups"]
# Compile and warm up on a small store.
jaxlmm.fit(X, np.random.default_rng(0).normal(size=(len(X), 4096)), groups, out={out!r} + ".warm")
forget({path!r})
Y, obs_dim = opened({path!r}, {kind!r})
matrix = LazyMatrix.make(open_source(Y, obs_dim))
start = time.perf_counter()
for at in matrix.plan.blocks():
    read_block(matrix.source, at)
read = time.perf_counter() - start
forget({path!r})
Y, obs_dim = opened({path!r}, {kind!r})
before = high_water(reset=True)
start = time.perf_counter()
ds = jaxlmm.fit(X, Y, groups, out={out!r}, obs_dim=obs_dim)
took = time.perf_counter() - start
peak = high_water()
bad = int((ds["status"].values > 1).sum())
print(json.dumps(dict(read=read, fit=took, peak=peak, bad=bad, block=int(np.prod(matrix.plan.block)))))
"""


def forget(path: str) -> None:
    """Ask the system to drop the files under ``path`` from its page cache."""
    for file in [Path(path)] if os.path.isfile(path) else [p for p in Path(path).rglob("*") if p.is_file()]:
        fd = os.open(file, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def high_water(reset: bool = False) -> int:
    """Highest resident memory of this process in bytes, since the last reset (Linux)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


def opened(path: str, kind: str) -> tuple[Any, str | None]:
    """The responses at ``path`` as a source, and their dimension of observations if they are labelled."""
    import dask.array
    import h5py
    import xarray as xr
    import zarr

    if kind == "numpy":
        return np.load(path), None
    if kind == "npy":
        return np.load(path, mmap_mode="r"), None
    if kind.startswith("zarr"):
        return zarr.open_array(path, mode="r"), None
    if kind == "hdf5":
        return h5py.File(path, "r")["y"], None
    if kind == "dask":
        return dask.array.from_zarr(path), None
    array = dask.array.from_zarr(path)
    lazy = xr.DataArray(array, dims=("trial", "voxel"))
    return lazy, "trial"


def make_npy(path: Path, n: int, m: int, dtype: str, groups: np.ndarray) -> None:
    """A file (n, m) in C order, written row by row."""
    rng = np.random.default_rng(1)
    G = int(groups.max()) + 1
    piece = rng.standard_normal((n, PIECE)) + (rng.uniform(0, 1, PIECE) * rng.standard_normal((G, PIECE)))[groups]
    piece = piece.astype(dtype)
    with open(path, "wb") as file:
        np.lib.format.write_array_header_2_0(
            file, {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (n, m)}
        )
        for row in piece:
            np.tile(row, -(-m // PIECE))[:m].tofile(file)


def make_others(folder: Path, npy: Path, chunk: int) -> dict[str, Path]:
    """The same numbers in other stores."""
    import h5py
    import zarr

    Y = np.load(npy, mmap_mode="r")
    n, m = Y.shape
    paths = {"npy": npy, "numpy": npy}
    stores = {}
    for kind, compressors in (("zarr", None), ("zarr, compressed", "auto")):
        paths[kind] = folder / f"{kind}.zarr"
        stores[kind] = zarr.create_array(
            paths[kind], shape=(n, m), chunks=(n, chunk), dtype="f8", compressors=compressors
        )
    paths["dask"] = paths["xarray and dask"] = paths["zarr"]
    paths["hdf5"] = folder / "y.h5"
    with h5py.File(paths["hdf5"], "w") as file:
        stores["hdf5"] = file.create_dataset("y", shape=(n, m), chunks=(n, min(512, m)), dtype="f8")
        for start in range(0, m, chunk):
            part = np.array(Y[:, start : start + chunk])
            for store in stores.values():
                store[:, start : start + chunk] = part
    return paths


def measure(folder: Path, path: Path, kind: str, design: Path) -> dict[str, Any]:
    """One run in a fresh process."""
    out = folder / "results.zarr"
    code = CHILD.format(here=HERE, design=str(design), path=str(path), kind=kind, out=str(out))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    size = sum(p.stat().st_size for p in out.rglob("*") if p.is_file())
    shutil.rmtree(out)
    shutil.rmtree(f"{out}.warm")
    assert not found["bad"]
    return found | {"results": size}


def row(name: str, found: dict[str, Any], n: int, m: int, itemsize: int) -> dict[str, Any]:
    size, read, took = n * m * itemsize / 1e9, found["read"], found["fit"]
    return {
        "what": name,
        "responses": m,
        "Y GB": size,
        "responses/s": m / took,
        "us per response": took / m * 1e6,
        "GB/s": size / took,
        "raw read GB/s": size / read,
        "time / raw read": took / read,
        "peak GB": found["peak"] / 1e9,
        "results GB": found["results"] / 1e9,
        "block": found["block"],
    }


def other(name: str, count: int, took: float) -> dict[str, Any]:
    return {"what": name, "responses": count, "responses/s": count / took, "us per response": took / count * 1e6}


def statsmodels_pool(Y: np.ndarray, X: np.ndarray, groups: np.ndarray, count: int) -> dict[str, Any] | None:
    """Statsmodels on ``count`` responses in dask's pool of processes."""
    try:
        import dask
        import statsmodels  # noqa: F401
    except ImportError:
        print("statsmodels or dask is not installed; skipped")
        return None
    cores = len(os.sched_getaffinity(0))
    with warnings.catch_warnings(), dask.config.set(scheduler="processes", num_workers=cores):
        warnings.simplefilter("ignore")
        fit_all = [dask.delayed(_fit_many)(np.array(Y[:, k:count:cores]), X, groups) for k in range(cores)]
        dask.compute(*[dask.delayed(_fit_many)(np.array(Y[:, :1]), X, groups) for _ in range(cores)])
        start = time.perf_counter()
        dask.compute(*fit_all)
        took = time.perf_counter() - start
    return other(f"statsmodels, {cores} processes", count, took)


def _fit_many(Y: np.ndarray, X: np.ndarray, groups: np.ndarray) -> list[float]:
    from statsmodels.regression.mixed_linear_model import MixedLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [float(MixedLM(y, X, groups).fit().params[0]) for y in Y.T]


REFIT = """
suppressMessages(library(lme4))
X <- as.matrix(read.csv("X.csv")); Y <- as.matrix(read.csv("Y.csv")); g <- factor(scan("g.csv", quiet = TRUE))
first <- lmer(Y[, 1] ~ 0 + X + (1 | g), control = lmerControl(calc.derivs = FALSE))
took <- system.time(for (j in seq_len(ncol(Y))) refit(first, Y[, j]))[["elapsed"]]
cat(took)
"""


def r_refit(Y: np.ndarray, X: np.ndarray, groups: np.ndarray, count: int) -> dict[str, Any] | None:
    """lme4::refit on ``count`` responses, if R and lme4 are there."""
    if shutil.which("Rscript") is None:
        print("R is not installed; lme4::refit is skipped")
        return None
    with tempfile.TemporaryDirectory() as name:
        for what, values in (("X", X), ("Y", np.array(Y[:, :count]))):
            header = ",".join(f"v{j}" for j in range(values.shape[1]))
            np.savetxt(f"{name}/{what}.csv", values, delimiter=",", header=header, comments="")
        np.savetxt(f"{name}/g.csv", groups, fmt="%d")
        done = subprocess.run(["Rscript", "-e", REFIT], cwd=name, capture_output=True, text=True)
    if done.returncode:
        print("R's lme4 failed; skipped:", done.stderr.strip()[-200:])
        return None
    took = float(done.stdout.split()[-1])
    return {
        "what": "lme4::refit",
        "responses": count,
        "responses/s": count / took,
        "us per response": took / count * 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default=".", help="where the files are made and removed")
    parser.add_argument("--gigabytes", type=float, default=20.0)
    parser.add_argument("--largest", type=int, default=10_000_000)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        X, _, groups = simulate(1000, 4, 40, 1)
        design = folder / "design.npz"
        np.savez(design, X=X, groups=groups)
        m = 100_000
        make_npy(folder / "y.npy", 1000, m, "f8", groups)
        paths = make_others(folder, folder / "y.npy", PIECE // 2)
        for kind, path in paths.items():
            found = row(kind, measure(folder, path, kind, design), 1000, m, 8)
            if kind == "numpy":  # nothing is read
                del found["raw read GB/s"], found["time / raw read"]
            rows.append(found)
            print(found, flush=True)
        Y = np.load(folder / "y.npy", mmap_mode="r")
        rows += [r for r in (statsmodels_pool(Y, X, groups, 40), r_refit(Y, X, groups, 200)) if r]
        del Y
        for path in {*paths.values()}:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        X2, _, groups2 = simulate(200, 4, 40, 1)
        design2 = folder / "design2.npz"
        np.savez(design2, X=X2, groups=groups2)
        m = 10_000
        while m <= arguments.largest:
            make_npy(folder / "y.npy", 200, m, "f4", groups2)
            rows.append(row("npy, n = 200, float32", measure(folder, folder / "y.npy", "npy", design2), 200, m, 4))
            print(rows[-1], flush=True)
            (folder / "y.npy").unlink()
            m *= 10
        m = int(arguments.gigabytes * 1e9 / 8000)
        make_npy(folder / "y.npy", 1000, m, "f8", groups)
        rows.append(
            row("npy, larger than allowed memory", measure(folder, folder / "y.npy", "npy", design), 1000, m, 8)
        )
    save("stream_speed", rows)


if __name__ == "__main__":
    main()
