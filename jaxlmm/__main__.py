"""``python -m jaxlmm``."""

from jaxlmm.cli.cli import main

main(prog_name="jaxlmm")
