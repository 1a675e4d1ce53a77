"""``python -m jaxlmm``."""

from jaxlmm.cli import main

main(prog_name="jaxlmm")
