"""Forecast verification: scores, baselines and their uncertainty, independent of the models.

`fcst` are probabilities in 0..1, `obs` the outcomes as 1.0 (rain day) or 0.0 (dry day), both of shape (n,). Terms and
formulas follow Wilks, Statistical Methods in the Atmospheric Sciences, 4th ed. (2019), chapter 9.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

BINS = 10
SMOOTHING = 20.0
# Consecutive rows of a station that form a block if rows have no dates: about a month, if rows are days.
BOOTSTRAP_BLOCK_ROWS = 30
SEASONS = ("DJF", "MAM", "JJA", "SON")


def brier_score(fcst: Array, obs: Array) -> float:
    """Return the mean squared error of the probability, 0 best (Brier 1950)."""
    return float(np.mean((fcst - obs) ** 2))


def brier_skill_score(fcst: Array, obs: Array, reference: Array) -> float:
    """Return 1 - BS / BS of a reference forecast: 1 perfect, 0 like the reference; NaN if the reference is perfect."""
    of_reference = brier_score(reference, obs)
    return 1 - brier_score(fcst, obs) / of_reference if of_reference > 0 else float("nan")


def log_loss(fcst: Array, obs: Array) -> float:
    """Return the mean of -ln of the probability of the outcome, in nats; probabilities below 1e-15 count as 1e-15."""
    of_outcome = np.clip(np.where(obs == 1, fcst, 1 - fcst), 1e-15, 1.0)
    return float(-np.mean(np.log(of_outcome)))


def roc_auc(fcst: Array, obs: Array) -> float:
    """Return the area under the ROC curve; NaN if one outcome is missing.

    It is the chance that a rain day has a higher probability than a dry day, ties counting half (Mann-Whitney).
    """
    wet = float(np.sum(obs))
    dry = len(obs) - wet
    if not wet or not dry:
        return float("nan")
    _, inverse, count = np.unique(fcst, return_inverse=True, return_counts=True)
    rank = np.cumsum(count) - (count - 1) / 2
    return float((np.sum(rank[inverse] * obs) - wet * (wet + 1) / 2) / (wet * dry))


def roc_curve(fcst: Array, obs: Array) -> tuple[Array, Array]:
    """Return the false alarm rate and the probability of detection at each threshold, from (0, 0) to (1, 1)."""
    order = np.argsort(-fcst, kind="stable")
    last = np.append(np.diff(fcst[order]) != 0, True)
    hits, alarms = np.cumsum(obs[order])[last], np.cumsum(1 - obs[order])[last]
    return np.append(0.0, alarms / alarms[-1]), np.append(0.0, hits / hits[-1])


@dataclass(frozen=True)
class ReliabilityBin:
    """One bin of the reliability diagram: count and mean of its forecasts, and the frequency of rain."""

    low: float
    high: float
    count: int
    mean_fcst: float
    frequency: float


def reliability(fcst: Array, obs: Array, bins: int = BINS) -> list[ReliabilityBin]:
    """Return the reliability table over equal bins of probability (Murphy and Winkler 1977).

    Empty bins have NaN for mean and frequency.
    """
    position = np.minimum((fcst * bins).astype(np.intp), bins - 1)
    count = np.bincount(position, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(position, fcst, bins) / count
        frequency = np.bincount(position, obs, bins) / count
    return [
        ReliabilityBin(i / bins, (i + 1) / bins, int(count[i]), float(mean[i]), float(frequency[i]))
        for i in range(bins)
    ]


def expected_calibration_error(fcst: Array, obs: Array, bins: int = BINS) -> float:
    """Return the mean distance of forecast and frequency over the reliability bins, weighted by count; 0 best."""
    table = [row for row in reliability(fcst, obs, bins) if row.count]
    return float(sum(row.count * abs(row.mean_fcst - row.frequency) for row in table) / len(fcst))


@dataclass(frozen=True)
class Contingency:
    """The 2x2 table of yes/no forecasts and outcomes."""

    hits: int
    false_alarms: int
    misses: int
    correct_negatives: int

    @property
    def accuracy(self) -> float:
        """Share of correct forecasts."""
        return _ratio(self.hits + self.correct_negatives, self.total)

    @property
    def probability_of_detection(self) -> float:
        """Share of rain days that were forecast: hits / (hits + misses)."""
        return _ratio(self.hits, self.hits + self.misses)

    @property
    def false_alarm_ratio(self) -> float:
        """Share of rain forecasts that stayed dry: false alarms / (hits + false alarms)."""
        return _ratio(self.false_alarms, self.hits + self.false_alarms)

    @property
    def frequency_bias(self) -> float:
        """Rain forecasts per rain day: 1 unbiased; above 1, rain is forecast too often."""
        return _ratio(self.hits + self.false_alarms, self.hits + self.misses)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and detection: 2 hits / (2 hits + false alarms + misses)."""
        return _ratio(2 * self.hits, 2 * self.hits + self.false_alarms + self.misses)

    @property
    def total(self) -> int:
        """Number of forecasts."""
        return self.hits + self.false_alarms + self.misses + self.correct_negatives


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else float("nan")


