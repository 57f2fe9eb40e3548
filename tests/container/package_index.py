"""A package index on this machine, with TLS and a password, that asks a public one for what it is asked for."""

from __future__ import annotations

import base64
import http.server
import os
import re
import ssl
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

USER, PASSWORD = "robot", "a-password-of-the-index"
LOGIN = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
PUBLIC = os.environ.get("PIP_INDEX_URL") or "https://pypi.org/simple"


@dataclass
class Index:
    """A running index: its URL with user and password, its authority's certificate, and the packages asked for."""

    url: str
    authority: Path
    asked: list[tuple[str, str]] = field(default_factory=list)

    def packages(self, program: str) -> set[str]:
        """Return the packages for which a program asked with the password."""
        return {package for client, package in self.asked if client == program}


class Handler(http.server.BaseHTTPRequestHandler):
    """Responds with the pages of the public index to those who have the password; one index runs at a time."""

    index: Index

    def do_GET(self) -> None:  # pylint: disable=invalid-name
        """Respond with a page of the public index, or with 401."""
        if self.headers["Authorization"] != LOGIN:
            self.reply(401, b"", **{"WWW-Authenticate": 'Basic realm="index"'})
            return
        client = self.headers["User-Agent"].partition("/")[0]
        self.index.asked.append((client, self.path.rstrip("/").rpartition("/")[2]))
        url = urllib.parse.urljoin(PUBLIC, self.path)
        request = urllib.request.Request(url, headers={"Accept": self.headers["Accept"] or "*/*"})
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                self.reply(200, response.read(), **{"Content-Type": response.headers["Content-Type"]})
        except urllib.error.HTTPError as error:
            self.reply(error.code, b"")

    def reply(self, status: int, content: bytes, **headers: str) -> None:
        """Respond with a content."""
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # pylint: disable=redefined-builtin
        """Log nothing."""


@contextmanager
def running_index(folder: Path) -> Iterator[Index]:
    """Run an index whose certificate is signed by an authority that no system knows."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        encrypt(server, folder)
        path = urllib.parse.urlsplit(PUBLIC).path
        host = f"127.0.0.1:{server.server_address[1]}"
        Handler.index = Index(f"https://{USER}:{PASSWORD}@{host}{path}", folder / "authority.pem")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Handler.index
        server.shutdown()


def encrypt(server: http.server.HTTPServer, folder: Path) -> None:
    """Make a server use TLS, with a certificate of this machine that a new authority signs: authority.pem."""
    new = ("req", "-newkey", "rsa:2048", "-nodes", "-days", "2")
    alternative = folder / "alternative"
    alternative.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n", encoding="utf-8")
    for call in (
        (*new, "-x509", "-subj", "/CN=authority", "-keyout", "authority.key", "-out", "authority.pem"),
        (*new, "-subj", "/CN=index", "-keyout", "server.key", "-out", "server.csr"),
        ("x509", "-req", "-in", "server.csr", "-CA", "authority.pem", "-CAkey", "authority.key", "-CAcreateserial",
         "-days", "2", "-extfile", alternative, "-out", "server.pem"),
    ):  # fmt: skip
        subprocess.run(["openssl", *call], cwd=folder, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    # The handshake is in the thread of a request.
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)


def required(path: Path) -> set[str]:
    """Return the names of the packages that a lock file pins."""
    return set(re.findall(r"^([\w.-]+)==", path.read_text(encoding="utf-8"), re.MULTILINE))
