"""The forms in which an observation may come: complete or as known at 3 pm, with context or as a single row."""

from __future__ import annotations

import numpy as np

from raincast.features.build import build_features, context_mask
from raincast.observations.table import Table, as_known_at_3pm
from raincast.verification import Array

CONTEXT, SINGLE_ROW = "with context", "single row"
CONTEXT_3PM, SINGLE_ROW_3PM = f"{CONTEXT}, as known at 3 pm", f"{SINGLE_ROW}, as known at 3 pm"


def form_matrices(table: Table) -> dict[str, Array]:
    """Return the feature matrix of a table in each form in which an observation may come.

    Complete or as known at 3 pm, each with its context and as single rows. Without context in the table (no dates) the
    two forms with context do not exist.
    """
    matrices = {}
    for with_context, single_row, matrix in (
        (CONTEXT, SINGLE_ROW, build_features(table)),
        (CONTEXT_3PM, SINGLE_ROW_3PM, build_features(as_known_at_3pm(table))),
    ):
        if not np.isnan(matrix[:, context_mask()]).all():
            matrices[with_context] = matrix
        matrices[single_row] = np.where(context_mask(), np.nan, matrix)
    return matrices
