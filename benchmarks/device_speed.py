"""How fast is a fit on the CPU and on a GPU, with the responses in host memory or on the device?

    python benchmarks/device_speed.py [--check] [--large]

n = 1000, p = 4, 40 unequal groups; m = 10,000, 100,000 and 1,000,000 responses (on the CPU the last
with --large only), float32 and float64. For each: the first call (compiles what is new), the best
of later calls, with and without p-values, against one pass over the same Y where it lies (np.sum on
the host, jnp.sum on a device), and the largest difference of the results from those of numpy and the
CPU on the same data, which must be below 1e-8. What does not fit in memory is skipped with a message.

Stages, for the largest m that ran, one after the other (in a fit they overlap): reduce (Y to
statistics), transfer (statistics to the device), optimise, fetch (results to the host), store
(status, units); and copy, what sending all of Y to the device would take.

--check: only whether results agree, with responses that need care, NaN, infinity and constants; also
the code for GPUs run on the CPU. Each platform has a process of its own, for JAX has one default.
Writes results/device_speed.json (not with --check); without a GPU its "gpu" is null.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from common import best_time, save, simulate

import jaxlmm
from jaxlmm._types import float64_scope
from jaxlmm.engine.finish import empty_results
from jaxlmm.engine.stream import stream_blocks
from jaxlmm.families.intercept import stream_device
from jaxlmm.families.intercept.block import BlockFitter, block_arrays
from jaxlmm.families.intercept.reduce_device import reduce_block
from jaxlmm.families.registry import Model
from jaxlmm.runtime import device
from jaxlmm.runtime.device import DeviceMatrix, device_matrix, take_block

N, P, GROUPS = 1000, 4, 40
SIZES = (10_000, 100_000, 1_000_000)
TOLERANCE = 1e-8
FIELDS = ("coef", "se_gls", "lam", "sigma2", "loglik", "hessian")
# Responses whose results are compared with those of the CPU.
COMPARED = 20_000
FIND_GPU = "import jax; print(next((d.device_kind for d in jax.devices() if d.platform == 'gpu'), ''))"


def make_responses(base: np.ndarray, m: int, dtype: str) -> np.ndarray:
    """m different responses (n, m) from those of ``base``: sums of two of them."""
    Y = np.empty((len(base), m), dtype=dtype)
    for k, start in enumerate(range(0, m, base.shape[1])):
        c = min(base.shape[1], m - start)
        Y[:, start : start + c] = (base + 0.1 * k / (1 + 0.1 * k) * np.roll(base, k, axis=1))[:, :c]
    return Y


def difference(found: jaxlmm.Fit, expected: jaxlmm.Fit) -> float:
    """Largest difference relative to the response's largest value of its kind; must be small, statuses the same."""
    assert np.array_equal(found.status, expected.status), "statuses differ"
    largest = 0.0
    for name in FIELDS:
        a, b = (np.atleast_2d(getattr(f, name).T).T for f in (found, expected))
        assert np.array_equal(np.isnan(a), np.isnan(b)), name
        size = np.maximum(np.nanmax(np.abs(b), axis=1, keepdims=True, initial=1e-290), 1e-290)
        largest = max(largest, float(np.nanmax(np.abs(a - b) / size, initial=0.0)))
    assert largest < TOLERANCE, f"results differ by {largest}"
    return largest


def by_cpu(X: np.ndarray, Y: np.ndarray, groups: np.ndarray) -> jaxlmm.Fit:
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        return jaxlmm.fit(X, Y, groups)


def to_device(Y: np.ndarray) -> jax.Array:
    with float64_scope():
        return jax.device_put(Y, device.compute_devices()[0]).block_until_ready()


def free_bytes(on_device: bool) -> float:
    """Memory that is left, of the default device or of the host (Linux; elsewhere no limit is known)."""
    stats = jax.local_devices()[0].memory_stats() if on_device else None
    if stats and "bytes_limit" in stats:
        return float(stats["bytes_limit"] - stats["bytes_in_use"])
    if not Path("/proc/meminfo").exists():
        return float("inf")
    lines = Path("/proc/meminfo").read_text().splitlines()
    return float(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) * 1024


