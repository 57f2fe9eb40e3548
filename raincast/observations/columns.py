"""Columns of the daily observation: names, units, limits and meanings.

`COLUMNS` is the only declaration. Reading, the data checks before training, the JSON Schema and the documentation
derive from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Kind = Literal["station", "date", "number", "direction", "yes_no"]
DIRECTIONS = ("N", "NNE", "NE", "ENE", "E", "ESE", "SE", "SSE", "S", "SSW", "SW", "WSW", "W", "WNW", "NW", "NNW")


@dataclass(frozen=True)
class Column:
    """A column of the observation: its kind, unit, inclusive limits and meaning."""

    name: str
    kind: Kind
    meaning: str
    unit: str = ""
    low: float = -np.inf
    high: float = np.inf

    @property
    def limit(self) -> str:
        """Description of valid values, for messages."""
        return {
            "station": "a station's name of at most 64 printable characters",
            "date": "a date as YYYY-MM-DD, 1900-01-01 to 2199-12-31",
            "direction": "one of " + " ".join(DIRECTIONS),
            "yes_no": "Yes or No",
            "number": f"a number, {self.low:g} to {self.high:g} {self.unit}",
        }[self.kind]


COLUMNS = (
    Column("Date", "date", "the day of the observation"),
    Column("Location", "station", "the station"),
    Column("MinTemp", "number", "lowest temperature in the 24 h to 9 am", "degC", -20, 40),
    Column("MaxTemp", "number", "highest temperature in the 24 h from 9 am", "degC", -15, 55),
    Column("Rainfall", "number", "rain in the 24 h to 9 am", "mm", 0, 500),
    Column("Evaporation", "number", "class A pan evaporation in the 24 h to 9 am", "mm", 0, 150),
    Column("Sunshine", "number", "bright sunshine in the 24 h to midnight", "h", 0, 14.5),
    Column("WindGustDir", "direction", "direction of the strongest gust in the 24 h to midnight"),
    Column("WindGustSpeed", "number", "speed of the strongest gust in the 24 h to midnight", "km/h", 0, 200),
    Column("WindDir9am", "direction", "wind direction at 9 am"),
    Column("WindDir3pm", "direction", "wind direction at 3 pm"),
    Column("WindSpeed9am", "number", "wind speed, mean of the 10 min before 9 am", "km/h", 0, 150),
    Column("WindSpeed3pm", "number", "wind speed, mean of the 10 min before 3 pm", "km/h", 0, 150),
    Column("Humidity9am", "number", "relative humidity at 9 am", "%", 0, 100),
    Column("Humidity3pm", "number", "relative humidity at 3 pm", "%", 0, 100),
    Column("Pressure9am", "number", "pressure at mean sea level at 9 am", "hPa", 950, 1050),
    Column("Pressure3pm", "number", "pressure at mean sea level at 3 pm", "hPa", 950, 1050),
    Column("Cloud9am", "number", "cloud amount at 9 am (9: sky obscured)", "oktas", 0, 9),
    Column("Cloud3pm", "number", "cloud amount at 3 pm (9: sky obscured)", "oktas", 0, 9),
    Column("Temp9am", "number", "temperature at 9 am", "degC", -15, 50),
    Column("Temp3pm", "number", "temperature at 3 pm", "degC", -15, 55),
    Column("RainToday", "yes_no", "more than 1 mm of rain in the 24 h to 9 am"),
)
TARGET = Column("RainTomorrow", "yes_no", "more than 1 mm of rain in the 24 h from 9 am: what is forecast")
# RISK_MM is tomorrow's rainfall. A file may contain both columns; neither is ever a measurement.
OUTCOME_COLUMNS = frozenset({"RISK_MM", TARGET.name})
NUMBERS = tuple(column.name for column in COLUMNS if column.kind == "number")
MEASUREMENTS = tuple(column.name for column in COLUMNS if column.kind not in ("date", "station"))
# Sunshine and the gust cover the time to midnight, MaxTemp to 9 am of the next day.
UNKNOWN_AT_3PM = ("MaxTemp", "Sunshine", "WindGustDir", "WindGustSpeed")
