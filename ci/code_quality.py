"""Write pylint's messages as the Code Quality report that GitLab shows in a merge request.

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
    """Reporter of GitLab's Code Quality format."""

    name = "code-quality"

    def display_messages(self, layout: Section | None) -> None:
        """Write the messages. A fingerprint does not change if lines above the message are added or removed."""
        entries = [
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
        json.dump(entries, self.out, indent=1)
        # pylint leaves the file to the garbage collector, which ci.pylint_speed turns off.
        self.out.flush()

    def display_reports(self, layout: Section) -> None:
        """Ignore statistics: the format has no place for them."""

    def _display(self, layout: Section) -> None:
        """Ignore the layout for the same reason."""


def register(linter: PyLinter) -> None:
    """Register the reporter: `pylint --load-plugins=ci.code_quality --output-format=code-quality:FILE`."""
    linter.register_reporter(CodeQuality)
