"""The model card, in Markdown and HTML, with its plots."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import markdown
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from raincast import features, stations
from raincast.observations import MEASUREMENTS, Table, take
from raincast.verification import brier_score, roc_curve

Array = NDArray[np.float64]

PERMUTED_ROWS = 10_000
SCORES = {
    "brier_score": "Brier score",
    "brier_skill_score": "Brier skill",
    "log_loss": "log loss",
    "roc_auc": "ROC AUC",
    "expected_calibration_error": "ECE",
    "accuracy": "accuracy",
    "f1": "F1",
    "probability_of_detection": "POD",
    "false_alarm_ratio": "false alarm ratio",
    "frequency_bias": "frequency bias",
}
CAPTIONS = {
    "reliability": "Reliability: how often it rained after each forecast probability",
    "roc": "ROC: detections against false alarms at every threshold",
    "stations": "Brier skill at each station, on the map",
    "months": "Brier skill by month",
    "importance": "What shuffling a measurement costs",
}
MEANING = """\
`Rainfall` is the rain of the 24 h **to 9 am**. The forecast "rain tomorrow" is the probability that more than 1 mm falls
between 9 am on the observation's date and 9 am the day after.

A complete observation is not known before the next morning: the gust and the sunshine run to midnight, the maximum
temperature to 9 am the next day. A forecast issued at 3 pm cannot know them. The model has learned from each
station-day in every form below and is verified in each on its own; leave empty what is not known yet. The other
observations sent along are the context: the same day at other stations and earlier days at the same station."""
LIMITS = """\
- Stations outside `data/stations.csv` get a forecast without a place, a season's day length or neighbours.
- The probabilities are as good as the climate of the training period is like today's: verify again and retrain yearly.
- Yes and No follow the threshold with the best F1 on a validation period inside the training period, which warns more
  often than it rains (frequency bias above 1). Whoever weighs a missed rain day otherwise should use the probability.
- Not for warnings of flood, storm or fire weather: it forecasts a rain day, not an amount or an hour."""


def score_table(verification: dict[str, Any], columns: tuple[str, ...] = tuple(SCORES)) -> list[list[str]]:
    """Header and rows: each form of the observation, then each baseline, with their scores."""
    rows = [["forecast", *(SCORES[name] for name in columns)]]
    for name, values in (verification["forms"] | verification["baselines"]).items():
        rows.append([name, *(number(values[column]) for column in columns)])
    return rows


def number(value: float | None) -> str:
    """A score with four decimals, a dash for none."""
    return "-" if value is None or np.isnan(value) else f"{value:.4f}"


def as_text(rows: list[list[str]]) -> str:
    """A table for the terminal: first column left, the others right."""
    width = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join([row[0].ljust(width[0]), *(cell.rjust(w) for cell, w in zip(row[1:], width[1:], strict=True))])
        for row in rows
    )


def as_markdown(rows: list[list[str]]) -> str:
    """A Markdown table: first column left, the others right."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---|" + "---:|" * (len(rows[0]) - 1), *lines[1:]])


def as_metrics(verification: dict[str, Any]) -> str:
    """The scores in the text format of Prometheus, which GitLab compares from pipeline to pipeline."""
    return "".join(
        f'{name}{{forecast="{forecast}"}} {values[name]:.6f}\n'
        for forecast, values in (verification["forms"] | verification["baselines"]).items()
        for name in SCORES
        if values[name] is not None
    )


def permutation_importance(
    probability: Callable[[Array], Array], table: Table, obs: Array, rows: NDArray[np.bool_], seed: int = 0
) -> dict[str, float]:
    """Rise of the Brier score when one measurement is shuffled over the whole table, largest first.

    The measurement loses its meaning everywhere it is used: at the station, in its history and at its neighbours.
    The chosen `rows` are shuffled among themselves and at most PERMUTED_ROWS of them scored; `obs` and `rows` have the
    shape of the table.
    """
    generator = np.random.default_rng(seed)
    table, obs = take(table, rows), obs[rows]
    scored = generator.permutation(len(obs))[:PERMUTED_ROWS]
    order = generator.permutation(len(obs))

    def score(table: Table) -> float:
        return brier_score(probability(features.build(table)[scored]), obs[scored])

    whole = score(table)
    rise = {name: score(table | {name: table[name][order]}) - whole for name in MEASUREMENTS}
    return dict(sorted(rise.items(), key=lambda item: -item[1]))


