"""The faults do what they say, so that a pipeline fails for that reason."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from raincast.observations.columns import TARGET
from tests.conftest import ROOT
from tests.pipeline import faults

IN_CODE = (faults.slow_model, faults.outcome_as_column, faults.simpler_model)
IN_DATA = (
    faults.label_leak, faults.outcome_as_column, faults.shuffled_target, faults.noise, faults.value_out_of_limits,
    faults.missing_target,
)  # fmt: skip
Fault = Callable[[Path], faults.Variables]


@pytest.fixture(name="checkout")
def fixture_checkout(tmp_path: Path) -> Path:
    """The code, and every fiftieth row of the bundled observations."""
    shutil.copytree(ROOT / "raincast", tmp_path / "raincast", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "data").mkdir()
    header, *lines = gzip.decompress((ROOT / faults.BUNDLED).read_bytes()).splitlines(keepends=True)
    (tmp_path / faults.BUNDLED).write_bytes(gzip.compress(b"".join([header, *lines[::50]])))
    return tmp_path


def record(checkout: Path, path: Path) -> pd.DataFrame:
    """Read a record as text."""
    return pd.read_csv(checkout / path, dtype=str, keep_default_na=False)


def faulty(checkout: Path, fault: Fault) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the bundled record, and the one that a fault gives the pipeline."""
    before = record(checkout, faults.BUNDLED)
    assert fault(checkout) == {"RAINCAST_DATA": str(faults.FAULTY)}
    pd.testing.assert_frame_equal(before, record(checkout, faults.BUNDLED))
    return before, record(checkout, faults.FAULTY)


@pytest.mark.parametrize("fault", IN_DATA)
def test_a_fault_in_the_data_is_the_same_each_time(fault: Fault, checkout: Path) -> None:
    copy = checkout / "copy"
    shutil.copytree(checkout, copy)
    for folder in (checkout, copy):
        fault(folder)
    assert (checkout / faults.FAULTY).read_bytes() == (copy / faults.FAULTY).read_bytes()


@pytest.mark.parametrize("fault", IN_CODE)
def test_a_fault_in_the_code_compiles_and_raises_if_it_does_not_fit(fault: Fault, checkout: Path) -> None:
    before = {path: path.read_text() for path in (checkout / "raincast").rglob("*.py")}
    fault(checkout)
    changed = [path for path, code in before.items() if path.read_text() != code]
    assert changed
    for path in changed:
        compile(path.read_text(), path, "exec")
        path.write_text("")
    with pytest.raises(AssertionError, match="expected once"):
        fault(checkout)


def test_leaked_rain_is_that_of_tomorrow(checkout: Path) -> None:
    before, after = faulty(checkout, faults.label_leak)
    assert (after["RainToday"] == before[TARGET.name]).all()
    assert ((after["Rainfall"].astype(float) > 1) == (before[TARGET.name] == "Yes")).all()
    rain = ["Rainfall", "RainToday"]
    pd.testing.assert_frame_equal(before.drop(columns=rain), after.drop(columns=rain))


def test_a_shuffled_target_leaves_the_measurements_alone(checkout: Path) -> None:
    before, after = faulty(checkout, faults.shuffled_target)
    pd.testing.assert_frame_equal(before.drop(columns=TARGET.name), after.drop(columns=TARGET.name))
    assert sorted(before[TARGET.name]) == sorted(after[TARGET.name])
    # Two independent draws agree with a probability of 1 - 2 * 0.22 * 0.78 = 0.66.
    assert 0.6 < (before[TARGET.name] == after[TARGET.name]).mean() < 0.72


def test_noise_has_the_measurements_of_the_record_at_other_rows(checkout: Path) -> None:
    before, after = faulty(checkout, faults.noise)
    kept = ["Location", TARGET.name]
    pd.testing.assert_frame_equal(before[kept], after[kept])
    for name in set(before) - set(kept):
        assert sorted(before[name]) == sorted(after[name])
        assert (before[name] != after[name]).any()


def test_a_simpler_model_learns_from_the_same_record_as_the_champion(checkout: Path) -> None:
    faults.simpler_model(checkout)
    bundled, own = (gzip.decompress((checkout / path).read_bytes()) for path in (faults.BUNDLED, faults.FAULTY))
    assert bundled == own


def test_broken_records_break_one_rule_each(checkout: Path) -> None:
    before, after = faulty(checkout, faults.value_out_of_limits)
    assert (before != after).to_numpy().sum() == 1
    _, after = faulty(checkout, faults.missing_target)
    assert TARGET.name not in after
    pd.testing.assert_frame_equal(before.drop(columns=TARGET.name), after.drop(columns="rain_tomorrow"))
