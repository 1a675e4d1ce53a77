"""The command line: arguments only."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click
import matplotlib

__all__ = ["main"]

# Of p-values over responses.
ADJUSTMENTS = ("bh", "fdr", "fdr_bh", "by", "fdr_by", "holm", "hochberg", "hommel", "bonferroni")
# What shells call a command that was stopped by Ctrl-C.
INTERRUPTED = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="jaxlmm")
def main() -> None:
    """Linear mixed models for thousands of responses at once."""


@main.command()
@click.option(
    "--responses", default=10_000, show_default=True, type=click.IntRange(min=4), help="Electrodes to simulate."
)
@click.option(
    "--plot", default="jaxlmm-demo.png", show_default=True, help="Picture to write.",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
)  # fmt: skip
def demo(responses: int, plot: Path) -> None:
    """Fit bundled real data and a simulated electrode array; print tables and times, draw a picture."""
    matplotlib.use("Agg")
    if plot.suffix.lstrip(".").lower() not in ("png", "pdf", "svg", "jpg"):
        raise click.BadParameter(f"'{plot}' must end in .png, .pdf, .svg or .jpg", param_hint="--plot")
    if not plot.resolve().parent.is_dir():
        raise click.BadParameter(f"the folder '{plot.resolve().parent}' does not exist", param_hint="--plot")
    from jaxlmm.cli import demo as demonstration  # after the backend is chosen

    demonstration.run(responses, plot)


@main.command()
@click.argument("table", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--formula", required=True,
    help="As 'x * cond + (1 | subject)'; with 'y ~' before it for one response. What stands within calls is Python.",
)  # fmt: skip
@click.option(
    "--trust-formula", is_flag=True,
    help="Evaluate the formula whatever it calls. A formula is Python code: give this only for what you have read.",
)  # fmt: skip
@click.option("--responses", help="Columns of TABLE: a name, or a pattern such as 'elec_*'.")
@click.option(
    "--by", multiple=True, metavar="COLUMN",
    help="TABLE is long, a row per observation and response: a column that says which response. May be repeated.",
)  # fmt: skip
@click.option(
    "--obs", multiple=True, metavar="COLUMN",
    help="With --by: a column that tells observations apart, such as the trial. May be repeated.",
)  # fmt: skip
@click.option("--array", help="Responses (rows x ...) instead: a .npy file, a Zarr array, or 'file.h5:/dataset'.")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path),
    help="Results: .csv or .parquet, or .zarr to read and write block by block.",
)  # fmt: skip
@click.option("--method", default="REML", show_default=True, type=click.Choice(["REML", "ML"]))
@click.option(
    "--df", default="satterthwaite", show_default=True,
    type=click.Choice(["satterthwaite", "kenward-roger", "residual", "normal"]), help="Degrees of freedom of tests.",
)  # fmt: skip
@click.option("--weights", help="Column of TABLE with the weights of its rows.")
@click.option(
    "--na", multiple=True, metavar="TEXT",
    help="Text of TABLE that marks a missing value, such as NA; may be repeated. Empty cells always do.",
)  # fmt: skip
@click.option(
    "--incomplete", default="drop", show_default=True, type=click.Choice(["drop", "refuse"]),
    help="Rows that miss a covariate or a group.",
)  # fmt: skip
@click.option(
    "--sep",
    help="What separates the columns of TABLE, or tab, space (any white space), semicolon, pipe. Default: a comma; "
    "in .tsv a tab; in .txt and .dat white space.",
)
@click.option("--decimal", default=".", show_default=True, help="Decimal sign of TABLE's numbers.")
@click.option(
    "--adjust",
    type=click.Choice(ADJUSTMENTS, case_sensitive=False),
    help="Adjust p-values over responses.",
)
@click.option(
    "--what", default="tidy", show_default=True, type=click.Choice(["tidy", "glance"]),
    help="One row per effect, or one row per response.",
)  # fmt: skip
@click.option("--save", type=click.Path(path_type=Path), help="Write the fit itself too, for 'jaxlmm plot': .npz.")
@click.option("--overwrite", is_flag=True, help="Replace files of results if there are any.")
@click.option("--resume", is_flag=True, help="Go on with what a run to .zarr left when it was stopped.")
@click.option("--verify", is_flag=True, help="Resume although the files of --array have other times: compare them.")
@click.option(
    "--progress/--no-progress", "show", default=None,
    help="A bar, once two seconds have passed; default: on a terminal only.",
)  # fmt: skip
def fit(**options: Any) -> None:
    """Fit a formula to columns of TABLE, or to an array beside it, and write a table.

    TABLE is .csv, .tsv, .txt or .dat, also compressed (.gz, .bz2, .xz, .zip, .zst), or .parquet. Text has no types:
    columns of numbers are covariates and columns of text, dates too, are factors with sorted levels; write C(block)
    for a factor of numbers. Parquet keeps categories in their order.

    A formula is code: within its calls, as in I(x**2), stands Python. Unless --trust-formula is given it may compute
    with the columns, by arithmetic and the usual functions, and do nothing else.
    """
    resume = "verify" if options.pop("verify") else options.pop("resume")
    _run("fit_file", **{**options, "resume": resume})


@main.command()
@click.argument("fit", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--kind", required=True,
    type=click.Choice(["forest", "volcano", "map", "pvalues", "icc", "caterpillar", "residuals", "qq"]),
)  # fmt: skip
@click.option("--term", help="Fixed effect, for volcano, map and pvalues.")
@click.option(
    "--value", default="statistic", show_default=True, help="What a map shows.",
    type=click.Choice(["statistic", "coef", "se", "zscore", "neglog10p", "pvalue", "pvalue_adjusted"]),
)  # fmt: skip
@click.option("--at", multiple=True, metavar="NAME=LABEL", help="For a map: a label of a third dimension.")
@click.option(
    "--adjust", default="bh", show_default=True, type=click.Choice([*ADJUSTMENTS, "none"], case_sensitive=False),
    help="How p-values are adjusted for what volcano and map show as significant.",
)  # fmt: skip
@click.option("--alpha", default=0.05, show_default=True, type=click.FloatRange(0, 1, True, True), help="Its level.")
@click.option("--response", multiple=True, help="Name of a response; several for forest. Default: the first.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Picture: .png, .pdf, .svg.")
@click.option("--overwrite", is_flag=True, help="Replace the picture if there is one.")
def plot(**options: Any) -> None:
    """Draw what 'jaxlmm fit' wrote.

    FIT is the table of effects (.csv or .parquet: forest, volcano, map, pvalues), the results in .zarr, or the fit
    itself, by --save or Fit.save(..., include_Y=True), of which every kind is drawn.
    """
    _run("plot_file", **options)


def _run(name: str, **options: Any) -> None:
    """Call a function of ``run``; what it refuses becomes one line."""
    matplotlib.use("Agg")
    try:
        from jaxlmm.cli import drawing, run  # need pandas and formulaic

        report = getattr(drawing if name == "plot_file" else run, name)(**options)
    except (ValueError, OSError, ImportError) as error:
        raise click.ClickException(" ".join(str(error).split())) from None
    except KeyboardInterrupt as stop:
        click.echo(_stopped(stop, options["out"], sys.argv[1:]), err=True)
        raise SystemExit(INTERRUPTED) from None
    click.echo(report)


def _stopped(stop: KeyboardInterrupt, out: Path, words: list[str]) -> str:
    """How far a command came that was interrupted, and how to go on."""
    far = " ".join(note for note in getattr(stop, "__notes__", [])[:1] if "stopped after" in note)
    far = far.partition(" Nothing is kept")[0] or "Stopped."
    if not out.with_name(f"{out.name}.part").exists():
        again = "" if out.suffix == ".zarr" else "; a run with --out ending in .zarr goes on where it was stopped"
        return f"{far} Nothing was written{again}."
    again = shlex.join(["jaxlmm", *(word for word in words if word not in ("--overwrite", "--resume")), "--resume"])
    return f"{far} What is finished stays; go on with:\n{again}"