def write(
    folder: Path,
    description: dict[str, Any],
    fcsts: dict[str, Array],
    obs: Array,
) -> None:
    """Write the plots, model-card.md, model-card.html (one file, plots inside), scores.txt and metrics.txt."""
    verification = description["verification"]
    plots = {"reliability": _reliability(verification), "roc": _roc(fcsts, obs), "stations": _stations(verification)}
    if verification["months"]:
        plots["months"] = _months(verification)
    plots["importance"] = _importance(description["importance"])
    for name, figure in plots.items():
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    (folder / "scores.txt").write_text(as_text(score_table(verification)) + "\n", encoding="utf-8")
    (folder / "metrics.txt").write_text(as_metrics(verification), encoding="utf-8")
    card = _card(description, list(plots))
    (folder / "model-card.md").write_text(card, encoding="utf-8")
    (folder / "model-card.html").write_text(_html(card, folder), encoding="utf-8")


def _card(description: dict[str, Any], plots: list[str]) -> str:
    verification = description["verification"]
    parts = [
        f"# Model card: {description['name']} {description['version']}",
        "Does it rain tomorrow at an Australian weather station? Histogram gradient boosting (scikit-learn) on"
        f" {len(description['features'])} features, served as an ONNX graph in double precision.",
        "## What a forecast means",
        MEANING,
        "## Training",
        as_markdown([["what", "value"], *([name, _value(value)] for name, value in _provenance(description))]),
        "## Verification",
        _verification_text(verification, description["threshold"]),
        as_markdown(score_table(verification)),
    ]
    if verification["period"]:
        parts += [
            "Intervals by bootstrap over weeks, in which weather is alike:",
            as_markdown(_intervals(verification)),
        ]
    parts += [f"### {CAPTIONS[name]}\n\n![{CAPTIONS[name]}]({name}.svg)" for name in plots]
    for group, title in (("seasons", "season"), ("stations", "station")):
        if verification[group]:
            parts += [f"### By {title}", as_markdown(_groups(verification[group], title))]
    return "\n\n".join([*parts, "## Limits", LIMITS]) + "\n"


def _verification_text(verification: dict[str, Any], threshold: float) -> str:
    period = " to ".join(verification["period"] or []) or "the last rows of each station"
    return (
        f"{verification['rows']} forecasts, {period}, none of them seen in training; it rained after"
        f" {verification['rain_frequency']:.1%}. Skill is against climatology: the smoothed rain frequency of each"
        " station and month in the training period (of the station, where there are no dates). Persistence is each"
        f" station's rain frequency after a wet and after a dry day. Yes and No by the threshold {threshold:.3f}."
    )


def _intervals(verification: dict[str, Any]) -> list[list[str]]:
    names = ("brier_skill_score", "roc_auc")
    rows = [["forecast", *(f"{SCORES[name]}, 95 %" for name in names)]]
    for form, values in verification["forms"].items():
        rows.append([form, *(" to ".join(map(number, values["intervals"][name])) for name in names)])
    return rows


def _provenance(description: dict[str, Any]) -> list[tuple[str, Any]]:
    names = ("rows", "period", "data", "data_sha256", "commit", "trained", "config", "versions")
    return [(name.replace("_", " "), description[name]) for name in names]


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_value(part)}" for name, part in value.items())
    return " to ".join(map(str, value)) if isinstance(value, list) else str(value if value is not None else "-")