def contingency(fcst: Array, obs: Array, threshold: float) -> Contingency:
    """Count yes/no forecasts, `fcst >= threshold`, against the outcomes."""
    yes, wet = fcst >= threshold, obs == 1
    return Contingency(
        int(np.sum(yes & wet)), int(np.sum(yes & ~wet)), int(np.sum(~yes & wet)), int(np.sum(~yes & ~wet))
    )


def best_f1_threshold(fcst: Array, obs: Array) -> float:
    """Return the threshold with the highest F1, one of the forecasts."""
    order = np.argsort(-fcst, kind="stable")
    last = np.append(np.diff(fcst[order]) != 0, True)
    hits, forecast_yes = np.cumsum(obs[order])[last], np.flatnonzero(last) + 1
    best = int(np.argmax(2 * hits / (forecast_yes + np.sum(obs))))
    return float(fcst[order][last][best])


def scores(fcst: Array, obs: Array, reference: Array, threshold: float) -> dict[str, float]:
    """Return all scores of one set of forecasts by name. Skill is measured against the forecast `reference`."""
    table = contingency(fcst, obs, threshold)
    return {
        "count": float(len(obs)),
        "brier_score": brier_score(fcst, obs),
        "brier_skill_score": brier_skill_score(fcst, obs, reference),
        "log_loss": log_loss(fcst, obs),
        "roc_auc": roc_auc(fcst, obs),
        "expected_calibration_error": expected_calibration_error(fcst, obs),
        "accuracy": table.accuracy,
        "f1": table.f1,
        "probability_of_detection": table.probability_of_detection,
        "false_alarm_ratio": table.false_alarm_ratio,
        "frequency_bias": table.frequency_bias,
    }


@dataclass(frozen=True)
class Climatology:
    """Rain frequency by station and month of a training period.

    Frequencies are smoothed with `SMOOTHING` pseudo-days: of a station-month towards the rate of the station, of a
    station towards the rate of all stations. Rows without a date get the station's rate, unknown stations the rate of
    all.
    """

    overall: float
    station: dict[str, float]
    station_month: dict[tuple[str, int], float]

    @classmethod
    def fit(cls, locations: NDArray[np.str_], dates: NDArray[np.datetime64], obs: Array) -> Climatology:
        """Fit to the stations, dates and outcomes of a training period, each of shape (n,)."""
        overall = float(np.mean(obs))
        months = month(dates)
        station, station_month = {}, {}
        for name in np.unique(locations):
            at = locations == name
            rate = station[str(name)] = _smoothed(obs[at], overall)
            for number in range(1, 13):
                station_month[str(name), number] = _smoothed(obs[at & (months == number)], rate)
        return cls(overall, station, station_month)

    def forecast(self, locations: NDArray[np.str_], dates: NDArray[np.datetime64]) -> Array:
        """Return the climatological probability of rain for each row, shape (n,)."""
        rows = zip(locations.tolist(), month(dates).tolist(), strict=True)
        return np.array(
            [self.station_month.get((name, number), self.station.get(name, self.overall)) for name, number in rows]
        )


