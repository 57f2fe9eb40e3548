"""Minimum scores: better than baselines and fixed floors, reliable, and not too good to be true.

Each form of the observation is checked. The floors of the bundled record are the scores that the model reached, less
the variation between trainings. Those of another record, RAINCAST_DATA, lie between persistence (ROC AUC .70, Brier
skill .05 on the full Australian record) and logistic regression (.86 and .31).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from ci.accuracy import BUNDLED, record_setting
from raincast.training import forms

Verification = dict[str, Any]
# No honest result on the Australian record exceeds .92.
TOO_GOOD = 0.95
# Variance of the number of rain days in a bin below which its normal approximation is poor.
MIN_VARIANCE = 5.0


@dataclass(frozen=True)
class Floors:
    """Minimum scores of a form of the observation, and the tolerances of its reliability.

    Frequencies may differ from forecasts by `off` beyond chance, since the climate of the verification differs a little
    from that of the training. Chance is `standard_errors` of independent days: three suffice for a subsample without
    dates; days of a week at neighbouring stations are correlated and need more.
    """

    roc_auc: float
    brier_skill_score: float
    off: float
    standard_errors: float


OF_BUNDLED = {forms.SINGLE_ROW: Floors(0.890, 0.40, 0.01, 3), forms.SINGLE_ROW_3PM: Floors(0.880, 0.375, 0.01, 3)}
OF_OTHERS = Floors(0.80, 0.20, 0.02, 6)


@pytest.fixture(name="floors", scope="module")
def fixture_floors(verification: Verification) -> dict[str, Floors]:
    """Return the floors of each form in the verification."""
    if record_setting() == str(BUNDLED):
        assert set(verification["forms"]) == set(OF_BUNDLED)
        return OF_BUNDLED
    return dict.fromkeys(verification["forms"], OF_OTHERS)


def test_no_score_is_too_good_to_be_true(verification: Verification) -> None:
    for form, scores in verification["forms"].items():
        auc = scores["roc_auc"]
        assert auc <= TOO_GOOD, (
            f"too good to be true: {form!r} has a ROC AUC of {auc:.4f}, at most {TOO_GOOD} is plausible:"
            " look for tomorrow's rain (RISK_MM, RainTomorrow, a measurement of the day after) among the observations"
        )


def test_the_floors_are_reached(verification: Verification, floors: dict[str, Floors]) -> None:
    below = []
    for form, minimum in floors.items():
        for name in ("roc_auc", "brier_skill_score"):
            score, floor = verification["forms"][form][name], getattr(minimum, name)
            if not score >= floor:
                below.append(f"{form!r} has a {name} of {score:.4f}, the floor is {floor}")
    assert not below, "below the floor: " + "; ".join(below)


def test_the_model_beats_climatology_and_persistence(verification: Verification) -> None:
    not_better = []
    for form, scores in verification["forms"].items():
        for name, baseline in verification["baselines"].items():
            for score, better in (("brier_score", np.less), ("log_loss", np.less), ("roc_auc", np.greater)):
                if not better(scores[score], baseline[score]):
                    not_better.append(f"{form!r} has a {score} of {scores[score]:.4f}, {name} {baseline[score]:.4f}")
    assert not not_better, "no better than a baseline: " + "; ".join(not_better)


def test_the_probabilities_are_reliable(verification: Verification, floors: dict[str, Floors]) -> None:
    unreliable = []
    for form, minimum in floors.items():
        rows = [row for row in verification["forms"][form]["reliability"] if row["count"]]
        count, fcst, frequency = (np.array([row[name] for row in rows]) for name in ("count", "mean_fcst", "frequency"))
        variance = count * fcst * (1 - fcst)
        # Mean calibration error by chance if all probabilities are correct.
        chance = np.sqrt(2 / np.pi) * np.sum(np.sqrt(variance)) / np.sum(count)
        error = verification["forms"][form]["expected_calibration_error"]
        if not error <= minimum.off + chance:
            unreliable.append(f"{form!r} has an ECE of {error:.4f}, at most {minimum.off + chance:.4f} is allowed")
        allowed = minimum.standard_errors * np.sqrt(variance) / count + minimum.off
        for i in np.flatnonzero((np.abs(frequency - fcst) > allowed) & (variance >= MIN_VARIANCE)):
            unreliable.append(
                f"{form!r} forecasts {fcst[i]:.3f} on average for {count[i]} rows, it rained in {frequency[i]:.3f} of"
                f" them; at most {allowed[i]:.3f} off is allowed"
            )
    assert not unreliable, "unreliable probabilities: " + "; ".join(unreliable)


def test_complete_observations_are_forecast_no_worse_than_as_known_at_3_pm(verification: Verification) -> None:
    for complete, at_3pm in ((forms.CONTEXT, forms.CONTEXT_3PM), (forms.SINGLE_ROW, forms.SINGLE_ROW_3PM)):
        if complete in verification["forms"]:
            scores = [verification["forms"][form]["brier_score"] for form in (complete, at_3pm)]
            # Equal up to chance if a record lacks the measurements that are unknown at 3 pm.
            assert scores[0] <= scores[1] + 0.0005, f"{complete!r} has a higher Brier score than {at_3pm!r}: {scores}"