def _groups(groups: dict[str, Any], title: str) -> list[list[str]]:
    names = ("brier_skill_score", "roc_auc", "expected_calibration_error", "frequency_bias")
    rows = [[title, "forecasts", *(SCORES[name] for name in names)]]
    for group, values in groups.items():
        # Whatever a station is called, its name is text, not markup.
        name = html.escape(group).replace("|", "&#124;")
        rows.append([name, f"{values['count']:.0f}", *(number(values[score]) for score in names)])
    return rows


def _html(card: str, folder: Path) -> str:
    body = markdown.markdown(card, extensions=["tables"])

    def inside(match: re.Match[str]) -> str:
        data = base64.b64encode((folder / match[1]).read_bytes()).decode()
        return f'src="data:image/svg+xml;base64,{data}"'

    body = re.sub(r'src="([a-z]+\.svg)"', inside, body)
    title = card.split("\n", 1)[0].removeprefix("# ")
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 66rem; margin: 2rem auto; padding: 0 1rem; color: #1b2733 }}
table {{ border-collapse: collapse; display: block; overflow-x: auto; font-variant-numeric: tabular-nums }}
td, th {{ padding: .25rem .6rem; border-bottom: 1px solid #d5dde5 }}
img {{ max-width: 100% }}
</style>
{body}
</html>
"""


def _figure(width: float, height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _reliability(verification: dict[str, Any]) -> Figure:
    figure, axes = _figure(6, 5)
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for form, values in verification["forms"].items():
        bins = [row for row in values["reliability"] if row["count"]]
        axes.plot([row["mean_fcst"] for row in bins], [row["frequency"] for row in bins], marker="o", label=form)
    axes.set(xlabel="forecast probability of rain", ylabel="how often it rained", xlim=(0, 1), ylim=(0, 1))
    axes.legend(frameon=False, fontsize="small")
    return figure


def _roc(fcsts: dict[str, Array], obs: Array) -> Figure:
    figure, axes = _figure(6, 5)
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for form, fcst in fcsts.items():
        false_alarm_rate, detection = roc_curve(fcst, obs)
        thin = np.linspace(0, len(detection) - 1, 400).astype(np.intp)
        axes.plot(false_alarm_rate[thin], detection[thin], label=form)
    axes.set(xlabel="false alarm rate", ylabel="probability of detection", xlim=(0, 1), ylim=(0, 1))
    axes.legend(frameon=False, fontsize="small")
    return figure


def _stations(verification: dict[str, Any]) -> Figure:
    figure, axes = _figure(9, 5.5)
    known = stations.known()
    place = [known.names.index(name) for name in verification["stations"] if name in known.names]
    skill = [verification["stations"][known.names[i]]["brier_skill_score"] for i in place]
    where = (known.longitude, known.latitude)
    axes.grid(color="0.92")
    dots = axes.scatter(known.longitude[place], known.latitude[place], c=skill, s=90, cmap="viridis", edgecolor="white")
    labelled: list[int] = []
    for i in place:
        # Around the large cities only one name has room; the table of stations has them all.
        if any(np.hypot(*(coordinate[i] - coordinate[j] for coordinate in where)) < 1.8 for j in labelled):
            continue
        labelled.append(i)
        axes.annotate(
            known.names[i], (known.longitude[i], known.latitude[i]), (6, 3), textcoords="offset points", size=6
        )
    figure.colorbar(dots, label="Brier skill", shrink=0.7)
    axes.set(xlabel="longitude, degrees east", ylabel="latitude, degrees", aspect=1.15)
    return figure


def _months(verification: dict[str, Any]) -> Figure:
    figure, axes = _figure(7, 3.5)
    months = sorted(verification["months"], key=int)
    axes.bar(months, [verification["months"][name]["brier_skill_score"] for name in months], color="#3b7ea1")
    axes.set(xlabel="month", ylabel="Brier skill")
    return figure


def _importance(importance: dict[str, float]) -> Figure:
    figure, axes = _figure(7, 5)
    axes.barh(list(importance), list(importance.values()), color="#3b7ea1")
    axes.invert_yaxis()
    axes.set(xlabel="rise of the Brier score when the measurement is shuffled")
    return figure
