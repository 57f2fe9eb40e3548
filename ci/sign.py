"""Sign the published image with the identity of the job.

    python3 -m ci.sign

image.env names the image by its digest; the signature is keyless, with the job's SIGSTORE_ID_TOKEN. A pipeline without
this token signs nothing. The bill of materials and the provenance are attached by `ci.image publish` and name the
digest that is signed.

Needs cosign, and no package of Python. Exit code: 0 signed, or no token; 1 not signed; 2 wrong call.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from ci import programs

ROOT = Path(__file__).resolve().parent.parent
ACCOUNT = ("CI_REGISTRY", "CI_REGISTRY_USER", "CI_REGISTRY_PASSWORD")


def main() -> int:
    """Sign the image and return the exit code."""
    if not os.environ.get("SIGSTORE_ID_TOKEN"):
        print("not signed: this pipeline has no SIGSTORE_ID_TOKEN")
        return 0
    path = ROOT / "image.env"
    unset = [name for name in ACCOUNT if not os.environ.get(name)]
    if unset or not path.exists():
        reason = f"set {', '.join(unset)}" if unset else "there is no image.env; `make publish` writes it"
        print(f"ci.sign: {reason}", file=sys.stderr)
        return 2
    programs.require("cosign")
    image = path.read_text(encoding="utf-8").strip().removeprefix("IMAGE=")
    registry, user, password = (os.environ[name] for name in ACCOUNT)
    login = ["cosign", "login", registry, "--username", user, "--password-stdin"]
    for call, stdin in ((login, f"{password}\n"), (["cosign", "sign", image], "")):
        done = subprocess.run(call, input=stdin, text=True, env=os.environ | {"COSIGN_YES": "true"}, check=False)
        if done.returncode:
            print(f"ci.sign: {' '.join(call[:2])}: exit code {done.returncode}", file=sys.stderr)
            return 1
    print(f"signed {image}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
