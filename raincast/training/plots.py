"""Figures of the model card."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from raincast.observations import stations
from raincast.verification import Array, roc_curve


def _figure(width: float, height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def reliability_plot(verification: dict[str, Any]) -> Figure:
    """Plot the frequency of rain against the forecast probability, for each form."""
    figure, axes = _figure(6, 5)
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for form, values in verification["forms"].items():
        bins = [row for row in values["reliability"] if row["count"]]
        axes.plot([row["mean_fcst"] for row in bins], [row["frequency"] for row in bins], marker="o", label=form)
    axes.set(xlabel="forecast probability of rain", ylabel="how often it rained", xlim=(0, 1), ylim=(0, 1))
    axes.legend(frameon=False, fontsize="small")
    return figure


def roc_plot(fcsts: dict[str, Array], obs: Array) -> Figure:
    """Plot the ROC curve of each form's forecasts."""
    figure, axes = _figure(6, 5)
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for form, fcst in fcsts.items():
        false_alarm_rate, detection = roc_curve(fcst, obs)
        drawn = np.linspace(0, len(detection) - 1, 400).astype(np.intp)
        axes.plot(false_alarm_rate[drawn], detection[drawn], label=form)
    axes.set(xlabel="false alarm rate", ylabel="probability of detection", xlim=(0, 1), ylim=(0, 1))
    axes.legend(frameon=False, fontsize="small")
    return figure


def stations_plot(verification: dict[str, Any]) -> Figure:
    """Plot the Brier skill of each known station on a map."""
    figure, axes = _figure(9, 5.5)
    known = stations.known()
    place = [known.names.index(name) for name in verification["stations"] if name in known.names]
    skill = [verification["stations"][known.names[i]]["brier_skill_score"] for i in place]
    coordinates = (known.longitude, known.latitude)
    axes.grid(color="0.92")
    dots = axes.scatter(known.longitude[place], known.latitude[place], c=skill, s=90, cmap="viridis", edgecolor="white")
    labelled: list[int] = []
    for i in place:
        # Only one name fits around each large city; the table of stations lists all.
        if any(np.hypot(*(coordinate[i] - coordinate[j] for coordinate in coordinates)) < 1.8 for j in labelled):
            continue
        labelled.append(i)
        axes.annotate(
            known.names[i], (known.longitude[i], known.latitude[i]), (6, 3), textcoords="offset points", size=6
        )
    figure.colorbar(dots, label="Brier skill", shrink=0.7)
    axes.set(xlabel="longitude, degrees east", ylabel="latitude, degrees", aspect=1.15)
    return figure


def months_plot(verification: dict[str, Any]) -> Figure:
    """Plot the Brier skill of each month."""
    figure, axes = _figure(7, 3.5)
    months = sorted(verification["months"], key=int)
    axes.bar(months, [verification["months"][name]["brier_skill_score"] for name in months], color="#3b7ea1")
    axes.set(xlabel="month", ylabel="Brier skill")
    return figure


def importance_plot(importance: dict[str, float]) -> Figure:
    """Plot the importance of each measurement."""
    figure, axes = _figure(7, 5)
    axes.barh(list(importance), list(importance.values()), color="#3b7ea1")
    axes.invert_yaxis()
    axes.set(xlabel="rise of the Brier score when the measurement is shuffled")
    return figure
