"""A typical hand-written script that forecasts a file: pandas, the joblib pipeline, Parquet.

    python batch.py INPUT.csv OUTPUT.parquet MODEL_DIRECTORY

Uses Raincast's code for the features, and prints the seconds that its checks of every value take.
"""

import sys
import time
from pathlib import Path

import joblib
import pandas as pd

from raincast.features.build import build_features
from raincast.training.sklearn_pipeline import table_from_frame


def main(observations: str, forecasts: str, model: str) -> None:
    """Read, forecast, write."""
    frame = pd.read_csv(observations)
    pipeline = joblib.load(Path(model) / "model.joblib")
    start = time.perf_counter()
    table = table_from_frame(frame)
    print(time.perf_counter() - start)
    # The first step of the pipeline builds table and features; here the table is built and timed separately.
    probability = pipeline[1:].predict_proba(build_features(table))[:, 1]
    pd.DataFrame({"probability_of_rain": probability}).assign(
        Date=frame["Date"], Location=frame["Location"]
    ).to_parquet(forecasts)


if __name__ == "__main__":
    main(*sys.argv[1:])
