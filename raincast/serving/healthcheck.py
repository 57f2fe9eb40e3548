"""Is this container healthy? `python -m raincast.health`: exit code 0 where it is, 1 where it is not.

A container that serves is healthy while GET /healthz answers 200. One that forecasts a file has no port to ask; it is
healthy for as long as it runs. The command of process 1 says which of them this is.
"""

from __future__ import annotations

import http.client
import itertools
import os
import sys
from pathlib import Path

TIMEOUT_SECONDS = 3.0


def served_port(arguments: list[str], port: str) -> int | None:
    """The port that a command serves on, None where it does not serve; `port` where it has no --port."""
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
        print(f"no answer on port {port}: {error}")
        return 1
    print(f"/healthz: {status}")
    return int(status != 200)


if __name__ == "__main__":
    sys.exit(main())
