"""How responses are fitted, whatever the model and wherever they are."""

from __future__ import annotations

from dataclasses import dataclass

from jaxlmm.inference.hypotheses import check_df_method
from jaxlmm.runtime.arguments import check_option

__all__ = ["FitOptions"]


@dataclass(frozen=True)
class FitOptions:
    """Options of :func:`jaxlmm.fit` that say how a response is fitted and tested; case does not matter.

    Attributes
    ----------
    method : {"REML", "ML"}
    df : {"satterthwaite", "kenward-roger", "residual", "normal"}
    missing : {"drop", "refuse"}

    Raises
    ------
    ValueError
        Another value, or Kenward-Roger tests of a fit by ML.
    """

    method: str = "REML"
    df: str = "satterthwaite"
    missing: str = "drop"

    def __post_init__(self) -> None:
        object.__setattr__(self, "method", check_option("method", self.method, ("REML", "ML")))
        object.__setattr__(self, "missing", check_option("missing", self.missing, ("drop", "refuse")))
        object.__setattr__(self, "df", check_df_method(self.df, self.method))
