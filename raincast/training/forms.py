"""Forms of an observation: complete or as known at 3 pm, with context or as a single row."""

from __future__ import annotations

import numpy as np

from raincast.features.build import build_features, context_mask
from raincast.observations.table import Table, as_known_at_3pm
from raincast.verification import Array

CONTEXT, SINGLE_ROW = "with context", "single row"
CONTEXT_3PM, SINGLE_ROW_3PM = f"{CONTEXT}, as known at 3 pm", f"{SINGLE_ROW}, as known at 3 pm"


def form_matrices(table: Table) -> dict[str, Array]:
    """Return the feature matrix of a table in each form.

    The two forms with context are left out if no row has any, as in a table without dates.
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
