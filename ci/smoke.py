"""Compare a running service with the model that was built."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from typing import Any

from ci.cluster import Failure

# The same model and libraries reproduce the parity rows within this difference of probability.
TOLERANCE = 1e-9
# Fields of /version that have to be those of the model.
IDENTITY = ("model", "commit", "data_sha256", "model_sha256")


def expectation(image: str, description: dict[str, Any]) -> dict[str, Any]:
    """Return what a service with this image and the model of this description has to respond."""
    parity = description["parity"]
    return {
        "image": image,
        "model": description["version"],
        "commit": description["commit"],
        "data_sha256": description["data_sha256"],
        "model_sha256": description["files"]["model.onnx"],
        "parity": {name: parity[name] for name in ("observations", "together")},
    }


def smoke_test(url: str, expected: dict[str, Any], seconds: int) -> None:
    """Check that the service names the model that was built and reproduces its forecasts. Raises Failure."""
    end = time.monotonic() + seconds
    while True:
        try:
            compare(url, expected)
            return
        except Failure:
            # For some seconds after the rollout a draining pod may still get requests.
            if time.monotonic() > end:
                raise
            time.sleep(2)


def compare(url: str, expected: dict[str, Any]) -> None:
    """Compare the service with the model that was built. Raises Failure."""
    parity = expected["parity"]
    try:
        version = fetch(f"{url}/version")
        for name in IDENTITY:
            if version[name] != expected[name]:
                raise Failure(f"/version has {name} {version[name]}, expected {expected[name]}")
        response = fetch(f"{url}/forecast", {"observations": parity["observations"]})
        probabilities = [float(line["probability_of_rain"]) for line in response["forecasts"]]
    except (KeyError, TypeError, ValueError) as error:
        raise Failure(f"the service returns an unexpected document: {error!r}") from error
    together = parity["together"]
    if len(probabilities) != len(together) or not all(
        abs(a - b) <= TOLERANCE for a, b in zip(probabilities, together, strict=True)
    ):
        raise Failure(f"/forecast returns {probabilities}, expected {together}")


def fetch(url: str, body: Any = None) -> Any:
    """Return the JSON response to a GET, or to a POST if there is a body. Raises Failure."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    # Bypass the runner's proxy for the internet: kubectl proxy listens on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    path = url.rpartition("/proxy")[2]
    try:
        with opener.open(request, timeout=30) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        raise Failure(f"{path}: {error.code} {error.reason}: {error.read()[:500].decode(errors='replace')}") from error
    except (OSError, ValueError) as error:
        raise Failure(f"{path}: {error}") from error
