#!/usr/bin/env python3
"""A kubectl without a cluster: it records its calls in $RECORD and responds as $CLUSTER says.

It passes the commands that need no cluster, kustomize and proxy, to the real kubectl; $API stands for the API server.
"""

import json
import os
import sys

RESPONSES: dict[tuple[str, ...], str] = {
    ("get", "deployment/raincast"): {"first": ""}.get(os.environ["CLUSTER"], "7"),
    ("apply", "-f"): "deployment.apps/raincast configured",
    ("rollout", "status"): 'deployment "raincast" successfully rolled out',
    ("rollout", "undo"): "deployment.apps/raincast rolled back",
    ("get", "pods"): "raincast-abc-1   0/1   CrashLoopBackOff   4",
    ("logs", "-l"): "[pod/raincast-abc-1/raincast] prediction.py: model.onnx: SHA-256 differs",
    ("get", "events"): "\n".join(f"{i}m   Warning   BackOff   pod/raincast-abc-1   event {i}" for i in range(50)),
}


def play() -> int:
    """Respond to a call and return the exit code."""
    arguments = sys.argv[1:]
    cluster, real = os.environ["CLUSTER"], os.environ["REAL_KUBECTL"]
    with open(os.environ["RECORD"], "a", encoding="utf-8") as record:
        stdin = sys.stdin.read() if "-f" in arguments else ""
        print(json.dumps({"arguments": arguments, "stdin": stdin}), file=record)
    options = 4 if arguments[0] == "--context" else 2
    verb = tuple(arguments[options : options + 2])
    if verb[0] == "kustomize":
        os.execv(real, [real, *arguments[options:]])
    if cluster == "unreachable":
        print("Unable to connect to the server: dial tcp 127.0.0.1:6443: connect: connection refused", file=sys.stderr)
        return 1
    if verb[0] == "proxy":
        os.execv(real, [real, "--server", os.environ["API"], *arguments[options:]])
    undone = os.path.exists(os.environ["RECORD"] + ".undone")
    if verb == ("rollout", "status") and not undone and cluster in ("stuck", "first", "cannot undo"):
        print('error: deployment "raincast" exceeded its progress deadline', file=sys.stderr)
        return 1
    if verb == ("apply", "-f") and cluster == "forbidden":
        print('Error from server (Forbidden): deployments.apps "raincast" is forbidden', file=sys.stderr)
        return 1
    if verb == ("rollout", "undo"):
        if cluster == "cannot undo":
            print("error: unable to find specified revision 7 in history", file=sys.stderr)
            return 1
        with open(os.environ["RECORD"] + ".undone", "w", encoding="utf-8"):
            pass
    print(RESPONSES[verb])
    return 0


sys.exit(play())
