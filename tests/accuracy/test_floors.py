"""A model that forecasts: better than its baselines and than fixed floors, reliable, and not too good to be true.

Each form of the observation is held to it. The floors of the bundled record are what the model reached there, less what
another training may differ by; those of another record, RAINCAST_DATA, lie between persistence (ROC AUC .70, Brier
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
# Nobody has honestly reached more than .92 on the Australian record.
TOO_GOOD = 0.95
# Below this, frequencies in a bin are not nearly normal.
LEAST_VARIANCE = 5.0


@dataclass(frozen=True)
class Floors:
    """The least that a form of the observation has to reach.

    Frequencies may be `off` beyond chance, since the climate of the verification is not quite that of the training, and
    chance is so many `standard_errors` of independent days: three do for a subsample without dates; days of the same
    week at neighbouring stations are alike, and tell less.
    """

    roc_auc: float
    brier_skill_score: float
    off: float
    standard_errors: float


OF_BUNDLED = {forms.SINGLE_ROW: Floors(0.890, 0.40, 0.01, 3), forms.SINGLE_ROW_3PM: Floors(0.880, 0.375, 0.01, 3)}
OF_OTHERS = Floors(0.80, 0.20, 0.02, 6)


@pytest.fixture(name="floors", scope="module")
def fixture_floors(verification: Verification) -> dict[str, Floors]:
    """The floors of each form that the verification has."""
    if record_setting() == str(BUNDLED):
        assert set(verification["forms"]) == set(OF_BUNDLED)
        return OF_BUNDLED
    return dict.fromkeys(verification["forms"], OF_OTHERS)


def test_no_score_is_too_good_to_be_true(verification: Verification) -> None:
    for form, scores in verification["forms"].items():
        auc = scores["roc_auc"]
        assert auc <= TOO_GOOD, (
            f"too good to be true: {form!r} has a ROC AUC of {auc:.4f}, and nobody has honestly reached {TOO_GOOD}:"
            " look for tomorrow's rain (RISK_MM, RainTomorrow, a measurement of the day after) among the observations"
        )


def test_the_floors_are_reached(verification: Verification, floors: dict[str, Floors]) -> None:
    below = []
    for form, least in floors.items():
        for name in ("roc_auc", "brier_skill_score"):
            score, floor = verification["forms"][form][name], getattr(least, name)
            if not score >= floor:
                below.append(f"{form!r} has a {name} of {score:.4f}, the floor is {floor}")
    assert not below, "below the floor: " + "; ".join(below)


def test_the_model_beats_climatology_and_persistence(verification: Verification) -> None:
    beaten = []
    for form, scores in verification["forms"].items():
        for name, baseline in verification["baselines"].items():
            for score, better in (("brier_score", np.less), ("log_loss", np.less), ("roc_auc", np.greater)):
                if not better(scores[score], baseline[score]):
                    beaten.append(f"{form!r} has a {score} of {scores[score]:.4f}, {name} {baseline[score]:.4f}")
    assert not beaten, "no better than a baseline: " + "; ".join(beaten)


def test_the_probabilities_are_reliable(verification: Verification, floors: dict[str, Floors]) -> None:
    unreliable = []
    for form, least in floors.items():
        rows = [row for row in verification["forms"][form]["reliability"] if row["count"]]
        count, fcst, frequency = (np.array([row[name] for row in rows]) for name in ("count", "mean_fcst", "frequency"))
        variance = count * fcst * (1 - fcst)
        # What the error is on average where all probabilities are right, by chance alone.
        chance = np.sqrt(2 / np.pi) * np.sum(np.sqrt(variance)) / np.sum(count)
        error = verification["forms"][form]["expected_calibration_error"]
        if not error <= least.off + chance:
            unreliable.append(f"{form!r} has an ECE of {error:.4f}, at most {least.off + chance:.4f} is allowed")
        allowed = least.standard_errors * np.sqrt(variance) / count + least.off
        for i in np.flatnonzero((np.abs(frequency - fcst) > allowed) & (variance >= LEAST_VARIANCE)):
            unreliable.append(
                f"{form!r} says {fcst[i]:.3f} on average of {count[i]} rows, it rained in {frequency[i]:.3f} of them;"
                f" it may be {allowed[i]:.3f} off"
            )
    assert not unreliable, "unreliable probabilities: " + "; ".join(unreliable)


def test_the_whole_day_knows_no_less_than_3_pm(verification: Verification) -> None:
    for whole, at_3pm in ((forms.CONTEXT, forms.CONTEXT_3PM), (forms.SINGLE_ROW, forms.SINGLE_ROW_3PM)):
        if whole in verification["forms"]:
            scores = [verification["forms"][form]["brier_score"] for form in (whole, at_3pm)]
            # The same where a record lacks what is unknown at 3 pm, up to chance.
            assert scores[0] <= scores[1] + 0.0005, f"{whole!r} has a higher Brier score than {at_3pm!r}: {scores}"
