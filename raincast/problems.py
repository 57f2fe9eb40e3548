"""What the service answers where it cannot forecast: problem documents, https://www.rfc-editor.org/rfc/rfc9457."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec

from raincast.observations import FormatError, ObservationError, shorten

CONTENT_TYPE = "application/problem+json"
LONGEST_DETAIL = 2_000


class Problem(Exception):
    """A refusal: HTTP status, kind (as counted in the metrics), what is wrong, and further members of the document."""

    def __init__(self, status: int, kind: str, detail: str, **members: Any) -> None:
        super().__init__(detail)
        self.status, self.kind, self.members = status, kind, members
        self.headers: tuple[tuple[bytes, bytes], ...] = ()
        self.detail = shorten(detail, LONGEST_DETAIL)

    @classmethod
    def of(cls, error: ObservationError) -> Problem:
        """400 for what is no JSON or CSV, 422 for observations that break a limit, each named."""
        if isinstance(error, FormatError):
            return cls(400, "format", str(error))
        problems = [
            {"row": problem.row, "column": problem.column, "value": shorten(problem.value), "limit": problem.limit}
            for problem in error.problems
        ]
        return cls(422, "observations", str(error), count=error.count or 1, problems=problems)

    def document(self) -> bytes:
        """The problem document."""
        document = {"type": "about:blank", "title": HTTPStatus(self.status).phrase, "status": self.status}
        return msgspec.json.encode(document | {"detail": self.detail, "kind": self.kind} | self.members)

    def raw(self) -> bytes:
        """A whole HTTP response that closes the connection."""
        body = self.document()
        return (
            f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}\r\ncontent-type: {CONTENT_TYPE}\r\n"
            f"content-length: {len(body)}\r\nretry-after: 1\r\nconnection: close\r\n\r\n"
        ).encode() + body