def check(platform: str) -> list[dict[str, Any]]:
    """Agreement with numpy and the CPU, on responses of every kind."""
    rng = np.random.default_rng(1)
    rows = []
    for G in (GROUPS, 200):
        X, Y, groups = simulate(N, P, G, 3000)
        Y[:, :300] += 1e6
        Y[:, 300:600] += 1e3 * rng.standard_normal((G, 300))[groups]  # variance ratios of a million
        Y[3, 600], Y[7:90, 601], Y[5, 602], Y[:, 603] = np.nan, np.nan, np.inf, 5.0
        Y[:, 604], Y[:, 605], Y[:, 606] = groups, X[:, 1], Y[:, 606] * 1e-150
        for dtype in ("float32", "float64"):
            with np.errstate(under="ignore"):
                y = Y.astype(dtype)
            expected, placed = by_cpu(X, y, groups), to_device(y)
            paths = {"host": y, "device": placed}
            for where, data in paths.items():
                found = jaxlmm.fit(X, data, groups)
                assert isinstance(found.Y, DeviceMatrix) == (platform == "gpu" and where == "device")
                rows.append({"platform": platform, "groups": G, "Y": f"{dtype}, {where}"})
                rows[-1]["difference"] = difference(found, expected)
            if platform == "cpu":
                kept, device.PLATFORMS = device.PLATFORMS, frozenset({"cpu"})
                found = jaxlmm.fit(X, placed, groups)
                device.PLATFORMS = kept
                assert isinstance(found.Y, DeviceMatrix)
                rows.append({"platform": platform, "groups": G, "Y": f"{dtype}, as on a GPU"})
                rows[-1]["difference"] = difference(found, expected)
    return rows


def speed(platform: str, large: bool) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    X, base, groups = simulate(N, P, GROUPS, 10_000)
    for dtype in ("float32", "float64"):
        ran: tuple[np.ndarray, dict[str, Any]] | None = None
        for m in SIZES if large or platform == "gpu" else SIZES[:2]:
            size = N * m * np.dtype(dtype).itemsize
            # On a CPU both copies are in one memory; results take some 200 bytes a response.
            if free_bytes(False) < (2 if platform == "cpu" else 1) * size + 1000 * m:
                print(f"{platform}: {m} responses of {dtype} do not fit in host memory: skipped")
                continue
            ran = None  # let go of the last one first
            Y = make_responses(base, m, dtype)
            expected = by_cpu(X, Y[:, :COMPARED], groups)
            places: dict[str, Any] = {"host": Y}
            if free_bytes(True) > 1.2 * size + 2e9 * (platform == "gpu"):
                places["device"] = to_device(Y)
            else:
                print(f"{platform}: {m} responses of {dtype} do not fit on the device: skipped")
            for where, data in places.items():
                rows.append(timed(platform, where, X, data, groups, m, dtype, expected))
            ran = (Y, places)
        if ran is not None:
            for where, data in ran[1].items():
                stayed = device_matrix(data)
                model = jaxlmm.prepare(X, groups)
                times = stages_host(model, np.asarray(data)) if stayed is None else stages_device(model, stayed)
                what = {"platform": platform, "m": ran[0].shape[1], "Y": f"{dtype}, {where}, stages"}
                rows.append(what | {f"{name} s": seconds for name, seconds in times.items()})
    return rows


def timed(
    platform: str, where: str, X: np.ndarray, Y: Any, groups: np.ndarray, m: int, dtype: str, expected: jaxlmm.Fit
) -> dict[str, Any]:
    """One row: times of the calls, the floor, and the largest difference."""
    with float64_scope():
        one_pass = jax.jit(jnp.sum)
        one_pass(Y).block_until_ready() if where == "device" else np.sum(Y)
        floor = best_time(lambda: one_pass(Y).block_until_ready() if where == "device" else np.sum(Y))
    start = time.perf_counter()
    found = jaxlmm.fit(X, Y, groups)
    first = time.perf_counter() - start
    largest = difference(found.select(slice(0, expected.n_responses)), expected)
    del found
    later = best_time(lambda: jaxlmm.fit(X, Y, groups), 3)
    return {
        "platform": platform,
        "m": m,
        "Y": f"{dtype}, {where}",
        "first call s": first,
        "later s": later,
        "with p-values s": best_time(lambda: jaxlmm.fit(X, Y, groups).pvalue, 2),
        "responses/s": m / later,
        "one pass s": floor,
        "passes": later / floor,
        "difference": largest,
    }


