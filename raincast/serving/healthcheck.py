"""Health check of the container, `python -m raincast.serving.healthcheck`: exit code 0 if healthy, else 1.

A container that serves is healthy while GET /healthz responds with 200. One that forecasts a file has no port and is
healthy while it runs. The command of process 1 tells which of the two this is.
"""

from __future__ import annotations

import http.client
import itertools
import os
import sys
from pathlib import Path

TIMEOUT_SECONDS = 3.0


def served_port(arguments: list[str], port: str) -> int | None:
    """Return the port on which a command serves, by default `port`; None if it does not serve."""
    if "serve" not in arguments:
        return None
    flags = arguments[arguments.index("serve") + 1 :]
    for flag, value in itertools.zip_longest(flags, flags[1:], fillvalue=""):
        if flag == "--port":
            port = value
        elif flag.startswith("--port="):
            port = flag.partition("=")[2]
    return int(port)


def main(command: Path = Path("/proc/1/cmdline")) -> int:
    """Ask the service, if there is one, and return the exit code."""
    arguments = command.read_bytes().decode(errors="replace").split("\0")
    port = served_port(arguments, os.environ.get("RAINCAST_PORT") or "8080")
    if port is None:
        return 0
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/healthz")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        print(f"no response on port {port}: {error}")
        return 1
    print(f"/healthz: {status}")
    return int(status != 200)


if __name__ == "__main__":
    sys.exit(main())
