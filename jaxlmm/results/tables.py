"""Results as long pandas tables with the column names of R's broom.mixed: tidy, glance, augment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxlmm._types import Status
from jaxlmm.inference.distributions import check_level, halfwidth
from jaxlmm.inference.multiplicity import ADJUSTMENTS, adjust_pvalues, adjustment
from jaxlmm.runtime.arguments import name_list, shown
from jaxlmm.runtime.extras import extra

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["EFFECTS", "augment", "glance", "tidy"]

EFFECTS = ("fixed", "ran_pars", "ran_vals")


def tidy(
    fit: Any,
    *,
    effects: str | Iterable[str] = ("fixed", "ran_pars"),
    conf_int: bool = True,
    level: float = 0.95,
    adjust: str | None = None,
    responses: Any = None,
) -> pd.DataFrame:
    """A row per estimate; see :meth:`jaxlmm.Fit.tidy`."""
    wanted = _check_effects(effects)
    check_level(level)
    if adjust is not None:
        adjust = adjustment(adjust, ADJUSTMENTS, "adjust")
    keys = fit.labels.keys
    where = np.arange(fit.n_responses)
    if responses is not None:
        where = fit.labels.positions(responses)
    part = fit if responses is None else fit.select(where)
    blocks = [make(part, level) for name, make in _BLOCKS.items() if name in wanted]
    columns = ["estimate", "std.error", "statistic", "df", "p.value"]
    if adjust is not None:
        columns.append("p.adjusted")
        adjusted = adjust_pvalues(fit.pvalue, adjust, axis=0)[where]
        for block in blocks:
            if "p.value" in block:
                block["p.adjusted"] = adjusted
    if conf_int:
        columns += ["conf.low", "conf.high"]
    frame = _pattern(blocks, with_level="ran_vals" in wanted)
    k = len(frame)
    frame = frame.take(np.tile(np.arange(k), len(where))).reset_index(drop=True)
    for name in columns:
        shapes = [np.shape(block["estimate"]) for block in blocks]
        pieces = [
            np.broadcast_to(block.get(name, np.nan), shape) for block, shape in zip(blocks, shapes, strict=True)
        ]
        frame[name] = np.concatenate(pieces, axis=1).ravel()
    return _with_keys(keys, frame, np.repeat(where, k))


def glance(fit: Any) -> pd.DataFrame:
    """A row per response; see :meth:`jaxlmm.Fit.glance`."""
    keys = fit.labels.keys
    pd, m = extra("pandas", "tables"), fit.n_responses
    taken = fit.n_params if fit.design.random else fit.design.n_fixef
    frame = pd.DataFrame(
        {
            "nobs": fit.n_used,
            "ngroups": fit.n_groups_used,
            "sigma": np.sqrt(fit.sigma2),
            "logLik": fit.loglik,
            "AIC": fit.aic,
            "BIC": fit.bic,
            "REMLcrit" if fit.method == "REML" else "deviance": -2 * fit.loglik,
            "df.residual": fit.n_used - taken,
            **({} if fit.design.random and not fit.design.has_one_intercept else {"icc": fit.icc}),
            "r2.marginal": fit.rsquared_marginal,
            "r2.conditional": fit.rsquared_conditional,
            "singular": fit.singular,
            "converged": fit.converged,
            "status": pd.Series([s.name for s in Status]).take(fit.status).array,
            "method": pd.Series([fit.method]).repeat(m).array,
        }
    )
    return _with_keys(keys, frame, np.arange(m))


def augment(fit: Any, response: int | str = 0, *, data: Any = None) -> pd.DataFrame:
    """A row per observation of one response; see :meth:`jaxlmm.Fit.augment`."""
    from jaxlmm.sources.table import as_frame  # needs pandas

    pd = extra("pandas", "tables")
    j = fit.labels.position(response)
    one, name = fit.select([j]), fit.response_names[j]
    random = one.design.random[0] if one.design.random else None
    data = None if data is None else as_frame(data)
    if data is None:
        index = None if one.design.dropped is None else one.design.dropped.kept
        frame = pd.DataFrame(np.array(one.design.X), columns=list(one.names), index=index)
        if random is not None:
            labels = pd.Series(list(random.levels)).take(random.codes)
            frame[_free(random.name, "group", frame)] = labels.array
    elif not hasattr(data, "columns"):
        raise ValueError(f"data must be the data frame that was fitted, found a {type(data).__name__}.")
    elif len(data) not in (one.n_obs, one.design.n_given):
        raise ValueError(f"data has {len(data)} rows, the fit has {one.n_obs} observations; give the rows fitted.")
    else:
        frame = data.copy()
    dropped = one.design.dropped
    everywhere = dropped is not None and len(frame) == dropped.n_given

    def at_rows(values: np.ndarray) -> np.ndarray:
        return dropped.spread(values[:, 0]) if everywhere else np.array(values[:, 0])

    if data is None or name not in frame.columns:
        frame.insert(0, _free(name, "response", frame), at_rows(one.Y))
    fixed, fitted = one.fitted(random=False), one.fitted()
    frame[".fitted"] = at_rows(fitted)
    frame[".resid"] = at_rows(one.Y - fitted)
    frame[".fixed"] = at_rows(fixed)
    if random is not None:
        frame[".group"] = at_rows(fitted - fixed)
    return frame


# -- the blocks of a tidy table: labels of k rows in lists, numbers of m responses in (m, k) arrays --


def _fixed(fit: Any, level: float) -> dict[str, Any]:
    low, high = np.moveaxis(fit.conf_int(level), -1, 0)
    return {
        **_labels("fixed", [None] * len(fit.names), fit.names),
        "estimate": fit.coef,
        "std.error": fit.se,
        "statistic": fit.statistic,
        "df": fit.df,
        "p.value": fit.pvalue,
        "conf.low": low,
        "conf.high": high,
    }


def _ran_pars(fit: Any, level: float) -> dict[str, Any]:
    found, sigma = fit.random_parameters, np.sqrt(fit.sigma2)
    error = fit.variance_se()["sigma2"] / (2 * sigma)
    return {
        **_labels("ran_pars", [*found.groups, "Residual"], [*found.terms, "sd__Observation"]),
        "estimate": np.column_stack([found.values, sigma]),
        "std.error": np.column_stack([found.se, error]),
    }


def _ran_vals(fit: Any, level: float) -> dict[str, Any]:
    groups: list[str] = []
    terms: list[str] = []
    levels: list[Any] = []
    m = fit.n_responses
    modes, sd = [np.zeros((m, 0))], [np.zeros((m, 0))]
    for part in fit.ranef().values():
        # One effect after another, as broom.mixed.
        for j, name in enumerate(part.columns):
            groups += [part.name] * len(part.levels)
            terms += [name] * len(part.levels)
            levels += part.levels
            modes.append(part.modes[:, :, j])
            sd.append(part.sd[:, :, j])
    return _ran_vals_block(groups, terms, levels, np.concatenate(modes, 1), np.concatenate(sd, 1), level)


def _ran_vals_block(
    groups: list[str], terms: list[str], levels: list[Any], modes: np.ndarray, sd: np.ndarray, level: float
) -> dict[str, Any]:
    half = halfwidth(level, np.array([np.inf])) * sd
    return {
        **_labels("ran_vals", groups, terms, levels),
        "estimate": modes,
        "std.error": sd,
        "conf.low": modes - half,
        "conf.high": modes + half,
    }


_BLOCKS = {"fixed": _fixed, "ran_pars": _ran_pars, "ran_vals": _ran_vals}


def _labels(effect: str, groups: Sequence[Any], terms: Sequence[str], levels: Any = None) -> dict[str, list[Any]]:
    k = len(terms)
    levels = [None] * k if levels is None else levels
    return {"effect": [effect] * k, "group": list(groups), "term": list(terms), "level": list(levels)}


def _pattern(blocks: list[dict[str, Any]], with_level: bool) -> pd.DataFrame:
    """The labels of one response's rows."""
    pd = extra("pandas", "tables")
    rows = {name: [v for block in blocks for v in block[name]] for name in ("effect", "group", "level", "term")}
    # The last entry makes columns of text even of those that are empty or all missing.
    columns = {name: pd.Series([*rows[name], "text"]).iloc[:-1] for name in ("effect", "group", "term")}
    if with_level:
        alone = all(label is not None for label in rows["level"])
        # Beside missing ones integers would become floats.
        columns["level"] = pd.Series(rows["level"], dtype=None if alone and rows["level"] else object)
    return pd.DataFrame({name: columns[name] for name in rows if name in columns})


# -- inner ----------------------------------------------------------------------------------------


def _with_keys(keys: Mapping[str, Any], frame: pd.DataFrame, rows: np.ndarray) -> pd.DataFrame:
    pd = extra("pandas", "tables")
    twice = [name for name in keys if name in frame.columns]
    if twice:
        raise ValueError(
            f"the dimension {twice[0]!r} is called like a column of the table; rename it in Y, or in the data."
        )
    for at, (name, labels) in enumerate(keys.items()):
        frame.insert(at, name, pd.Series(labels).take(rows).array)
    return frame


def _check_effects(effects: str | Iterable[str]) -> list[str]:
    wanted = list(name_list(effects, "effects"))
    unknown = [v for v in wanted if v not in EFFECTS]
    if unknown or not wanted:
        raise ValueError(f"effects must be some of {', '.join(map(repr, EFFECTS))}, found {shown(effects)}.")
    return wanted


def _free(name: str, what: str, frame: pd.DataFrame) -> str:
    return f"{name}_{what}" if name in frame.columns else name
