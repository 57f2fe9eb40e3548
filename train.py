#!/usr/bin/env python3
"""Observations -> verified, saved model.

train.py                               train on the bundled observations, save to model/
train.py --data PATH|URL               train on your record (RAINCAST_DATA, RAINCAST_DATA_SHA256)
train.py --verify-from 2015-07-01      train before this date, verify from it on
"""

from __future__ import annotations

# pylint: disable=wrong-import-position
import argparse
import os
import sys
from functools import partial
from pathlib import Path

# Libraries read these once, when they are loaded. An OpenMP thread that waits spins, by default for so long that two
# fits at once on two cores take many times as long as one after the other; shorter spinning shares the cores fairly and
# costs a quiet machine nothing. And neither MLflow nor onnxruntime is to tell anyone that it was imported.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from raincast import command, model, onnx_export, quality, reading, report, source, training
from raincast.observations import TARGET
from raincast.progress import stage

BUNDLED = Path(__file__).resolve().parent / "data" / "observations.csv.gz"


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; flags default to RAINCAST_* in the environment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", default=command.setting("DATA", str(BUNDLED)), help="path or URL (RAINCAST_DATA; default: bundled)")
    add("--sha256", default=command.setting("DATA_SHA256"), help="the data's expected SHA-256, packed or unpacked")
    add("--verify-from", default=command.setting("VERIFY_FROM"), help="YYYY-MM-DD (default: the last 20 %%)")
    add("--out", default=command.setting("OUT", str(model.DIRECTORY)), type=Path, help="model directory")
    trees = command.setting("ITERATIONS", str(training.ModelConfig.iterations))
    add("--iterations", type=command.positive, default=trees, help="trees (default: %(default)s)")
    quiet = bool(command.setting("NO_TRACKING"))
    add("--no-tracking", action="store_true", default=quiet, help="do not log the run to MLflow")
    return parser.parse_args(argv)


def train(given: argparse.Namespace) -> None:
    """Read, check, fit, verify, export, save, log."""
    config = training.ModelConfig(iterations=given.iterations)
    model.check_target(given.out)
    name = source.shown(given.data)
    with source.local(given.data) as path, stage(f"reading {name}"):
        data_sha256 = source.verified_sha256(name, path, given.sha256)
        table = reading.read(path, name=name, target=True)
        quality.check(name, table)
    obs = table.pop(TARGET.name)
    known, verified = training.split(table, obs, config, given.verify_from)
    with stage("making features"):
        matrices = training.forms(table)
    with stage("choosing the threshold"):
        threshold = training.threshold(table, matrices, obs, known, config)
    with stage(f"fitting {config.iterations} trees"):
        fitted = training.fit(matrices, obs, known, config)
    with stage("exporting"):
        graphs = onnx_export.export(fitted, matrices)
    with stage("verifying"):
        session = model.session(graphs[model.GRAPH])
        fcsts = {form: model.run(session, matrix[verified]) for form, matrix in matrices.items()}
        results = training.verify(table, obs, (known, verified), fcsts, threshold)
        importance = report.permutation_importance(lambda matrix: model.run(session, matrix), table, obs, verified)
    print(report.as_text(report.score_table(results)))
    with stage(f"saving {given.out}"):
        pipeline = training.pipeline(fitted)
        description = training.describe(config, table, known, name, data_sha256)
        description |= {"threshold": threshold, "verification": results, "importance": importance}
        description |= {"parity": training.parity(fitted)}
        model.save(
            given.out,
            description,
            graphs | {model.PIPELINE: training.dumped(pipeline)},
            partial(report.write, fcsts=fcsts, obs=obs[verified]),
        )
    if not given.no_tracking:
        from raincast import tracking  # pylint: disable=import-outside-toplevel

        with stage("logging the run to MLflow"):
            tracking.log(given.out, pipeline, table)


if __name__ == "__main__":
    sys.exit(command.run(lambda: train(arguments())))
