"""Check that the programs that a command calls are installed.

    python -m ci.programs PROGRAM ...

Needs no package of Python. Exit code: 0 all are installed; 1 one is not, and the message says how to get it.
"""

from __future__ import annotations

import shutil
import sys

# Debian packages with another name than their program.
PACKAGES = {"docker": "docker.io", "kubectl": "kubernetes-client", "promtool": "prometheus"}
# Programs that Debian 12 does not package.
SOURCES = {
    "checkov": "`make manifests` installs it",
    "cosign": "see https://docs.sigstore.dev/cosign/system_config/installation/",
    "gitlab-ci-local": "`make pipeline` installs it",
    "kubernetes-validate": "`make manifests` installs it",
}


def require(*programs: str) -> None:
    """Exit with code 1 and one line on standard error if one of the programs is not on PATH."""
    missing = [name for name in programs if shutil.which(name) is None]
    if missing:
        sys.exit(advice(missing))


def advice(missing: list[str]) -> str:
    """Return the line that names missing programs and says how to get them."""
    packages = [PACKAGES.get(name, name) for name in missing if name not in SOURCES]
    ways = [f"on Debian: apt-get install {' '.join(packages)}"] if packages else []
    ways += [f"{name}: {SOURCES[name]}" if len(missing) > 1 else SOURCES[name] for name in missing if name in SOURCES]
    return f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed; {'; '.join(ways)}"


if __name__ == "__main__":
    require(*sys.argv[1:])
