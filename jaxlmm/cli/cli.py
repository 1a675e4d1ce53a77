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


# Kinds of pictures, what each shows and which options it takes beside those of all kinds.
KINDS = """\b
Kinds, and the options that each takes beside the common ones:

\b
Of all responses, also from a table:
  volcano      effects against p-values: --term --top --adjust --alpha
  forest       effects with intervals: --response... --term... --facet --level
  map          a map of two dimensions: --term... --value --by --positions
               --limit --adjust --alpha
  topomap      scalp maps, drawn by MNE: --term --positions --time... --value
               --limit --adjust --alpha
  pvalues      histogram of p-values: --term --bins
  icc          intraclass correlations, of no table: --bins

\b
Over time or another dimension, of which one is left (--at channel=Cz):
  course       one effect with its band, also from a table: --term --level
               --adjust --alpha
  lags         effects at few lags, also from a table: --term... --level
               --adjust --alpha
  erp          means by condition with bands: --variable... --at --level
               --adjust --alpha

\b
Of one response (--response, or --at; default: the first):
  means        marginal means, interactions: --variable... --by... --at
               --data --level
  groups       a line for each group, and their mean: --variable --by --group
               --lines --at --data --level
  caterpillar  random effects with intervals: --group --effect... --level
  residuals    residuals against fitted values
  qq           residuals, or by --group random effects, against normal
               quantiles: --group --effect --level

\b
clusters and null are of permutation tests, which no file holds; asked for
them, the command says what to write in Python.
"""


@main.command(epilog=KINDS, context_settings={"max_content_width": 100})
@click.argument("fit", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--kind",
    required=True,
    metavar="KIND",
    help="The picture; the list is below.",
    type=click.Choice(
        [
            "volcano",
            "forest",
            "map",
            "topomap",
            "pvalues",
            "icc",
            "course",
            "lags",
            "erp",
            "means",
            "groups",
            "caterpillar",
            "residuals",
            "qq",
            "clusters",
            "null",
        ]
    ),
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Picture: .png, .pdf, .svg, .jpg.")
@click.option(
    "--at",
    multiple=True,
    metavar="NAME=LABEL",
    help="Responses with this label of a dimension (the nearest, of numbers), as channel=Cz; or, of marginal "
    "means, a value of a variable. May be repeated.",
)
@click.option("--term", multiple=True, help="Fixed effect, by its name in the table. Default: the only one, or all.")
@click.option("--response", multiple=True, help="Name of a response.")
@click.option(
    "--variable",
    multiple=True,
    help="Variable of the formula: the first along the x axis, the next as colours; of erp all are curves.",
)
@click.option(
    "--by",
    multiple=True,
    help="What has a panel each: a variable's levels, of map a dimension; of groups a colour.",
)
@click.option("--group", help="Random term, such as subject. Default: the first.")
@click.option("--effect", multiple=True, help="Effect of a random term, such as '(Intercept)'.")
@click.option(
    "--lines", type=click.Choice(["fitted", "data"]), help="Lines of groups: of the model, or observed means."
)
@click.option("--data", is_flag=True, default=None, help="Draw the observations too.")
@click.option(
    "--value",
    help="What maps show. Default: statistic.",
    type=click.Choice(["statistic", "coef", "zscore", "se", "neglog10p", "pvalue", "pvalue_adjusted"]),
)
@click.option(
    "--time", multiple=True, type=float, help="Time of a scalp map; may be repeated. Default: five of them."
)
@click.option(
    "--positions",
    metavar="NAME|FILE",
    help="Where channels are: a montage that MNE knows, such as biosemi64, or a file (.fif, .elc, .sfp, .loc).",
)
@click.option(
    "--adjust",
    type=click.Choice([*ADJUSTMENTS, "none"], case_sensitive=False),
    help="How p-values are adjusted for what is marked as significant. Default: bh.",
)
@click.option("--alpha", type=click.FloatRange(0, 1, True, True), help="Its level. Default: 0.05.")
@click.option("--level", type=click.FloatRange(0, 1, True, True), help="Of intervals and bands. Default: 0.95.")
@click.option("--top", type=click.IntRange(min=0), help="Name so many responses, those of smallest p.")
@click.option("--bins", type=click.IntRange(min=1), help="Bars of a histogram.")
@click.option(
    "--facet/--one-scale", default=None, help="A panel with its own scale for each term, or one scale for all."
)
@click.option("--limit", type=float, help="Value at the ends of the colours of a map.")
@click.option("--xlim", nargs=2, type=float, metavar="LOW HIGH", help="Limits of the x axis.")
@click.option(
    "--ylim", nargs=2, type=float, metavar="LOW HIGH", help="Limits of the y axis; HIGH LOW turns it around."
)
@click.option("--units", help="Of the responses, such as µV, for labels.")
@click.option(
    "--width",
    default=85.0,
    show_default=True,
    type=click.FloatRange(20, 1000),
    metavar="MM",
    help="Of the picture; 85 is a column of most journals, 180 the page.",
)
@click.option("--height", type=click.FloatRange(20, 1000), metavar="MM", help="Default: by what is drawn.")
@click.option("--size", default=8.0, show_default=True, type=click.FloatRange(3, 40), metavar="PT", help="Of text.")
@click.option("--array", help="Responses of results that were written without them, as in 'jaxlmm fit'.")
@click.option(
    "--trust-formula",
    is_flag=True,
    help="Evaluate the formula of FIT whatever it calls; see 'jaxlmm fit'. Give this only for what you have read.",
)
@click.option("--overwrite", is_flag=True, help="Replace the picture if there is one.")
def plot(**options: Any) -> None:
    """Draw what 'jaxlmm fit' wrote.

    FIT is the table of effects (.csv or .parquet), the results in .zarr, or the fit itself, by --save or
    Fit.save(..., include_Y=True), of which every kind is drawn. Residuals, random effects and lines of groups
    need the responses: the fit by --save, or --array beside the results.
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
