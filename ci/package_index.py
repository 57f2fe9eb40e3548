"""The package index for the image build, with its password and its certificates, which must not be in the image.

They are neither arguments nor layers of the image: buildah mounts them only while a command of the Dockerfile runs.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path

# The Dockerfile reads the settings from there.
MOUNTED = Path("/run/package-index")
SETTINGS = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "PIP_DEFAULT_TIMEOUT", "PIP_RETRIES")


def mount(folder: Path, env: Mapping[str, str] = os.environ) -> list[str]:
    """Write the settings of this environment to a folder, and return the flags by which `buildah build` mounts them."""
    settings = {name: env[name] for name in SETTINGS if env.get(name)}
    certificates = env.get("PIP_CERT") or env.get("SSL_CERT_FILE")
    if certificates:
        shutil.copyfile(certificates, folder / "certificates.pem")
        settings |= dict.fromkeys(("PIP_CERT", "SSL_CERT_FILE"), str(MOUNTED / "certificates.pem"))
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in settings.items()]
    (folder / "settings").write_text("".join(lines), encoding="utf-8")
    # Not read-only: in a job without CAP_SYS_ADMIN that fails if the folder is on a tmpfs.
    return ["--volume", f"{folder}:{MOUNTED}"]
