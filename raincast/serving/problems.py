"""Problem documents, https://www.rfc-editor.org/rfc/rfc9457: the responses to requests that cannot be forecast."""

from __future__ import annotations

import sys
import traceback
from http import HTTPStatus
from typing import Any

import msgspec

from raincast.observations.errors import FormatError, ObservationError, shorten
from raincast.serving.messages import ProblemDocument, Violation

CONTENT_TYPE = "application/problem+json"
LONGEST_DETAIL = 2_000


class Problem(Exception):
    """A refusal: HTTP status, kind (as counted in the metrics), detail, and further members of the document."""

    def __init__(self, status: int, kind: str, detail: str, **members: Any) -> None:
        super().__init__(detail)
        self.status, self.kind, self.members = status, kind, members
        self.headers: tuple[tuple[bytes, bytes], ...] = ((b"retry-after", b"1"),) if status == 503 else ()
        self.detail = shorten(detail, LONGEST_DETAIL)

    @classmethod
    def of(cls, error: ObservationError) -> Problem:
        """Return 400 for a body that is neither JSON nor CSV, 422 for observations that break a limit, each named."""
        if isinstance(error, FormatError):
            return cls(400, "format", str(error))
        violations = [
            Violation(violation.row, violation.column, shorten(violation.value), violation.limit)
            for violation in error.violations
        ]
        return cls(422, "observations", str(error), count=error.count or 1, problems=violations)

    @classmethod
    def internal(cls, error: Exception) -> Problem:
        """Return the problem of an unexpected error, whose traceback is written to standard error."""
        traceback.print_exception(error, file=sys.stderr)
        return cls(500, "internal", "an unexpected error of the service; its standard error has the traceback")

    def document(self, **members: str) -> bytes:
        """Return the problem document, with further members."""
        title = HTTPStatus(self.status).phrase
        document = ProblemDocument("about:blank", title, self.status, self.detail, self.kind)
        return msgspec.json.encode(msgspec.to_builtins(document) | self.members | members)
