"""The designs of the benchmarks in R."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from jaxlmm.design.random import RandomTerm

__all__ = ["has_lme4", "in_lme4"]

READ = r"""
suppressMessages(library(lme4))
folder <- commandArgs(TRUE)[1]
d <- read.csv(file.path(folder, "data.csv")); Y <- as.matrix(read.csv(file.path(folder, "Y.csv")))
formula <- as.formula(readLines(file.path(folder, "formula")))
for (v in grep("^g[0-9]", names(d))) d[[v]] <- factor(d[[v]])
"""
WRITE = """
write(format(results, digits = 16), file.path(folder, "results"), 1)
"""


def has_lme4() -> bool:
    """Whether R is here, with lme4."""
    return (
        bool(shutil.which("Rscript"))
        and not subprocess.run(["Rscript", "-e", "library(lme4)"], capture_output=True).returncode
    )


def in_lme4(code: str, X: np.ndarray, terms: list[RandomTerm], Y: np.ndarray) -> np.ndarray:
    """``results``, numbers (any,), of R's ``code``, which finds the ``formula`` of the model of y, the data ``d`` but
    for y, and ``Y`` (n_obs, m)."""
    columns = {f"x{j}": X[:, j] for j in range(X.shape[1])}
    bars = []
    for t, term in enumerate(terms):
        columns[f"g{t}"] = term.codes
        columns |= {f"z{t}{j}": term.Z[:, j] for j in range(term.size)}
        bars.append(f"(0 + {' + '.join(f'z{t}{j}' for j in range(term.size))} | g{t})")
    fixed = " + ".join(f"x{j}" for j in range(X.shape[1]))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, matrix, header in (
            ("data.csv", np.column_stack(list(columns.values())), ",".join(columns)),
            ("Y.csv", Y, ",".join(f"y{j}" for j in range(Y.shape[1]))),
        ):
            np.savetxt(folder / file, matrix, delimiter=",", header=header, comments="", fmt="%.17g")
        (folder / "formula").write_text(f"y ~ 0 + {fixed} + {' + '.join(bars)}\n")
        (folder / "run.R").write_text(READ + code + WRITE)
        subprocess.run(["Rscript", str(folder / "run.R"), name], check=True)
        return np.loadtxt(folder / "results", ndmin=1)
