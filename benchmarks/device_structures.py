"""Are random structures fitted on a GPU as on the CPU, and how fast?

    python benchmarks/device_structures.py [--responses 32768] [--only TEXT]

For each design of structures.py: REML fits and Satterthwaite p-values on JAX's default device and on the CPU of the
same machine, seconds of a later call of each (compiled before), and the largest difference of the results, relative
to the response's largest value of its kind, between the first 2,000 responses that both call interior: below 1e-6
for coefficients, standard errors, variances and p-values, 1e-9 for log-likelihoods; and how many statuses differ
(a variance at the edge of 0 may be called singular by one). Writes results/device_structures.json; without a GPU
nothing is written.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import jax
import numpy as np
from common import best_time, save
from structures import designs, responses

import jaxlmm

SDS = [0.0, 0.2, 0.5, 1.0]
COMPARED = 2000
TOLERANCES = {"coef": 1e-6, "se": 1e-6, "sigma2": 1e-6, "pvalue": 1e-6, "varcorr": 1e-6, "loglik": 1e-9}


def values(fit: jaxlmm.Fit, name: str) -> np.ndarray:
    """What is compared, (m, any)."""
    if name == "varcorr":
        return np.concatenate([v.reshape(len(v), -1) for v in fit.varcorr.values()], axis=1)
    return np.asarray(getattr(fit, name)).reshape(fit.n_responses, -1)


def differences(found: jaxlmm.Fit, expected: jaxlmm.Fit) -> dict[str, float]:
    """The largest relative differences, and how many statuses differ."""
    both = (found.status == expected.status) & (found.status == jaxlmm.Status.OK)
    out: dict[str, float] = {"statuses differ": float(np.sum(found.status != expected.status))}
    for name in TOLERANCES:
        a, b = values(found, name)[both], values(expected, name)[both]
        size = 1.0 if name == "pvalue" else np.maximum(np.abs(b).max(axis=1, keepdims=True), 1e-290)
        out[name] = float(np.max(np.abs(a - b) / size))
    return out


def fitted(X: np.ndarray, Y: np.ndarray, terms: list[Any]) -> jaxlmm.Fit:
    fit = jaxlmm.fit(X, Y, random=terms)
    fit.pvalue  # noqa: B018
    return fit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--responses", type=int, default=32768)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    device, cpu = jax.local_devices()[0], jax.local_devices(backend="cpu")[0]
    rows = []
    for name, (X, terms) in designs().items():
        if options.only not in name:
            continue
        Y = responses(X, terms, options.responses, SDS)
        start = time.perf_counter()
        found = fitted(X, Y, terms)
        row: dict[str, Any] = {"structure": name, "first call s": time.perf_counter() - start}
        us = 1e6 / options.responses
        row["device, us per response"] = best_time(lambda: fitted(X, Y, terms), 2) * us  # noqa: B023
        row["device, fit alone"] = best_time(lambda: jaxlmm.fit(X, Y, random=terms), 1) * us  # noqa: B023
        few = Y[:, : max(COMPARED, options.responses // 8)]
        with jax.default_device(cpu):
            expected = fitted(X, few, terms)
            row["CPU, us per response"] = best_time(lambda: fitted(X, few, terms), 1) * 1e6 / few.shape[1]  # noqa: B023
        row |= differences(found.select(slice(0, few.shape[1])), expected)
        row["ok"] = all(row[key] <= limit for key, limit in TOLERANCES.items())
        rows.append(row)
        print(row, flush=True)
    if device.platform == "cpu":
        print("JAX finds no GPU here: nothing is written.")
    elif not options.only:
        save("device_structures", rows, device=device.device_kind, responses=options.responses)


if __name__ == "__main__":
    main()
