"""What the benchmarks share: data, timing, and the machine's description in every results file."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """Processor, cores, device and versions."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), name)
    return {
        "processor": name,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "device": str(jax.devices()[0].device_kind),
        "python": platform.python_version(),
        **{p: version(p) for p in ("jax", "jaxopt", "numpy", "scipy", "jaxlmm")},
    }


def best_time(run: Callable[[], Any], repeats: int = 5) -> float:
    """Shortest wall time of several runs, in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def added_memory(run: Callable[[], Any]) -> int:
    """Bytes by which a call raises this process's resident memory at its highest point (Linux)."""

    def status(key: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(key)).split()[1]) * 1024

    Path("/proc/self/clear_refs").write_text("5")  # forget the highest point so far
    before = status("VmRSS")
    run()
    return status("VmHWM") - before


def simulate(
    n: int, p: int, n_groups: int, m: int, *, unequal: bool = True, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """X with an intercept, Y with group intercepts of variance ratio 0 to 1, group codes."""
    rng = np.random.default_rng(seed)
    least = max(n // n_groups // 5, 1)
    shares = rng.dirichlet(np.full(n_groups, 3.0)) if unequal else np.full(n_groups, 1 / n_groups)
    sizes = least + rng.multinomial(n - least * n_groups, shares)
    groups = np.repeat(np.arange(n_groups), sizes)
    X = np.column_stack([np.ones(n), rng.standard_normal((n, p - 1))])
    Y = np.empty((n, m))
    for start in range(0, m, 4096):
        c = min(4096, m - start)
        Y[:, start : start + c] = rng.standard_normal((n, c))
        Y[:, start : start + c] += (rng.uniform(0, 1, c) * rng.standard_normal((n_groups, c)))[groups]
    return X, Y, groups


def save(name: str, rows: list[dict[str, Any]], **more: Any) -> None:
    """Print a table and write it, with the machine, to results/NAME.json."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    cells = [keys] + [[_cell(row.get(k, "")) for k in keys] for row in rows]
    widths = [max(len(row[j]) for row in cells) for j in range(len(keys))]
    for row in cells:
        first, *others = (f"{cell:>{w}}" for cell, w in zip(row, widths, strict=True))
        print("  ".join([f"{first.strip():<{widths[0]}}", *others]))
    for key, value in more.items():
        print(f"{key}: {value}")
    RESULTS.mkdir(exist_ok=True)
    content = {"machine": machine(), **more, "rows": rows}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
