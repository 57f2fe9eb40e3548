#!/usr/bin/env python3
"""Observations -> verified, saved model.

train.py                               train on the bundled observations, save to model/
train.py --data PATH|URL               train on your record (RAINCAST_DATA, RAINCAST_DATA_SHA256)
train.py --verify-from 2015-07-01      train before this date, verify from it on
"""

from __future__ import annotations

# pylint: disable=wrong-import-position,wrong-import-order
from raincast import signals

if __name__ == "__main__":
    # Before the imports that take time.
    signals.exit_on_signals()

import argparse
import os
from functools import partial
from pathlib import Path

# Libraries read these on import. By default a waiting OpenMP thread spins so long that two fits at once on two cores
# take many times as long as one after the other; a shorter spin does not slow a single fit. Telemetry of MLflow and
# onnxruntime is off.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from raincast import cli
from raincast.forecasting import model
from raincast.observations import download, reading
from raincast.observations.columns import TARGET
from raincast.redaction import redact
from raincast.training import (
    bundle,
    data_checks,
    evaluation,
    fit,
    forms,
    model_card,
    onnx_export,
    sklearn_pipeline,
    splits,
)
from raincast.training.config import ModelConfig
from raincast.training.progress import stage

BUNDLED = Path(__file__).resolve().parent / "data" / "observations.csv.gz"


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; flags default to RAINCAST_* in the environment."""
    parser = cli.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", default=cli.setting("DATA", str(BUNDLED)), help="path or URL (RAINCAST_DATA; default: bundled)")
    add("--sha256", default=cli.setting("DATA_SHA256"), help="the data's expected SHA-256, packed or unpacked")
    add("--verify-from", default=cli.setting("VERIFY_FROM"), help="YYYY-MM-DD (default: the last 20 %%)")
    add("--out", default=cli.setting("OUT", str(model.DIRECTORY)), type=Path, help="model directory")
    trees = cli.setting("ITERATIONS", str(ModelConfig.iterations))
    add("--iterations", type=cli.positive, default=trees, help="trees (default: %(default)s)")
    quiet = bool(cli.setting("NO_TRACKING"))
    add("--no-tracking", action="store_true", default=quiet, help="do not log the run to MLflow")
    return parser.parse_args(argv)


def train(given: argparse.Namespace) -> None:
    """Read, check, fit, export, verify, save, log."""
    config = ModelConfig(iterations=given.iterations)
    bundle.check_target(given.out)
    name = redact(given.data)
    with download.local_copy(given.data) as path, stage(f"reading {name}"):
        data_sha256 = download.verified_sha256(name, path, given.sha256)
        table = reading.read(path, name=name, target=True)
        data_checks.check(name, table)
    obs = table.pop(TARGET.name)
    training_rows, verification_rows = splits.split(table, obs, config, given.verify_from)
    with stage("computing features"):
        matrices = forms.form_matrices(table)
    with stage("choosing the threshold"):
        threshold = fit.choose_threshold(table, matrices, obs, training_rows, config)
    with stage(f"fitting {config.iterations} trees"):
        fitted = fit.fit_trees(matrices, obs, training_rows, config)
    with stage("exporting"):
        graphs = onnx_export.export(fitted, matrices)
    with stage("verifying"):
        session = model.session(graphs[model.GRAPH])
        fcsts = {form: model.run(session, matrix[verification_rows]) for form, matrix in matrices.items()}
        results = evaluation.verify(table, obs, (training_rows, verification_rows), fcsts, threshold)
        importance = evaluation.permutation_importance(partial(model.run, session), table, obs, verification_rows)
    print(model_card.as_text(model_card.score_table(results)))
    with stage(f"saving {given.out}"):
        pipeline = sklearn_pipeline.pipeline(fitted)
        description = bundle.provenance(config, table, training_rows, name, data_sha256)
        description |= {"threshold": threshold, "verification": results, "importance": importance}
        description |= {"parity": sklearn_pipeline.parity(fitted)}
        bundle.save(
            given.out,
            description,
            graphs | {model.PIPELINE: sklearn_pipeline.dumped(pipeline)},
            partial(model_card.write, fcsts=fcsts, obs=obs[verification_rows]),
        )
    if not given.no_tracking:
        from raincast.lifecycle import tracking  # pylint: disable=import-outside-toplevel

        # MLflow notes in its store that the run has failed.
        with stage("logging the run to MLflow"), signals.orderly():
            tracking.log(given.out, pipeline, table)


if __name__ == "__main__":
    cli.main(lambda: train(arguments()))