def stages_host(model: Model, Y: np.ndarray) -> dict[str, float]:
    """Seconds of each stage of a fit of a numpy array."""
    m, out = Y.shape[1], empty_results(Y.shape[1], P, 1)
    with float64_scope():
        fitter = BlockFitter.make(model.family.reducer, "REML", m)
        blocks: list[Any] = []
        start = time.perf_counter()
        stream_blocks(
            model.family.reducer, Y, fitter.width, lambda s: None, lambda cols, s, _: blocks.append((cols, s))
        )
        reduced = time.perf_counter()
        sent = [jax.device_put(block_arrays(stats, fitter.width), fitter.devices[0]) for _, stats in blocks]
        jax.block_until_ready(sent)
        transferred = time.perf_counter()
        raws = [fitter.start(stats) for _, stats in blocks]
        jax.block_until_ready(raws)
        optimised = time.perf_counter()
        fetched = [jax.tree.map(np.asarray, raw) for raw in raws]
        there = time.perf_counter()
        for (cols, stats), raw in zip(blocks, fetched, strict=True):
            fitter.store(out, cols, stats, raw)
        stored = time.perf_counter()
        copy = best_time(functools.partial(to_device, Y), 2) if fitter.devices[0].platform != "cpu" else 0.0
    # ``start`` sends the statistics once more.
    optimise = max(optimised - transferred - (transferred - reduced), 0.0)
    return {
        "reduce": reduced - start, "transfer": transferred - reduced, "optimise": optimise,
        "fetch": there - optimised, "store": stored - there, "copy": copy,
    }  # fmt: skip


def stages_device(model: Model, Y: DeviceMatrix) -> dict[str, float]:
    """Seconds of each stage of a fit of an array on one device."""
    (_, part), out = Y.parts[0], empty_results(Y.shape[1], P, 1)
    m, left = part.shape[1], np.ones(Y.shape[1], dtype=bool)
    with float64_scope():
        fitter = stream_device.DeviceFitter.make(model.family.reducer, "REML", part)
        starts = range(0, m, fitter.width)
        begin = time.perf_counter()
        reduced = []
        for first in starts:
            at = fitter.starts(first, m)
            chunks = [reduce_block(fitter.device_reducer, take_block(part, k, fitter.chunk)) for k in at]
            reduced.append(tuple(chunks + chunks[-1:] * (fitter.width // fitter.chunk - len(chunks))))
        jax.block_until_ready(reduced)
        after_reduce = time.perf_counter()
        packed = [stream_device.fit_packed(fitter.fitter.constants, chunks) for chunks in reduced]
        jax.block_until_ready(packed)
        optimised = time.perf_counter()
        for array in packed:
            np.asarray(array)
        fetched = time.perf_counter()
        for first, array in zip(starts, packed, strict=True):
            fitter.store(out, left, 0, m, first, array)
        stored = time.perf_counter()
    return {
        "reduce": after_reduce - begin, "transfer": 0.0, "optimise": optimised - after_reduce,
        "fetch": fetched - optimised, "store": stored - fetched,
    }  # fmt: skip


def in_process(platform: str, arguments: list[str]) -> dict[str, Any]:
    """What a process with this default platform found."""
    environment = os.environ | ({"JAX_PLATFORMS": "cpu"} if platform == "cpu" else {})
    command = [sys.executable, __file__, *arguments, "--platform", platform]
    lines = subprocess.run(
        command, env=environment, check=True, stdout=subprocess.PIPE, text=True
    ).stdout.splitlines()
    print("\n".join(lines[:-1]), end="\n" if lines[:-1] else "")
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--platform", choices=("cpu", "gpu"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.platform:
        rows = check(options.platform) if options.check else speed(options.platform, options.large)
        first = jax.local_devices()[0]
        assert first.platform == options.platform, f"JAX chose {first.platform}"
        about = {
            "kind": first.device_kind,
            "count": jax.local_device_count(),
            "client": first.client.platform_version,
        }
        print(json.dumps({"rows": rows, "device": about}))
        return
    arguments = [f"--{name}" for name in ("check", "large") if getattr(options, name)]
    kind = subprocess.run([sys.executable, "-c", FIND_GPU], stdout=subprocess.PIPE, text=True).stdout.strip()
    if not kind:
        print("JAX finds no GPU here: the CPU alone.")
    found = {platform: in_process(platform, arguments) for platform in (("cpu", "gpu") if kind else ("cpu",))}
    rows = [row for one in found.values() for row in one["rows"]]
    if options.check:
        for row in rows:
            print(*row.values())
        print(f"largest difference {max(row['difference'] for row in rows):.2g}, tolerance {TOLERANCE}")
        return
    save("device_speed", rows, cpu=found["cpu"]["device"], gpu=found["gpu"]["device"] if kind else None)


if __name__ == "__main__":
    main()
