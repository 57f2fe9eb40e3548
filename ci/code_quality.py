"""pylint's messages as the Code Quality report that GitLab shows in a merge request.

Format: https://docs.gitlab.com/ci/testing/code_quality/#code-quality-report-format
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from pylint.reporters import BaseReporter

if TYPE_CHECKING:
    from pylint.lint import PyLinter
    from pylint.reporters.ureports.nodes import Section

SEVERITY = {"fatal": "blocker", "error": "critical", "warning": "major", "refactor": "minor", "convention": "minor"}


class CodeQuality(BaseReporter):
    """The reporter."""

    name = "code-quality"

    def display_messages(self, layout: Section | None) -> None:
        """Write the messages; a fingerprint stays the same while lines above it come and go."""
        found = [
            {
                "description": f"{message.msg_id}: {message.msg}",
                "check_name": message.symbol,
                "fingerprint": hashlib.sha256(
                    f"{message.path}{message.obj}{message.symbol}{message.msg}".encode()
                ).hexdigest(),
                "severity": SEVERITY.get(message.category, "info"),
                "location": {"path": message.path, "lines": {"begin": max(message.line, 1)}},
            }
            for message in self.messages
        ]
        json.dump(found, self.out, indent=1)

    def display_reports(self, layout: Section) -> None:
        """Statistics have no place in it."""

    def _display(self, layout: Section) -> None:
        """Nor have they here."""


def register(linter: PyLinter) -> None:
    """Let pylint know of it: `pylint --load-plugins=ci.code_quality --output-format=code-quality:FILE`."""
    linter.register_reporter(CodeQuality)
