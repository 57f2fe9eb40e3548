"""The model card in Markdown and HTML, the tables of scores, and the metrics report."""

from __future__ import annotations

import base64
import html
import re
from pathlib import Path
from typing import Any

import markdown
import numpy as np

from raincast.training.plots import importance_plot, months_plot, reliability_plot, roc_plot, stations_plot
from raincast.verification import Array

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
    "reliability": "Reliability: frequency of rain after each forecast probability",
    "roc": "ROC: detections against false alarms at every threshold",
    "stations": "Brier skill at each station, on the map",
    "months": "Brier skill by month",
    "importance": "Permutation importance: rise of the Brier score when a measurement is shuffled",
}
MEANING = """\
`Rainfall` is the rain of the 24 h **to 9 am**. The forecast "rain tomorrow" is the probability that more than 1 mm falls
between 9 am on the observation's date and 9 am the day after.

A complete observation is not known before the next morning: the gust and the sunshine cover the day to midnight, the
maximum temperature the 24 h to 9 am the next day. A forecast issued at 3 pm does not have them. The model is trained on
every station-day in each form below and verified separately for each; leave values empty that are not yet known. The
other observations of the same table or request are the context: the same day at other stations and earlier days at the
same station."""
LIMITS = """\
- Stations outside `data/stations.csv` get a forecast without location, day length or neighbours.
- The probabilities assume that the climate is like that of the training period: verify and retrain every year.
- Yes and No follow the threshold with the best F1 on a validation period inside the training period, which forecasts
  rain more often than it rains (frequency bias above 1). If you weigh a missed rain day differently, use the probability.
- Not for warnings of flood, storm or fire weather: it forecasts a rain day, not an amount or an hour."""


def score_table(verification: dict[str, Any], columns: tuple[str, ...] = tuple(SCORES)) -> list[list[str]]:
    """Return the table of scores: a header, each form of the observation, then each baseline."""
    rows = [["forecast", *(SCORES[name] for name in columns)]]
    for name, values in (verification["forms"] | verification["baselines"]).items():
        rows.append([name, *(number(values[column]) for column in columns)])
    return rows


def number(value: float | None) -> str:
    """Format a score with four decimals, None and NaN as a dash."""
    return "-" if value is None or np.isnan(value) else f"{value:.4f}"


def as_text(rows: list[list[str]]) -> str:
    """Format a table for the terminal, the first column left-aligned, the others right-aligned."""
    width = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join([row[0].ljust(width[0]), *(cell.rjust(w) for cell, w in zip(row[1:], width[1:], strict=True))])
        for row in rows
    )


def as_markdown(rows: list[list[str]]) -> str:
    """Format a Markdown table, the first column left-aligned, the others right-aligned."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---|" + "---:|" * (len(rows[0]) - 1), *lines[1:]])


def as_metrics(verification: dict[str, Any]) -> str:
    """Format the scores in Prometheus text format, for GitLab's metrics report of merge requests."""
    return "".join(
        f'{name}{{forecast="{forecast}"}} {values[name]:.6f}\n'
        for forecast, values in (verification["forms"] | verification["baselines"]).items()
        for name in SCORES
        if values[name] is not None
    )


def write(folder: Path, description: dict[str, Any], fcsts: dict[str, Array], obs: Array) -> None:
    """Write the plots, model-card.md, model-card.html (with the plots embedded), scores.txt and metrics.txt.

    `fcsts` are the forecasts of the verification rows by form, `obs` their outcomes.
    """
    verification = description["verification"]
    plots = {
        "reliability": reliability_plot(verification),
        "roc": roc_plot(fcsts, obs),
        "stations": stations_plot(verification),
    }
    if verification["months"]:
        plots["months"] = months_plot(verification)
    plots["importance"] = importance_plot(description["importance"])
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
        as_markdown([["item", "value"], *([name, _value(value)] for name, value in _provenance(description))]),
        "## Verification",
        _verification_text(verification, description["threshold"]),
        as_markdown(score_table(verification)),
    ]
    if verification["period"]:
        parts += [
            "Intervals by bootstrap over weeks, since weather within a week is correlated:",
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
        f"{verification['rows']} forecasts, {period}, of rows not used in training; it rained after"
        f" {verification['rain_frequency']:.1%}. Skill is relative to climatology: the smoothed rain frequency of each"
        " station and month in the training period (of each station, if rows have no dates). Persistence is each"
        f" station's rain frequency after a wet and after a dry day. The threshold of Yes and No is {threshold:.3f}."
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
        # Station names are input: never let one act as markup.
        name = html.escape(group).replace("|", "&#124;")
        rows.append([name, f"{values['count']:.0f}", *(number(values[score]) for score in names)])
    return rows


def _html(card: str, folder: Path) -> str:
    body = markdown.markdown(card, extensions=["tables"])

    def embedded(match: re.Match[str]) -> str:
        data = base64.b64encode((folder / match[1]).read_bytes()).decode()
        return f'src="data:image/svg+xml;base64,{data}"'

    body = re.sub(r'src="([a-z]+\.svg)"', embedded, body)
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
