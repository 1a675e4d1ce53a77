"""Which family fits a design: the only place that names them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxlmm.design.design import Design
from jaxlmm.families.base import Family
from jaxlmm.families.general.model import RandomTerms
from jaxlmm.families.intercept.family import Intercept

__all__ = ["Model", "make_family"]


@dataclass(frozen=True, eq=False)
class Model:
    """A design and what is computed from it once: refitting it to other responses is cheap.

    ``indexes`` are the labels of the rows that it came from, to match those of Y.
    """

    family: Family
    indexes: tuple[tuple[str, Any], ...] = ()

    @property
    def design(self) -> Design:
        """X, the random terms, weights and names."""
        return self.family.design


def make_family(design: Design) -> Family:
    """The family of a design, with all the work that depends on the design alone."""
    if not design.random or design.has_one_intercept:
        return Intercept.make(design)
    return RandomTerms.make(design)
