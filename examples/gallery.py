"""Every plot of jaxlmm.plots, from one simulated experiment: 32 channels x 100 times, one model each.

Usage: python gallery.py [folder]     saves one PNG a plot in the folder (default: gallery)
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from scipy.ndimage import gaussian_filter1d

import jaxlmm
from jaxlmm import plots

rng = np.random.default_rng(7)
folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("gallery")
folder.mkdir(parents=True, exist_ok=True)

# ---------------------------------------------------------------------------------------------
# 1. Data: 12 subjects x 40 trials; half of the trials are deviants, and loudness varies
# ---------------------------------------------------------------------------------------------
n_subjects, n_trials, n_channels, n_times = 12, 40, 32, 100
n_obs, shape = n_subjects * n_trials, (n_channels, n_times)
subject = np.repeat([f"S{k + 1:02d}" for k in range(n_subjects)], n_trials)
code = np.repeat(np.arange(n_subjects), n_trials)
times = np.linspace(-100, 400, n_times)  # ms
channels = [f"E{k + 1:02d}" for k in range(n_channels)]

deviant = np.concatenate([rng.permutation(np.repeat([-0.5, 0.5], n_trials // 2)) for _ in range(n_subjects)])
loudness = rng.normal(size=n_obs)
X = np.column_stack([np.ones(n_obs), deviant, loudness, deviant * loudness])
terms = ["Intercept", "deviant", "loudness", "deviant:loudness"]

# Deviants lower the voltage between 100 and 200 ms in channels 7 to 15, and raise it in 21 to 26.
window = np.sin(np.pi * np.clip((times - 100) / 100, 0, 1))
weight = np.zeros(n_channels)
weight[6:15] = -np.hanning(11)[1:-1]
weight[20:26] = 0.7 * np.hanning(8)[1:-1]
deviant_effect = 2.0 * np.outer(weight, window)  # µV
loudness_effect = 0.6 * np.outer(np.hanning(n_channels), np.exp(-(((times - 90) / 25) ** 2)))


def noise(n: int, sd: float) -> np.ndarray:
    """Noise (n, channels, times), smooth in time."""
    smooth = gaussian_filter1d(rng.normal(size=(n, *shape)), 2.0, axis=2)
    return sd * smooth / smooth.std()


# Subjects differ little before the stimulus and much after it.
between = noise(n_subjects, 1.0) * (0.1 + 1.4 / (1 + np.exp(-(times - 60) / 20)))
Y = deviant[:, None, None] * deviant_effect + loudness[:, None, None] * loudness_effect + between[code]
Y += noise(n_obs, 2.0)
Y[:, 18] = 0.0  # a dead channel

# ---------------------------------------------------------------------------------------------
# 2. One call fits all 3,200 models
# ---------------------------------------------------------------------------------------------
names = [f"{c} at {t:.0f} ms (µV)" for c in channels for t in times]
fit = jaxlmm.fit(X, Y.reshape(n_obs, -1), subject, names=terms, response_names=names, group_name="subject")
print(fit)


def at(channel: str, time: float) -> int:
    """Number of the response of one channel at the time nearest to ``time``."""
    return channels.index(channel) * n_times + int(np.argmin(np.abs(times - time)))


# ---------------------------------------------------------------------------------------------
# 3. The pictures
# ---------------------------------------------------------------------------------------------
k = terms.index("deviant")
significant = jaxlmm.adjust_pvalues(fit.pvalue[:, k]) <= 0.05
axes = {
    "stat_map": plots.stat_map(
        fit.statistic[:, k].reshape(shape),
        x=times,
        y=channels,
        mask=significant.reshape(shape),
        x_label="Time (ms)",
        y_label="Channel",
        value_label="t of deviant",
        mask_label="BH-adjusted p ≤ 0.05",
    ),
    "forest": plots.forest(fit, [at("E11", 0), at("E11", 100), at("E11", 150), at("E23", 150)]),
    "volcano": plots.volcano(fit, "deviant", label_top=8),
    "pvalue_histogram": plots.pvalue_histogram(fit, "deviant"),
    "icc_distribution": plots.icc_distribution(fit),
    "caterpillar": plots.caterpillar(fit, at("E11", 150)),
    "residual_plot": plots.residual_plot(fit, at("E11", 150)),
    "qq_resid": plots.qq_plot(fit, at("E11", 150)),
    "qq_ranef": plots.qq_plot(fit, at("E11", 150), what="ranef"),
}
for name, ax in axes.items():
    ax.figure.savefig(folder / f"{name}.png", dpi=120)
    plt.close(ax.figure)
print(f"{len(axes)} plots in {folder}")
