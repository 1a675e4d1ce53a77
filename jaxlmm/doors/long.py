"""The door of long tables, a row per observation and response: a model and its responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxlmm.design.dropped import taken
from jaxlmm.doors.model import Model
from jaxlmm.doors.responses import Responses
from jaxlmm.results.fitting import make_model
from jaxlmm.runtime.arguments import shown

__all__ = ["long_model", "refuse_beside_by"]


def long_model(
    formula: str,
    data: Any,
    by: str | Sequence[str],
    *,
    obs: str | Sequence[str] | None = None,
    responses: Any = None,
    weights: Any = None,
    context: Mapping[str, Any] | None = None,
    na: str = "drop",
) -> tuple[Model, Responses]:
    """The model and the responses of a long table; parameters and errors as in :func:`jaxlmm.lmm`."""
    from jaxlmm.formula.formula import incomplete_rows, prepare_formula
    from jaxlmm.formula.long import spread

    if data is None:
        raise ValueError("data is missing: give the long table, one row per observation and response.")
    if weights is not None and not isinstance(weights, str):
        raise ValueError(f"with by= weights is the name of a column of the table, found {shown(weights)}.")
    table = spread(formula, data, by, obs=obs, response=responses, weights=weights, context=context)
    shared = table.weights if table.weights is not None and table.weights.ndim == 1 else None
    dropped = incomplete_rows(formula, table.frame, shared, context) if na == "drop" else None
    made = prepare_formula(formula, table.frame, context=context, responses=False, dropped=dropped)
    prepared = make_model(
        made.X, random=made.random_terms, names=made.names, terms=made.structure, dropped=dropped,
        weights=shared if dropped is None else taken(shared, dropped.kept),
    )  # fmt: skip
    own = None if shared is not None or table.weights is None else Responses(table.weights, labels=table.labels)
    return Model(prepared, made, table.frame), Responses(table.values, labels=table.labels, weights=own)


def refuse_beside_by(by: Any, **others: Any) -> None:
    """ValueError for arguments that do not go with ``by``, or that go with it alone."""
    if by is None:
        if others["obs"] is not None:
            raise ValueError("obs is given without by; it tells the observations of a long table apart.")
        return
    for name, given in others.items():
        if name != "obs" and given is not None:
            raise ValueError(
                f"{name} is given beside by, which takes the responses and their labels from data; leave one out."
            )
