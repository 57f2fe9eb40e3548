"""Write the notes of a release to reports/release-notes.md.

    python3 -m ci.release_notes

The notes are the section of CHANGELOG.md for the version in CI_COMMIT_TAG. Needs no package of Python. Exit code: 0
written; 1 CHANGELOG.md has no such section; 2 CI_COMMIT_TAG is not set.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def section(changelog: str, version: str) -> str:
    """Return the text below the heading of a version, `## VERSION` or `## VERSION, DATE`; "" if there is none."""
    lines: list[str] = []
    inside = False
    for line in changelog.splitlines():
        words = line.split()
        if words[:1] == ["##"]:
            inside = words[1:2] in ([version], [f"{version},"])
        elif inside:
            lines.append(line)
    return "\n".join(lines).strip()


def main() -> int:
    """Write the notes and return the exit code."""
    tag = os.environ.get("CI_COMMIT_TAG")
    if not tag:
        print("ci.release_notes: set CI_COMMIT_TAG to the tag of the release, such as v1.2.3", file=sys.stderr)
        return 2
    version = tag.removeprefix("v")
    notes = section((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), version)
    if not notes:
        print(f"CHANGELOG.md has no section for {version}", file=sys.stderr)
        return 1
    path = ROOT / "reports" / "release-notes.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{notes}\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
