"""The command line: arguments only."""

from __future__ import annotations

from pathlib import Path

import click
import matplotlib

__all__ = ["main"]


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
    from jaxlmm import demo as demonstration  # after the backend is chosen

    demonstration.run(responses, plot)
