"""The demonstration: real data, then ten thousand simulated electrodes; tables, times and one picture."""

from __future__ import annotations

import csv
import importlib.resources
import time
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from jaxlmm.doors.fit import fit
from jaxlmm.plots import plot_effects
from jaxlmm.results.results import Fit

__all__ = ["Electrodes", "load_sleepstudy", "run", "simulate_electrodes"]

N_SUBJECTS, N_TRIALS = 20, 30


@dataclass(frozen=True)
class Electrodes:
    """Simulated trials of a square grid of electrodes.

    Attributes
    ----------
    X : ndarray, (n_obs, 2)
        Intercept and condition (-0.5 or 0.5).
    Y : ndarray, (n_obs, side * side)
    subject : ndarray, (n_obs,)
    effect : ndarray, (side * side,)
        True effect of the condition: a disc in the middle.
    """

    X: np.ndarray
    Y: np.ndarray
    subject: np.ndarray
    effect: np.ndarray


def load_sleepstudy() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Days of sleep deprivation, reaction time (ms) and subject (Belenky et al. 2003), 180 rows."""
    with importlib.resources.files("jaxlmm").joinpath("data/sleepstudy.csv").open() as file:
        rows = list(csv.DictReader(file))
    days, reaction = (np.array([float(row[k]) for row in rows]) for k in ("Days", "Reaction"))
    return days, reaction, np.array([row["Subject"] for row in rows])


def simulate_electrodes(side: int, seed: int = 0) -> Electrodes:
    """20 subjects x 30 trials at side x side electrodes; subjects differ at every electrode."""
    rng = np.random.default_rng(seed)
    subject = np.repeat(np.arange(N_SUBJECTS), N_TRIALS)
    condition = np.tile([-0.5, 0.5], len(subject) // 2)
    axis = np.linspace(-1, 1, side)
    effect = 0.3 * (np.hypot(*np.meshgrid(axis, axis)) < 0.5).ravel()
    spread = rng.uniform(0, 1, side * side)
    Y = rng.standard_normal((len(subject), side * side))
    Y += spread * rng.standard_normal((N_SUBJECTS, side * side))[subject]
    Y += condition[:, None] * effect
    return Electrodes(np.column_stack([np.ones(len(subject)), condition]), Y, subject, effect)


def run(n_responses: int, picture: Path) -> None:
    """Fit, print tables and times, write the picture.

    Parameters
    ----------
    n_responses : int
        Electrodes to simulate; rounded down to a square number.
    picture : Path
        File to write, in any format that matplotlib knows by its ending.
    """
    days, reaction, subject = load_sleepstudy()
    X = np.column_stack([np.ones(len(days)), days])
    real = fit(X, reaction, subject, names=["Intercept", "Days"], response_names=["Reaction (ms)"])
    print("Reaction time after days without sleep, 18 subjects (Belenky et al. 2003)\n")
    print(real.summary(0))

    side = max(int(np.sqrt(n_responses)), 2)
    data = simulate_electrodes(side)
    print(f"\n{side * side:,} simulated electrodes: {len(data.X)} trials of {N_SUBJECTS} subjects")
    seconds = []
    for call in ("first", "second"):
        start = time.perf_counter()
        electrodes = fit(data.X, data.Y, data.subject, names=["Intercept", "Condition"])
        _ = electrodes.pvalue
        seconds.append(time.perf_counter() - start)
        note = " (compiles)" if call == "first" else ""
        each = seconds[-1] / (side * side) * 1e6
        print(f"  {call} call: {seconds[-1]:.3f} s, {each:.1f} microseconds per response{note}")
    print(f"  {electrodes}")
    significant = electrodes.pvalue[:, 1] < 0.001
    truth = data.effect > 0
    print(
        f"  condition at p < 0.001: {significant[truth].mean():.1%} of the {truth.sum():,} electrodes with an "
        f"effect, {significant[~truth].mean():.2%} of the {(~truth).sum():,} without"
    )
    _draw(real, electrodes, data, picture)
    print(f"\nPicture: {picture}")


def _draw(real: Fit, electrodes: Fit, data: Electrodes, picture: Path) -> None:
    side = int(np.sqrt(len(data.effect)))
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    ci = real.conf_int()[0, 1:]
    plot_effects(real.coef[0, 1:], ci[:, 0], ci[:, 1], ["Days"], ax=left)
    left.set(title="sleepstudy", xlabel="ms per day, 95 % interval")
    limit = np.max(np.abs(electrodes.statistic[:, 1]))
    for ax, values, name, end in (
        (middle, data.effect, "true effect (sd of noise)", np.max(data.effect)),
        (right, electrodes.statistic[:, 1], "t of condition", limit),
    ):
        image = ax.imshow(values.reshape(side, side), cmap="RdBu_r", vmin=-end, vmax=end)
        figure.colorbar(image, ax=ax, label=name)
        ax.set(xticks=[], yticks=[], title=f"{side * side:,} simulated electrodes")
    figure.savefig(picture, dpi=150)
    plt.close(figure)
