"""A model that was prepared once and is fitted to responses, wherever these are and wherever the results go."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jaxlmm.design.design import Design
from jaxlmm.design.rows import RowLabels, check_rows
from jaxlmm.doors.responses import Responses, are_own, open_responses, with_weights
from jaxlmm.families.base import Family
from jaxlmm.families.registry import Model as PreparedModel
from jaxlmm.outofcore.place import LEVEL, Place
from jaxlmm.results.fitting import fit_model
from jaxlmm.results.options import FitOptions
from jaxlmm.results.results import Fit
from jaxlmm.runtime.arguments import name_list, shown
from jaxlmm.sources.slips import refuse_recordings
from jaxlmm.tabular.labels import Labels

if TYPE_CHECKING:
    from jaxlmm.formula.formula import FormulaDesign

__all__ = ["Model", "check_given", "fit_responses"]


@dataclass(frozen=True, eq=False)
class Model:
    """A model without its responses: what :func:`jaxlmm.prepare` returns.

    Attributes
    ----------
    prepared : families.registry.Model
        The design, and what is computed from it once.
    formula : FormulaDesign or None
        What X was made with.
    data : object or None
        The table that the formula was applied to.
    rows : tuple of (str, RowLabels)
        Labels of the rows of what the design was made of, to match those of Y.
    reserved : tuple of str
        Columns of the data that patterns of responses leave out, beside those of the formula.
    """

    prepared: PreparedModel = field(repr=False)
    formula: FormulaDesign | None = field(repr=False, default=None)
    data: Any = field(repr=False, default=None)
    rows: tuple[tuple[str, RowLabels], ...] = field(repr=False, default=())
    reserved: tuple[str, ...] = field(repr=False, default=())

    @property
    def design(self) -> Design:
        """X, the names of its columns, the groups and the weights."""
        return self.prepared.design

    @property
    def family(self) -> Family:
        """What fits the design: its random structure, with all that was computed of it."""
        return self.prepared.family

    def __repr__(self) -> str:
        design = self.design
        what = "" if self.formula is None else f"'{self.formula.formula}', "
        return f"Model({what}{design.n_obs} observations, {design.n_groups} groups, terms {list(design.names)})"

    def fit(
        self,
        Y: Any = None,
        *,
        responses: str | Sequence[str] | None = None,
        method: str = "REML",
        df: str = "satterthwaite",
        weights: Any = None,
        missing: str = "drop",
        response_names: Sequence[str] | None = None,
        obs_dim: Hashable = None,
        dims: Sequence[Hashable] | None = None,
        coords: Mapping[Hashable, Any] | None = None,
        out: Any = None,
        resume: bool | str = False,
        block: int | None = None,
        share: tuple[int, int] | None = None,
        overwrite: bool = False,
        level: float | None = None,
        progress: bool | None = None,
    ) -> Any:
        """Fit the model to responses; parameters, result and errors as in :func:`jaxlmm.fit` and :func:`jaxlmm.lmm`.

        Without ``Y`` and ``responses`` those that the formula names. ``weights`` (n_obs, m) are those of each
        response's own; weights that all share belong to the model.
        """
        options = FitOptions(method, df, missing)
        place = Place(out, resume, block, share, overwrite, level, progress)
        refuse_recordings("Y", Y)
        check_given(Y, responses)
        columns = self.columns(responses, given=Y is not None)
        if columns is not None:
            opened = self.weighted(Responses(columns, names=response_names), weights)
            return fit_responses(self, opened, options, place)
        opened = open_responses(
            Y, obs_dim=obs_dim, dims=dims, coords=coords, names=response_names, n_obs=self.design.n_given,
            of="X" if self.formula is None else "data",
        )  # fmt: skip
        return fit_responses(self, self.weighted(opened, weights), options, place)

    def weighted(self, opened: Responses, weights: Any) -> Responses:
        """Responses with weights of each one's own, if there are some.

        Raises
        ------
        ValueError
            Weights that all share, or a model that has such weights already; and see
            :func:`jaxlmm.doors.responses.with_weights`.
        """
        if weights is None:
            return opened
        if not are_own(weights):
            raise ValueError(
                f"weights of model.fit are of each response's own, (n_obs, m), found {shown(weights)}; weights that "
                "all share belong to the model: prepare(..., weights=...)."
            )
        if self.design.weights is not None:
            raise ValueError("the model has weights that all responses share, so weights= is left out of model.fit.")
        return with_weights(opened, weights)

    def columns(self, responses: str | Sequence[str] | None = None, *, given: bool = False) -> Any:
        """The responses that the formula names, or columns of its data by name or pattern, as a data frame.

        None if the responses are ``given`` otherwise.

        Raises
        ------
        ValueError
            The formula names none and none are given, or both; names of no column.
        """
        if self.formula is None:
            if responses is not None:
                raise ValueError("responses names columns of data, which a model without a formula has not; give Y.")
            if not given:
                raise ValueError("Y is missing: give the responses, (n_obs, m).")
            return None
        text, own = self.formula.formula, self.formula.response
        if own is not None and responses is not None:
            raise ValueError(f"formula '{text}' names the response and responses= is given too; leave one out.")
        if own is not None and given:
            raise ValueError(f"formula '{text}' names a response, but the responses are Y; leave it out.")
        if own is not None or given:
            return own
        if responses is None:
            raise ValueError(f"formula '{text}' names no response; write 'y ~ ...', or give responses= or Y=.")
        from jaxlmm.formula.formula import named_responses

        return named_responses(self.formula, self.data, responses, self.reserved)


def check_given(Y: Any, responses: Any) -> None:
    """ValueError if Y holds names, responses something else, or both are given."""
    if isinstance(responses, (set, frozenset)):
        name_list(responses, "responses")
    if responses is not None and not is_names(responses):
        raise ValueError(
            f"responses must be names or patterns of columns of data, found {type(responses).__name__}; responses "
            "that are no columns of data are Y=."
        )
    if Y is not None and responses is not None:
        raise ValueError("Y and responses are both given; leave one out.")
    if is_names(Y) and not (isinstance(Y, str) and (os.path.exists(Y) or set(Y) & set("./:\\"))):
        found = shown(Y)
        raise ValueError(f"Y is {found}, which is no file; columns of data are given by name, responses={found}.")


def is_names(value: Any) -> bool:
    """Whether this is a text, or texts in a list, a tuple, or an array or index of one axis."""
    if isinstance(value, str):
        return True
    listed = isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) == 1
    return listed and len(value) > 0 and all(isinstance(v, str) for v in value)


def fit_responses(model: Model, opened: Responses, options: FitOptions, place: Place) -> Any:
    """Fit responses where they are, and put the results where they are wanted.

    Returns
    -------
    Fit
        If they stay in memory.
    Dataset or None
        If they go to disk, see :func:`jaxlmm.outofcore.to_store.fit_to_disk`; or if dask computes them.
    """
    design, formula = model.design, model.formula
    known: dict[str, Any] = {"data": None, "X": None, "Y": opened.rows}
    check_rows(**known | dict(model.rows))
    dropped, known_length = design.dropped, opened.labelled or opened.labels is not None or formula is not None
    if known_length or place.out is not None or opened.weights is not None or dropped is not None:
        opened.check_length(design.n_given, "X" if formula is None else "data")
    if dropped is not None:
        opened = opened.take(dropped.kept)
    offset = None if formula is None else formula.offsets()
    if offset is not None:
        opened = opened.less(offset)
    if place.out is not None:
        from jaxlmm.outofcore.to_store import Task, fit_to_disk

        return fit_to_disk(Task(model.prepared, *opened.source(design.n_obs), formula), options, place)
    if opened.lazy:
        from jaxlmm.outofcore.cluster import lazy_fit

        values = opened.values.data if opened.labelled else opened.values
        own = opened.weights
        weights = None if own is None else own.values.data if own.labelled else own.values
        text, level = None if formula is None else formula.formula, LEVEL if place.level is None else place.level
        assert opened.labels is not None  # dask arrays are given some
        return lazy_fit(
            values, opened.axis, opened.labels, design, text, options, level, weights=weights, show=place.progress
        )
    place.refuse_level()
    return _in_memory(model, opened, options, place.progress)


def _in_memory(model: Model, opened: Responses, options: FitOptions, show: bool | None) -> Fit:
    """A fit, with the labels of its responses."""
    # X, responses and labels of groups are in the fit already.
    source = model.formula
    if source is not None:
        source = dataclasses.replace(source, X=model.design.X, response=None, labels=None)
    labels = opened.labels
    if labels is not None and opened.labelled and not labels.dims and opened.values.name is not None:
        labels = Labels.of_matrix(1, [str(opened.values.name)])
    weights = None if opened.weights is None else opened.weights.columns()
    return fit_model(
        model.prepared, opened.columns(), options, response_names=opened.names, labels=labels, source=source,
        weights=weights, show=show,
    )  # fmt: skip
