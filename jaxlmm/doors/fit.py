"""The doors: ``fit`` for matrices, ``lmm`` for formulas, ``prepare`` for a model that is fitted again and again."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from jaxlmm.design.dropped import Matrices, complete_matrices, taken
from jaxlmm.design.rows import RowLabels, check_rows
from jaxlmm.doors.annotated import annotated_responses, is_annotated
from jaxlmm.doors.long import long_model, refuse_beside_by
from jaxlmm.doors.model import Model, check_given, fit_responses
from jaxlmm.doors.responses import Responses, are_own, open_responses
from jaxlmm.outofcore.place import Place
from jaxlmm.results.fitting import make_model
from jaxlmm.results.options import FitOptions
from jaxlmm.runtime.arguments import check_option, shown
from jaxlmm.sources.slips import refuse_recordings
from jaxlmm.sources.sources import is_dataarray

__all__ = ["fit", "lmm", "prepare"]

# What may become of rows that miss a covariate.
NA = ("drop", "refuse")
# A formula with something left of "~".
LEFT = re.compile(r"\s*[^~\s][^~]*~")
# Names in a formula, quoted or not.
NAME = re.compile(r"`([^`]+)`|([^\W\d]\w*)")


def fit(
    X: Any,
    Y: Any,
    groups: Any = None,
    *,
    random: Sequence[Any] | None = None,
    method: str = "REML",
    df: str = "satterthwaite",
    weights: Any = None,
    missing: str = "drop",
    na: str = "refuse",
    names: Sequence[str] | None = None,
    response_names: Sequence[str] | None = None,
    group_name: str | None = None,
    terms: Any = None,
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
    """Fit a linear mixed model, ``y = X b + random effects + noise``, to every response in Y.

    Parameters
    ----------
    X : array-like, (n_obs, p)
        Fixed-effects matrix, used as given: no intercept is added. If Y is a DataArray it may be a
        function, which is given a data frame of Y's coordinates along the observations.
    Y : responses, (n_obs,), (n_obs, m) or (n_obs, dims...)
        NaN is a missing observation. Y may be

        - an array, a list, or a data frame (pandas, polars, Arrow); an array is not copied, and the
          result keeps a reference to it for ``ranef``, ``fitted`` and ``resid``;
        - an xarray DataArray: all its dimensions but ``obs_dim`` are responses;
        - a Zarr array, an h5py dataset, a memory map, or the path of one, ``"y.npy"``,
          ``"y.zarr/name"`` or ``"y.h5:/name"``: read in blocks, and may be larger than memory;
        - a dask array, or a DataArray that holds one: fitted chunk by chunk when dask computes it.
    groups : array-like, (n_obs,), optional
        Hashable labels. None: ordinary least squares, in the same result object. If Y is a DataArray
        it may be the name of a coordinate along the observations, or a function of them as for X.
    random : sequence of random terms, optional
        Any random terms, instead of ``groups``: slopes, nested and crossed factors. Each is made by
        :func:`jaxlmm.random_term`; labels alone are a random intercept.
    method : {"REML", "ML"}
    df : {"satterthwaite", "kenward-roger", "residual", "normal"}
        Degrees of freedom of tests and intervals: as R's lmerTest; as pbkrtest, with its adjusted
        covariance (REML only); n - p; infinity (z tests, as statsmodels).
    weights : array-like, (n_obs,), or of the shape of Y, optional
        Known relative precisions: the residual variance of row i is sigma2 / weights[i], as in
        lme4. (n_obs,) are shared by all responses: a name or a function as for ``groups`` too. With the
        shape of Y each response has its own, held in any way that Y may be (a DataArray or a data frame with
        Y's labels); a weight of 0 or NaN drops that row of that response.
    missing : {"drop", "refuse"}
        What NaN in a response means: these rows are dropped for that response alone, which is
        fitted exactly as if it had never had them (``n_used`` says how many are left); or the
        response is not fitted.
    na : {"refuse", "drop"}
        What NaN in X, a missing label of a group, or NaN in weights that all share means: an error; or the row is
        dropped, of all responses, and counted in ``Fit.dropped``. Infinite values are refused.
    names, response_names : sequence of str, optional
        Names of the columns of X and Y. Default: a data frame's own; else x0, x1, ... and y0, ...
    group_name : str, optional
        What a group is, for tables. Default: the name of ``groups`` if it has one, else "group".
    terms : mapping of str to sequence of str or int, optional
        Columns of X that make a term, for ``Fit.anova``: ``{"dose": ["dose_b", "dose_c"]}``.
    obs_dim : hashable or tuple of hashable, optional
        Dimension of the observations, of a DataArray. Default: that of the coordinates that
        ``groups`` or ``weights`` name, or the only one of length n_obs. Several, ``("subject", "condition")``: their
        combinations, the last varying fastest, with the coordinates along each.
    dims, coords : optional
        Names and labels of the axes of responses, if Y is no DataArray. Default: the names that a
        store has; of more than one axis ``dim_1``, ``dim_2``, ...
    out : path, optional
        Folder of the results on disk, such as ``"maps.zarr"``: Y is read, fitted and written block
        by block, and ``jaxlmm.load`` or ``xarray.open_zarr`` reads the results. Only then:

        - ``block``, responses read at a time; by default 128 MB of them;
        - ``resume``: go on with what an earlier call with the same arguments left. The results are
          the same, bit by bit, as if it had not been stopped. "verify": also if the files of Y have
          other times, so long as what was fitted is the same in them;
        - ``overwrite``: replace results at ``out``, once the new ones are complete, and unfinished
          ones at once;
        - ``share``, ``(i, k)``: this process does the i-th of k shares, others do theirs at the same
          time with the same ``out``. Default: as ``jax.distributed`` says, or all.
    level : float, optional
        Of the Wald intervals in results on disk, and of dask arrays. Default: 0.95.
    progress : bool, optional
        A bar with responses per second and time left, once two seconds have passed. Default: on a terminal and in a
        notebook. Of a dask array it is drawn whenever dask computes the result on this machine; a cluster has dask's
        bar, ``distributed.progress(result.persist())``.

    Returns
    -------
    Fit
        One row per response, with the dimensions and coordinates of the responses if they have some.
        A response that cannot be fitted has NaN in its row and a ``status`` that says why; it never
        stops the others.
    Dataset
        With ``out`` the results on disk, read when asked for; None while other processes still work
        on their shares. Without, of a dask array: the results to be, computed by dask; the design is
        checked at once, and of Y only shape, type and coordinates are read. ``compute``, ``persist``,
        ``to_zarr`` and the like fit each chunk once, for all variables that they need.

    Raises
    ------
    ValueError
        See the table of bad inputs in docs/bad-input.md.
    OSError
        Responses cannot be read (says which), or results cannot be written; with ``out`` what was
        finished stays, to be resumed.

    Notes
    -----
    Same estimates as R's ``lme4::lmer(y ~ X + (1 | groups))``; computed in float64 whatever
    the type of Y, without changing the global JAX settings.
    """
    options = FitOptions(method, df, missing)
    place = Place(out, resume, block, share, overwrite, level, progress)
    if isinstance(X, str):
        file = "~" not in X and "." in X
        todo = "if it is a file, read it first" if file else "a formula goes to jaxlmm.lmm"
        raise ValueError(f"X must be a matrix, found the text {shown(X)}; {todo}.")
    refuse_recordings("X", X)
    refuse_recordings("Y", Y)
    own, shared = (weights, None) if are_own(weights) else (None, weights)
    opened = open_responses(
        Y, obs_dim=obs_dim, dims=dims, coords=coords, names=response_names, n_obs=_rows_of(X, groups, shared),
        named=[name for name in (groups, weights) if isinstance(name, str)],
    )  # fmt: skip
    if opened.labelled:
        if isinstance(groups, str) and group_name is None:
            group_name = groups
        X, groups, shared = _by_coordinates(opened, X=X, groups=groups, weights=shared)
    model = _matrix_model(
        X, groups, na, random=random, names=names, group_name=group_name, weights=shared, terms=terms
    )
    return fit_responses(model, model.weighted(opened, own), options, place)


def lmm(
    formula: str,
    data: Any = None,
    Y: Any = None,
    *,
    responses: str | Sequence[str] | None = None,
    by: str | Sequence[str] | None = None,
    obs: str | Sequence[str] | None = None,
    layer: str | None = None,
    method: str = "REML",
    df: str = "satterthwaite",
    weights: Any = None,
    missing: str = "drop",
    na: str = "drop",
    response_names: Sequence[str] | None = None,
    context: Mapping[str, Any] | None = None,
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
    """Fit a mixed model, given by a formula, to one or many responses.

    Parameters
    ----------
    formula : str
        ``"y ~ age * Sex + (1 | Subject)"``, read as R reads it. Left of "~": one response, which may
        be computed, ``post - pre`` or ``log(y)``; several as ``cbind(y1, log(y2))``; nothing, and then
        no "~" either, if ``responses`` or ``Y`` is given. Random terms are lme4's: ``(1 | g)``,
        ``(1 + x | g)``, ``(x || g)``, ``(0 + x | g)``, ``(1 | a/b)``, ``(1 | a:b)``, any number of them;
        without one it is ordinary least squares. Columns of text,
        categories or bools are factors, in treatment coding unless ``C(x, contr.sum)`` or the like
        says otherwise (also those of ordered categories), with levels in the order of the
        categories, those of text sorted as R does in a language's locale ("control" before
        "Treatment"). Names that are not Python's are quoted with backticks or ``Q("a name")``.
        Within calls stands Python, with ``^`` as R's power and arithmetic in doubles.
    data : pandas DataFrame, or what makes one, or AnnData, optional
        The variables, one row per observation, in Y's order. An AnnData brings the responses too: ``obs`` is the
        table, X or ``layer`` the responses, and the names of its variables are their labels; a sparse X is made
        dense block by block. May be left out if Y is a DataArray:
        then the variables are Y's coordinates along the observations; those with pandas'
        categories, or with the attribute ``categories``, are factors with their levels in that order.
    Y : responses, (n_obs,), (n_obs, m) or (n_obs, dims...), optional
        Responses that are not columns of ``data``, of any kind that :func:`jaxlmm.fit` takes.
    responses : str or list of str, optional
        Columns of ``data``, by name or by pattern, ``"elec_*"``; of an AnnData its variables.
    by : str or list of str, optional
        Of a long table, a row per observation and response: the columns whose combinations are the responses,
        ``by=["electrode", "time"]``. They are the dimensions of the result, with the values found as labels: numbers
        sorted, categories in their order, text as it first appears. An observation that a combination has no row
        of is missing there. Without ``by`` all rows of such a table are observations of one response.
    obs : str or list of str, optional
        Of a long table: the columns that tell observations apart, ``obs=["subject", "trial"]``. Default: the
        covariates and groups of the formula, where these leave no doubt. That is so if no combination has two rows
        with the same of them, and one combination has all; or if all combinations hold the same rows in the same
        order. Anything else is an error that asks for ``obs``.
    layer : str, optional
        Of an AnnData, in the place of X.
    weights : str, array-like (n_obs,) or of the shape of Y, or function, optional
        As in :func:`jaxlmm.fit`, or the name of a column.
    context : mapping, optional
        Functions and values that the formula uses, beside numpy as ``np``, formulaic's own and some of R's.
    obs_dim : hashable or tuple of hashable, optional
        Dimension of the observations, of a DataArray. Default: the only one of the length of ``data``;
        without ``data``, that of the coordinates that the formula names. Several as in :func:`jaxlmm.fit`.
    na : {"drop", "refuse"}
        What a missing value of a covariate, of a column that the random terms group by, or of weights that all
        responses share means: the row is dropped, of all responses, as lme4 does, and counted in ``Fit.dropped``, the
        summary and the repr; or an error. Functions of whole columns, such as ``scale(x)``, are computed of the rows
        that are left.
    method, df, missing, response_names, dims, coords, out, resume, block, share, overwrite, level, progress
        As in :func:`jaxlmm.fit`.

    Returns
    -------
    Fit or Dataset
        As :func:`jaxlmm.fit`.

    Raises
    ------
    ValueError
        A formula that cannot be read or evaluated; unknown columns; missing values in covariates
        or groups, with ``na="refuse"`` (those in responses are as in :func:`jaxlmm.fit`); of a long table two rows
        of one observation and response, covariates that differ between the responses of one observation; an index of
        ``data``, or a column with the name of ``obs_dim``, that holds the labels of Y in another order; and what
        :func:`jaxlmm.fit` raises.
    """
    options = FitOptions(method, df, missing)
    na = check_option("na", na, NA)
    place = Place(out, resume, block, share, overwrite, level, progress)
    refuse_recordings("Y", Y)
    check_given(Y, responses)
    refuse_beside_by(by, Y=Y, obs=obs, obs_dim=obs_dim, dims=dims, coords=coords, response_names=response_names)
    if by is not None:
        if is_annotated(data):
            raise ValueError("by is of long tables; the variables of an AnnData are the responses, so leave it out.")
        long = long_model(formula, data, by, obs=obs, responses=responses, weights=weights, context=context, na=na)
        return fit_responses(*long, options, place)
    if is_annotated(data) and Y is None:
        if not isinstance(formula, str):
            raise ValueError(f"the formula must be text, such as 'age + (1 | subject)', found {shown(formula)}.")
        annotated = annotated_responses(data, layer, responses)
        return _annotated(formula, data.obs, annotated, weights, context, na, options, place)
    if layer is not None:
        raise ValueError(f"layer is {shown(layer)}, but data is no AnnData; give Y=, or responses=.")
    if is_dataarray(data):
        raise ValueError("data is a DataArray; if it holds the responses, and the variables as coordinates, give Y=.")
    frame, rows = _read(data)
    opened = None
    if Y is not None:
        if isinstance(formula, str) and LEFT.match(formula):
            raise ValueError(
                f"formula '{formula}' names a response, but the responses are Y; leave it out, and give "
                "what is computed of them as Y, such as Y=numpy.log(Y)."
            )
        opened = open_responses(
            Y, obs_dim=obs_dim, dims=dims, coords=coords, names=response_names,
            n_obs=None if frame is None else len(frame), of="data",
            named=() if frame is not None else [quoted or plain for quoted, plain in NAME.findall(str(formula))],
        )  # fmt: skip
    own, shared = (weights, None) if are_own(weights) else (None, weights)
    model = _formula_model(formula, frame, rows, opened, shared, context, na)
    columns = model.columns(responses, given=opened is not None)
    if opened is None:
        opened = Responses(columns, names=response_names)
    return fit_responses(model, model.weighted(opened, own), options, place)


def _annotated(
    formula: str,
    table: Any,
    opened: Responses,
    weights: Any,
    context: Any,
    na: str,
    options: FitOptions,
    place: Place,
) -> Any:
    """A fit of the responses of an AnnData."""
    own, shared = (weights, None) if are_own(weights) else (None, weights)
    if LEFT.match(formula):
        raise ValueError(
            f"formula '{formula}' names a response, but those of an AnnData are X or a layer; leave it out, with "
            "responses=[...] for some of its variables, or give data.obs for a column of it."
        )
    _refuse_variables(formula, table, opened)
    model = _formula_model(formula, *_read(table), opened, shared, context, na)
    return fit_responses(model, model.weighted(opened, own), options, place)


def _refuse_variables(formula: str, table: Any, opened: Responses) -> None:
    """ValueError for variables of an AnnData, such as genes, in the formula, which names columns of ``obs``."""
    coords = () if opened.labels is None else opened.labels.coords.values()
    variables = {str(name) for coord in coords for name in coord.values}
    for quoted, plain in NAME.findall(formula):
        name = quoted or plain
        if name in variables and name not in table.columns:
            raise ValueError(
                f"formula '{formula}' uses {name!r}, a variable of data and no column of data.obs; write "
                f"data.obs[{name!r}] = data.obs_vector({name!r}) before, or leave it out."
            )


def prepare(
    X: Any,
    groups: Any = None,
    *,
    random: Sequence[Any] | None = None,
    weights: Any = None,
    names: Sequence[str] | None = None,
    group_name: str | None = None,
    terms: Any = None,
    data: Any = None,
    context: Mapping[str, Any] | None = None,
    na: str | None = None,
) -> Model:
    """Do all the work that depends on X, groups and weights, or on a formula and its data, only.

    The model's :meth:`~Model.fit` fits it to one set of responses after another (permutations,
    simulations), without paying for this again.

    Parameters
    ----------
    X : array-like, (n_obs, p); or str
        Fixed-effects matrix, or a formula as :func:`jaxlmm.lmm` takes it.
    groups : array-like, (n_obs,), optional
        For a formula, in the place of ``data``, the table.
    data, context : optional
        Of a formula, as in :func:`jaxlmm.lmm`.
    random, weights, names, group_name, terms
        As in :func:`jaxlmm.fit`; a formula has names, groups and terms of its own.
    na : {"drop", "refuse"}, optional
        As in :func:`jaxlmm.lmm` and :func:`jaxlmm.fit`. Default: "drop" for a formula, "refuse" for a matrix. The
        responses that ``Model.fit`` takes have all rows, those dropped among them.

    Returns
    -------
    Model

    Raises
    ------
    ValueError
        As :func:`jaxlmm.fit` and :func:`jaxlmm.lmm`.
    """
    if not isinstance(X, str):
        for name, given in (("data", data), ("context", context)):
            if given is not None:
                raise ValueError(f"{name} is given, but X is no formula; leave it out.")
        return _matrix_model(
            X, groups, "refuse" if na is None else na, random=random, names=names, group_name=group_name,
            weights=weights, terms=terms,
        )  # fmt: skip
    for name, given in (("random", random), ("names", names), ("group_name", group_name), ("terms", terms)):
        if given is not None:
            raise ValueError(f"{name} is given, but X is a formula, which says so itself; leave it out.")
    if groups is not None and data is not None:
        raise ValueError("groups and data are both given, but X is a formula, which names its groups; leave one out.")
    na = "drop" if na is None else na
    na = check_option("na", na, NA)
    return _formula_model(X, *_read(groups if data is None else data), None, weights, context, na)


def _matrix_model(X: Any, groups: Any, na: str, *, random: Any, weights: Any, **named: Any) -> Model:
    """The model of matrices, without the rows that miss values if ``na`` says so."""
    na = check_option("na", na, NA)
    given = Matrices(X, groups, random, weights)
    if na == "drop":
        rows = check_rows(X=X, groups=groups, weights=weights)
        given = complete_matrices(given, named["names"])
    prepared = make_model(
        given.X, given.groups, random=given.random, weights=given.weights, dropped=given.dropped, **named
    )
    return Model(prepared, rows=prepared.indexes if given.dropped is None else rows)


def _read(data: Any) -> tuple[Any, RowLabels | None]:
    """A table as a data frame, and the labels of its rows; None, None for None."""
    from jaxlmm.formula.formula import read_table

    return (None, None) if data is None else read_table(data)


def _formula_model(
    formula: str,
    frame: Any,
    rows: RowLabels | None,
    opened: Responses | None,
    weights: Any,
    context: Mapping[str, Any] | None,
    na: str,
) -> Model:
    """The model of a formula, for a table whose rows have these labels, or for the coordinates of the responses."""
    from jaxlmm.formula.formula import incomplete_rows, prepare_formula

    along = _along(opened) if opened is not None and opened.labelled else None
    if frame is None and along is None:
        raise ValueError("data is missing: give the table of the variables, one row per observation.")
    if frame is not None and opened is not None:
        opened.check_length(len(frame), "data")
        if opened.labelled:
            from jaxlmm.labelled.responses import check_order

            check_order(frame, rows, opened.values, opened.obs_dim)
        else:
            check_rows(data=rows, Y=opened.rows)
    table = along if frame is None else frame
    w = _formula_weights(weights, table, rows, along, opened)
    dropped = incomplete_rows(formula, table, w, context) if na == "drop" else None
    made = prepare_formula(formula, table, context=context, dropped=dropped)
    prepared = make_model(
        made.X, random=made.random_terms, names=made.names, terms=made.structure, dropped=dropped,
        weights=w if dropped is None else taken(w, dropped.kept),
    )  # fmt: skip
    reserved = (weights,) if isinstance(weights, str) else ()
    return Model(prepared, made, table, () if rows is None else (("data", rows),), reserved)


def _formula_weights(weights: Any, table: Any, rows: Any, along: Any, opened: Responses | None) -> Any:
    """Weights that may be the name of a variable or of a coordinate, or a function of all coordinates."""
    from jaxlmm.formula.data import table_weights

    if along is not None and opened is not None:
        if callable(weights):
            return weights(along.copy())
        if isinstance(weights, str) and weights not in table.columns and weights in along.columns:
            table = along
        check_rows(weights=weights, Y=opened.rows)
    elif callable(weights):
        raise ValueError("weights is a function, but Y is no DataArray with coordinates for it; give numbers.")
    return table_weights(weights, table, rows)


def _along(opened: Responses) -> Any:
    """The coordinates along the observations, a column each."""
    from jaxlmm.labelled.data import coords_along

    return coords_along(opened.values, opened.obs_dim)


def _by_coordinates(opened: Responses, **given: Any) -> list[Any]:
    """X, groups and weights, of which names and functions are looked up in the coordinates along the observations."""
    from jaxlmm.labelled.responses import coordinate_values

    found, along = [], _along(opened)
    for what, value in given.items():
        check_rows(**{what: value, "Y": opened.rows})
        value = coordinate_values(value, what, along, opened.values, opened.obs_dim)
        n = _rows_of(value)
        if n is not None:
            opened.check_length(n, what)
        found.append(value)
    return found


def _rows_of(*values: Any) -> int | None:
    """The length of the first of these that has one, and is no name or function."""
    for value in values:
        if isinstance(value, str) or callable(value):
            continue
        shape = getattr(value, "shape", None)
        if shape or hasattr(value, "__len__"):
            return int(shape[0]) if shape else len(value)
    return None