def _smoothed(obs: Array, towards: float) -> float:
    return float((np.sum(obs) + SMOOTHING * towards) / (len(obs) + SMOOTHING))


def month(dates: NDArray[np.datetime64]) -> NDArray[np.int64]:
    """Return the month of each date, 1..12; 0 for a missing date."""
    return np.where(np.isnat(dates), 0, dates.astype("datetime64[M]").astype(np.int64) % 12 + 1)


def season(dates: NDArray[np.datetime64]) -> NDArray[np.str_]:
    """Return the season of each date as its months' initials, DJF being summer; "" for a missing date."""
    return np.where(np.isnat(dates), "", np.array(SEASONS)[month(dates) % 12 // 3])


@dataclass(frozen=True)
class Persistence:
    """Tomorrow as today: each station's rain frequency after a wet and after a dry day of the training period.

    A probability, since the Brier score penalises the certainty of a plain yes or no. Frequencies are smoothed towards
    that of all stations after the same kind of day, which unknown stations get. After an unknown day the forecast is
    the overall frequency.
    """

    overall: float
    after: dict[bool, float]
    station_after: dict[tuple[str, bool], float]

    @classmethod
    def fit(cls, locations: NDArray[np.str_], wet: Array, obs: Array) -> Persistence:
        """Fit to stations, `wet` (1.0 rain day, 0.0 dry day, NaN unknown) and the outcomes, each of shape (n,)."""
        overall = float(np.mean(obs))
        after = {state: _smoothed(obs[wet == state], overall) for state in (True, False)}
        station_after = {
            (str(name), state): _smoothed(obs[(locations == name) & (wet == state)], after[state])
            for name in np.unique(locations)
            for state in (True, False)
        }
        return cls(overall, after, station_after)

    def forecast(self, locations: NDArray[np.str_], wet: Array) -> Array:
        """Return the probability of rain for each row, shape (n,)."""
        rows = zip(locations.tolist(), wet.tolist(), strict=True)
        return np.array(
            [
                self.overall if np.isnan(day) else self.station_after.get((name, day == 1), self.after[day == 1])
                for name, day in rows
            ]
        )


def weekly_blocks(dates: NDArray[np.datetime64]) -> NDArray[np.int64]:
    """Return the number of each date's week. Weather within a week is correlated over all stations: resample weeks."""
    return dates.astype("datetime64[D]").astype(np.int64) // 7


def consecutive_blocks(locations: NDArray[np.str_], rows: int = BOOTSTRAP_BLOCK_ROWS) -> NDArray[np.int64]:
    """Return the number of each row's block: `rows` consecutive rows of a station. Rows must be in time order."""
    blocks = np.zeros(len(locations), np.int64)
    first = 0
    for name in np.unique(locations):
        at = np.flatnonzero(locations == name)
        blocks[at] = first + np.arange(len(at)) // rows
        first = int(blocks[at[-1]]) + 1
    return blocks


def block_bootstrap(blocks: NDArray[np.int64], repeats: int, seed: int) -> Iterator[NDArray[np.intp]]:
    """Yield the row indices of each resample: blocks drawn with replacement, as many as in the data (Kunsch 1989)."""
    generator = np.random.default_rng(seed)
    order = np.argsort(blocks, kind="stable")
    _, start, count = np.unique(blocks[order], return_index=True, return_counts=True)
    for _ in range(repeats):
        drawn = generator.integers(len(start), size=len(start))
        length = count[drawn]
        end = np.cumsum(length)
        yield order[np.arange(end[-1]) + np.repeat(start[drawn] - end + length, length)]


def confidence_interval(
    statistic: Callable[[NDArray[np.intp]], Any], blocks: NDArray[np.int64], repeats: int = 200, seed: int = 0
) -> NDArray[np.float64]:
    """Return the 2.5 % and 97.5 % quantiles of a statistic over resampled blocks, shape (2, ...).

    `statistic` takes row indices. Resamples for which it is NaN are left out.
    """
    values = [statistic(rows) for rows in block_bootstrap(blocks, repeats, seed)]
    return np.asarray(np.nanpercentile(values, [2.5, 97.5], axis=0))


@dataclass(frozen=True)
class Comparison:
    """Brier scores of two forecasts of the same rows, and the 95 % interval of challenger - champion."""

    champion: float
    challenger: float
    low: float
    high: float

    @property
    def difference(self) -> float:
        """Challenger - champion: above 0, the challenger is worse."""
        return self.challenger - self.champion

    def worse(self, tolerance: float = 0.0) -> bool:
        """Return True if the challenger is worse beyond chance: the interval lies entirely above the tolerance."""
        return self.low > tolerance


def compare(
    fcst: Array, champion_fcst: Array, obs: Array, blocks: NDArray[np.int64], repeats: int = 1000
) -> Comparison:
    """Compare a challenger with the champion by a paired block bootstrap of the Brier score difference.

    The statistic is the mean of (fcst - obs)^2 - (champion_fcst - obs)^2 over the rows. Both are scored on the same
    resamples, so that the difficulty of a day cancels (Hamill 1999, Weather and Forecasting 14). Blocks are drawn
    rather than rows, since the days of a block are correlated. All arrays have the shape (n,).
    """
    difference = (fcst - obs) ** 2 - (champion_fcst - obs) ** 2
    low, high = confidence_interval(lambda rows: np.mean(difference[rows]), blocks, repeats)
    return Comparison(brier_score(champion_fcst, obs), brier_score(fcst, obs), float(low), float(high))


def verify(
    fcsts: dict[str, Array],
    baselines: dict[str, Array],
    obs: Array,
    locations: NDArray[np.str_],
    dates: NDArray[np.datetime64],
    threshold: float,
) -> dict[str, Any]:
    """Return all results of a verification period for the model card, as plain numbers.

    `fcsts` are the forecasts by form of the observation, the main form first; `baselines` are the reference forecasts,
    first the one that skill is measured against. All arrays have the shape (n,). Scores by station, season and month
    are those of the main form. Intervals are over weekly blocks and need a date in every row.
    """
    main = next(iter(fcsts.values()))
    reference = next(iter(baselines.values()))
    dated = not np.isnat(dates).any()
    blocks = weekly_blocks(dates) if dated else None

    def by(groups: NDArray[Any]) -> dict[str, Any]:
        parts = {str(name): groups == name for name in np.unique(groups) if name}
        return {name: scores(main[at], obs[at], reference[at], threshold) for name, at in parts.items()}

    forms = {}
    for form, fcst in fcsts.items():
        forms[form] = scores(fcst, obs, reference, threshold) | {
            "reliability": [vars(row) for row in reliability(fcst, obs)],
            "intervals": {} if blocks is None else _intervals(fcst, obs, reference, blocks),
        }
    return {
        "rows": len(obs),
        "rain_frequency": float(np.mean(obs)),
        "period": [str(dates.min()), str(dates.max())] if dated else None,
        "forms": forms,
        "baselines": {name: scores(fcst, obs, reference, threshold) for name, fcst in baselines.items()},
        "stations": by(locations),
        "seasons": by(season(dates)),
        "months": by(month(dates)),
    }


def _intervals(fcst: Array, obs: Array, reference: Array, blocks: NDArray[np.int64]) -> dict[str, list[float]]:
    measures = {"brier_score": brier_score, "roc_auc": roc_auc}

    def statistic(rows: NDArray[np.intp]) -> list[float]:
        values = [measure(fcst[rows], obs[rows]) for measure in measures.values()]
        return [*values, brier_skill_score(fcst[rows], obs[rows], reference[rows])]

    names = [*measures, "brier_skill_score"]
    return dict(zip(names, confidence_interval(statistic, blocks).T.tolist(), strict=True))
