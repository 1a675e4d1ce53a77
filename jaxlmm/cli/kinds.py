"""The kinds of pictures that the command line's ``plot`` draws, and the options that each of them takes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["IN_PYTHON", "KINDS", "Kind"]


@dataclass(frozen=True)
class Kind:
    """A kind of picture.

    Attributes
    ----------
    picture : str
        The function of :mod:`jaxlmm.plots`.
    takes : mapping of str to str
        Options, by their names without dashes, and the arguments of the function that they are.
    several : tuple of str
        Those of the options that may be given more than once.
    tables : bool
        Whether a table of effects is enough, such as ``jaxlmm fit`` writes.
    responses : bool
        Whether the responses that were fitted are needed.
    dims : tuple of int
        How many dimensions the responses may have; empty where that does not matter.
    """

    picture: str
    takes: Mapping[str, str]
    several: tuple[str, ...] = ()
    tables: bool = False
    responses: bool = False
    dims: tuple[int, ...] = ()

    def in_options(self, message: str) -> str:
        """What the function says of its arguments, in the words of the command line."""
        for option, argument in self.takes.items():
            message = re.sub(rf"\b{argument}=(\[?\.\.\.\]?)?", f"--{option} ", message)
            message = re.sub(rf"^{argument} (?=names|is|must)", f"--{option} ", message)
        message = message.replace("trust_formula=True to load", "--trust-formula")
        return re.sub(r"(--[a-z]+) +(?=[,;:.)]|$)", r"\1", message)


MARKS = {"adjust": "adjust", "alpha": "alpha"}
ONE_RESPONSE = {"response": "response", "level": "level"}
KINDS = {
    "volcano": Kind("volcano", {"term": "term", "top": "label_top"} | MARKS, tables=True),
    "forest": Kind(
        "forest", {"response": "responses", "term": "terms", "facet": "facet", "level": "level"},
        several=("response", "term"), tables=True,
    ),
    "map": Kind(
        "stat_maps",
        {
            "term": "terms", "by": "panels", "value": "variable", "positions": "order", "limit": "limit",
            "adjust": "mask", "alpha": "alpha",
        },
        several=("term",), tables=True, dims=(2, 3),
    ),
    "topomap": Kind(
        "topomap",
        {"positions": "info", "term": "term", "time": "times", "value": "variable", "limit": "limit"} | MARKS,
        several=("time",), tables=True, dims=(1, 2),
    ),
    "pvalues": Kind("pvalue_histogram", {"term": "term", "bins": "bins"}, tables=True),
    "icc": Kind("icc_distribution", {"bins": "bins"}),
    "course": Kind(
        "time_course", {"term": "term", "level": "level", "adjust": "test", "alpha": "alpha"}, tables=True, dims=(1,)
    ),
    "lags": Kind(
        "effect_by_lag", {"term": "terms", "level": "level"} | MARKS, several=("term",), tables=True, dims=(1,)
    ),
    "erp": Kind(
        "erp", {"variable": "specs", "at": "at", "level": "level", "adjust": "test", "alpha": "alpha"},
        several=("variable",), dims=(1,),
    ),
    "means": Kind(
        "marginal_means", ONE_RESPONSE | {"variable": "specs", "by": "by", "at": "at", "data": "data"},
        several=("variable", "by"),
    ),
    "groups": Kind(
        "group_lines",
        ONE_RESPONSE | {"variable": "x", "by": "by", "at": "at", "group": "group", "lines": "lines", "data": "data"},
        responses=True,
    ),
    "caterpillar": Kind(
        "caterpillar", ONE_RESPONSE | {"group": "group", "effect": "effects"}, several=("effect",), responses=True
    ),
    "residuals": Kind("residual_plot", {"response": "response"}, responses=True),
    "qq": Kind("qq_plot", ONE_RESPONSE | {"group": "group", "effect": "effect"}, responses=True),
}  # fmt: skip
# Pictures of results that no file holds, and the call that draws them.
IN_PYTHON = {
    "clusters": "jaxlmm.permutation_test(jaxlmm.load('{fit}'), '{term}', statistic='cluster').plot.cluster_map()",
    "null": "jaxlmm.permutation_test(jaxlmm.load('{fit}'), '{term}').plot.null_distribution()",
}
