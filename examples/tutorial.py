"""naplib's tutorial of mixed effects models, run with jaxlmm; then the same for 1,000 responses.

Usage: python tutorial.py [folder]     saves effects.png in the folder (default: the current one)
"""

import sys
import time
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from jaxlmm.naplib import LinearMixedEffectsModel  # before: from naplib.stats import ...

rng = np.random.default_rng(1)
folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(".")

# ---------------------------------------------------------------------------------------------
# 1. Data: 5 subjects, 50 trials each, 3 features of every trial
# ---------------------------------------------------------------------------------------------
n_subjects, n_trials = 5, 50
subject = np.repeat(np.arange(n_subjects), n_trials)
X = rng.normal(size=(n_subjects * n_trials, 3))

# Subjects differ in loudness: each shifts feature 1 of all its trials by the same amount.
offset = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
X[:, 1] += offset[subject]

# Within a subject the response rises with feature 0, falls with feature 1, ignores feature 2.
# Subjects with a larger offset also respond more, for reasons that feature 1 has no part in.
true_effects = np.array([0.5, -0.4, 0.0])
y = X @ true_effects + 1.5 * offset[subject] + rng.normal(size=len(subject))

varnames = ["pitch", "loudness", "duration", "subject", "response"]

# ---------------------------------------------------------------------------------------------
# 2. One response: without and with the random effect
# ---------------------------------------------------------------------------------------------
print("WITHOUT a random effect: loudness seems to raise the response, because the subjects do.\n")
without = LinearMixedEffectsModel()
without.fit(X, y, varnames=["pitch", "loudness", "duration", "response"])
without.summary()

print("\nWITH a random effect of subject: loudness lowers it, as in the simulation.\n")
with_subject = LinearMixedEffectsModel()
with_subject.fit(X, y, random_effect=subject, varnames=varnames)
with_subject.summary()

print(f"\nR squared: {without.rsquared:.2f} without, {with_subject.rsquared:.2f} with the random effect")

figure = Figure(figsize=(10, 3), layout="constrained")
left, right = figure.subplots(1, 2, sharex=True, gridspec_kw={"wspace": 0.1})
without.plot_effects(ax=left)
with_subject.plot_effects(ax=right, print_ylabels=False)
left.set_title("No random effect")
right.set_title("Random effect of subject")
for ax in (left, right):
    ax.set_xlabel("Effect (95 % interval)")
figure.savefig(folder / "effects.png", dpi=150)
print(f"Saved {folder / 'effects.png'}")

# ---------------------------------------------------------------------------------------------
# 3. A thousand responses (electrodes, time points, voxels): put them in columns, call fit once
# ---------------------------------------------------------------------------------------------
n_responses = 1000
# Pitch has an effect on every other response only; each has subject offsets of its own.
pitch_effect = np.where(np.arange(n_responses) % 2 == 0, 0.5, 0.0)
baseline = rng.normal(size=(n_subjects, n_responses))
Y = np.outer(X[:, 0], pitch_effect) + baseline[subject] + rng.normal(size=(len(subject), n_responses))

start = time.perf_counter()
many = LinearMixedEffectsModel().fit(X, Y, random_effect=subject, varnames=varnames)
seconds = time.perf_counter() - start

results = many.get_model_params()  # arrays with one row per response; many.params is the pandas table
# With so many tests some are small by chance, so the threshold is divided by their number.
significant = results["pvalues"][:, 0] < 0.05 / n_responses
print(f"\n{n_responses} responses in one call: {seconds:.1f} s, compilation included")
print(f"Pitch is significant in {np.sum(significant[::2])} of the 500 responses that it drives")
print(f"and in {np.sum(significant[1::2])} of the 500 that it does not.")
print(f"Median estimates: {np.median(results['params'][::2, 0]):.2f} and {np.median(results['params'][1::2, 0]):.2f}")
