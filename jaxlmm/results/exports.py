"""Ways out of a fit: tables, labelled arrays, files."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from jaxlmm.results import tables
from jaxlmm.results.images import fit_evoked, fit_nifti
from jaxlmm.results.scores import with_scores
from jaxlmm.results.top import top
from jaxlmm.runtime.pictures import Pictured
from jaxlmm.tabular.dataset import fit_dataset

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Exports"]


class Exports(Pictured):
    """Methods of a fit that make something else of it; no state."""

    def tidy(
        self,
        *,
        effects: str | Iterable[str] = ("fixed", "ran_pars"),
        conf_int: bool = True,
        level: float = 0.95,
        adjust: str | None = None,
        responses: Any = None,
    ) -> pd.DataFrame:
        """A row per estimate, all responses below each other, as broom.mixed's ``tidy``. Needs pandas.

        Parameters
        ----------
        effects : one or more of {"fixed", "ran_pars", "ran_vals"}
            Fixed effects; standard deviations (``sd__(Intercept)`` of the groups and
            ``sd__Observation``); conditional modes of the groups, which need Y.
        conf_int : bool
            Whether to add ``conf.low`` and ``conf.high``.
        level : float
            Level of the intervals.
        adjust : str, optional
            Add ``p.adjusted``, by this method of :func:`jaxlmm.adjust_pvalues`. Each term is one family
            of tests over *all* responses of the fit, whichever of them are shown.
        responses : positions, slice, mask or names, optional
            The responses to show. Default: all.

        Returns
        -------
        DataFrame
            ``response`` (of labelled responses: a column for each dimension), ``effect``, ``group``,
            ``level`` (if there are modes), ``term``, ``estimate``, ``std.error``, ``statistic``,
            ``df``, ``p.value``, ``p.adjusted``, ``conf.low``, ``conf.high``.

        Notes
        -----
        Standard errors of standard deviations follow from those of the variances (``variance_se``) by
        the delta method; they have no Wald interval, as in broom.mixed: see ``Fit.profile``. Intervals
        of modes are normal, with the conditional standard deviation, as in broom.mixed.
        """
        return tables.tidy(self, effects=effects, conf_int=conf_int, level=level, adjust=adjust, responses=responses)

    def glance(self) -> pd.DataFrame:
        """A row per response: sizes, criteria, variance explained, and whether the fit can be used.

        As broom.mixed's ``glance``. Needs pandas.

        Returns
        -------
        DataFrame
            ``response`` (of labelled responses: a column for each dimension), ``nobs``, ``ngroups``,
            ``sigma``, ``logLik``, ``AIC``, ``BIC``, ``REMLcrit`` (``deviance`` after ML: -2 logLik),
            ``df.residual`` (observations less all parameters, as lme4's; less fixed effects without a
            random effect, as R's ``lm``), ``icc``, ``r2.marginal``, ``r2.conditional``, ``singular``,
            ``converged``, ``status`` (name of a :class:`jaxlmm.Status`), ``method``.
        """
        return tables.glance(self)

    def augment(self, response: int | str = 0, *, data: Any = None) -> pd.DataFrame:
        """A row per observation of one response: data, fitted values and residuals. Needs pandas.

        Parameters
        ----------
        response : int or str
            Position or name.
        data : DataFrame, or what makes one, optional
            What the model was fitted to, row by row: its columns and index are kept, and stand in for
            the columns of X and the groups. With all rows that were given, also those that were dropped since a
            covariate is missing: these have NaN, as after R's ``na.exclude``.

        Returns
        -------
        DataFrame
            The response, the columns of X, the groups; ``.fitted``, ``.resid``, ``.fixed`` (fitted
            without the random effect), ``.group`` (the random effect). The response or the groups, if
            called like a column of X, are called ``<name>_response`` or ``<name>_group``.
        """
        return tables.augment(self, response, data=data)

    def top(self, term: str | int, n: int | None = 20, *, adjust: str = "bh", level: float = 0.95) -> pd.DataFrame:
        """The n responses with the smallest p-values of one fixed effect, as limma's ``topTable``. Needs pandas.

        Parameters
        ----------
        term : str or int
            Name or position of the fixed effect.
        n : int or None
            How many rows; None: all responses that have a fit.
        adjust : str
            Of ``p.adjusted``, a method of :func:`jaxlmm.adjust_pvalues`, over all responses.
        level : float
            Of the intervals.

        Returns
        -------
        DataFrame
            ``response`` (of labelled responses: a column for each dimension), ``estimate``, ``std.error``,
            ``statistic``, ``df``, ``p.value``, ``neglog10.p`` (which sorts the rows, also where p is too small for
            floating point), ``p.adjusted``, ``conf.low``, ``conf.high``.

        Raises
        ------
        ValueError
            No such effect; a factor with several; n below 1; an unknown adjustment.
        """
        return top(self, term, n, adjust, level)

    def to_dataset(
        self,
        level: float = 0.95,
        *,
        df: str | None = None,
        ranef: bool = False,
        adjust: str | None = None,
        scores: bool = False,
    ) -> Any:
        """All results, with the dimensions and coordinates of the responses. Needs xarray.

        Parameters
        ----------
        level : float
            Of the Wald intervals ``conf_low`` to ``conf_high``.
        df : str, optional
            Another way to find degrees of freedom; see :func:`jaxlmm.fit`.
        ranef : bool
            Whether to add the conditional modes; this needs Y. Of one random intercept they are ``ranef``
            (group, dims...). Of other models each term, by its name in ``varcorr``, has a variable:
            ``ranef_subject`` (level_subject, effect_subject, dims...).
        adjust : str, optional
            Add ``pvalue_adjusted``, by this method of :func:`jaxlmm.adjust_pvalues`: each term over all responses.
        scores : bool
            Add ``zscore`` and ``neglog10p``, -log10 of the p-value, which hold for p-values of any size.

        Returns
        -------
        xarray Dataset
            ``coef``, ``se``, ``statistic``, ``df``, ``pvalue``, ``conf_low``, ``conf_high`` with
            dimensions (term, dims...), all others with (dims...). ``status`` holds numbers, and what
            they mean in its attributes. It can be written as netCDF or Zarr, but for a MultiIndex.
        """
        fit: Any = self
        fit = fit if df is None else fit.with_df(df)
        return with_scores(fit_dataset(fit, fit.labels, level, ranef), fit, adjust, scores)

    def to_evoked(self, info: Any, term: str | int, variable: str = "statistic", *, adjust: str = "bh") -> Any:
        """The map of one fixed effect over channels and times as evoked data, for MNE's plots. Needs mne.

        Parameters
        ----------
        info : mne.Info
            Of the epochs. Channels that the fit has not are left out.
        term : str or int
            Name or position of the fixed effect.
        variable : {"statistic", "coef", "se", "df", "pvalue", "zscore", "neglog10p", "pvalue_adjusted"}
        adjust : str
            Of "pvalue_adjusted".

        Returns
        -------
        mne.EvokedArray
            Channels in the order of ``info``; of responses with channels alone one time, 0. MNE's plots scale to
            microvolts and the like; of all but ``coef`` and ``se`` say ``scalings=1, units="t"``.

        Raises
        ------
        ValueError
            Dimensions other than "channel" and "time"; channels that ``info`` has not; times that are not spaced by
            1 / sfreq; no such effect or variable.
        """
        return fit_evoked(self, info, term, variable, adjust)

    def to_nifti(
        self, masker: Any, term: str | int, variable: str = "zscore", *, adjust: str = "bh", fill: float | None = None
    ) -> Any:
        """The map of one fixed effect as an image, by the masker of nilearn that made the responses.

        Parameters
        ----------
        masker : fitted masker of nilearn, or what has its ``inverse_transform``
        term : str or int
            Name or position of the fixed effect.
        variable : {"zscore", "statistic", "coef", "se", "df", "pvalue", "neglog10p", "pvalue_adjusted"}
        adjust : str
            Of "pvalue_adjusted".
        fill : float, optional
            Of voxels without a fit. Default: 0 for scores, statistics and coefficients, 1 for p-values, NaN for
            standard errors and degrees of freedom.

        Returns
        -------
        nibabel image, or what else the masker makes, such as nilearn's SurfaceImage
            Outside of the mask nilearn puts 0; images of p-values have 1 there.

        Raises
        ------
        ValueError
            No masker; one that is not fitted, or of another number of voxels; no such effect or variable.
        """
        return fit_nifti(self, masker, term, variable, adjust, fill)

    def save(self, path: Any, *, include_Y: bool = False, overwrite: bool = False) -> None:
        """Write a fit to a file, from which :func:`jaxlmm.load` makes the same fit.

        A fit by formula is stored with the columns of the data that its fixed part uses, and with the
        numbers, texts and arrays of its ``context``; not with functions, which :func:`jaxlmm.load` must be
        given again.

        Parameters
        ----------
        path : str or path-like
            ".npz", or any other suffix, is one file; ".zarr" a Zarr store that ``xarray.open_zarr`` opens,
            with the variables of ``Fit.to_dataset`` (needs zarr).
        include_Y : bool
            Whether to store the responses. Without them the file is small, and the loaded fit can do
            all but random effects, residuals, profiles and refits.
        overwrite : bool
            Whether a file at ``path`` is replaced. The new one takes its place when it is complete.

        Raises
        ------
        FileExistsError
        ValueError
            Not a fit; a fit loaded without Y, with ``include_Y``; labels of a type that cannot be stored.

        Warns
        -----
        UserWarning
            A column of the formula's data is of a type that cannot be stored, so the data is not.
        """
        from jaxlmm.storage.save import save  # files may need pandas, xarray and zarr

        save(self, path, include_Y=include_Y, overwrite=overwrite)
