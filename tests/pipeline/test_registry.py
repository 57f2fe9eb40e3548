"""Questions to a registry: an absent image is told from a failure by the registry's error code."""

from __future__ import annotations

import base64
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from ci import registry
from tests.conftest import ROOT, needs
from tests.container.package_index import encrypt

LOGIN = base64.b64encode(b"robot:s3cret").decode()
ERRORS = {
    "absent": (404, {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "nobody reads this"}]}),
    "no-repository": (404, {"errors": [{"code": "NAME_UNKNOWN"}]}),
    "no-registry": (404, {"message": "Not Found"}),
    "denied": (403, {"errors": [{"code": "DENIED"}]}),
    "broken": (500, {"errors": [{"code": "UNKNOWN"}]}),
}


class Registry(http.server.BaseHTTPRequestHandler):
    """Responds to a repository with the error of its name, to those with a token if the name starts with private."""

    def do_GET(self) -> None:  # pylint: disable=invalid-name
        """Respond with a token or with an error."""
        url = urlsplit(self.path)
        if url.path == "/token":
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            known = self.headers["Authorization"] == f"Basic {LOGIN}"
            assert query["service"] == "registry"
            self.reply(200 if known else 401, {"token": query["scope"]} if known else {})
            return
        repository = url.path.removeprefix("/v2/").partition("/manifests/")[0]
        scope = f"repository:{repository}:pull"
        if url.path == "/v2/":
            self.reply(200, {})
        elif repository.startswith("private") and self.headers["Authorization"] != f"Bearer {scope}":
            realm = f"http://{self.headers['Host']}/token"
            self.reply(401, {}, f'Bearer realm="{realm}",service="registry",scope="{scope}"')
        else:
            self.reply(*ERRORS[repository.rpartition("/")[2]])

    do_HEAD = do_GET

    def reply(self, status: int, document: Any, challenge: str | None = None) -> None:
        """Respond with a document."""
        content = json.dumps(document).encode()
        self.send_response(status)
        if challenge:
            self.send_header("WWW-Authenticate", challenge)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # pylint: disable=redefined-builtin
        """Log nothing."""


@pytest.fixture(name="skopeo")
def fixture_skopeo() -> None:
    """Ask for skopeo on this machine."""
    needs("skopeo")


@pytest.fixture(name="host", scope="module")
def fixture_host() -> Iterator[str]:
    """Host and port of a registry that has no image."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture(name="login", autouse=True)
def fixture_login(host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a login at the registry."""
    path = tmp_path / "auth.json"
    path.write_text(json.dumps({"auths": {host: {"auth": LOGIN}}}), encoding="utf-8")
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(path))
    return path


@pytest.mark.parametrize(
    ("repository", "absent"),
    [("absent", True), ("no-repository", True), ("no-registry", False), ("denied", False), ("broken", False)],
)
@pytest.mark.parametrize("group", ["public", "private"])
@pytest.mark.parametrize("version", [":latest", f"@sha256:{'1' * 64}"])
def test_only_the_registry_says_that_an_image_is_absent(
    repository: str, absent: bool, group: str, version: str, host: str
) -> None:
    assert registry.is_absent(f"{host}/{group}/{repository}{version}") == absent


def test_without_a_login_a_private_image_is_not_called_absent(host: str, login: Path) -> None:
    login.write_text("{}", encoding="utf-8")
    assert registry.is_absent(f"{host}/public/absent:latest")
    assert not registry.is_absent(f"{host}/private/absent:latest")


def test_without_a_registry_no_image_is_called_absent() -> None:
    assert not registry.is_absent("127.0.0.1:1/public/absent:latest")


@pytest.mark.usefixtures("skopeo")
@pytest.mark.parametrize(
    ("account", "base"),
    [
        ({"DOCKER_AUTH_CONFIG": '{"auths": {"HOST": {"auth": "LOGIN"}}}'}, "HOST/private/python:3.11-slim"),
        (
            {
                "CI_DEPENDENCY_PROXY_GROUP_IMAGE_PREFIX": "HOST/rain/dependency_proxy/containers",
                "CI_DEPENDENCY_PROXY_USER": "robot",
                "CI_DEPENDENCY_PROXY_PASSWORD": "s3cret",
            },
            "HOST/rain/dependency_proxy/containers/python:3.11-slim",
        ),
        ({"CI_REGISTRY": "HOST", "CI_REGISTRY_USER": "robot", "CI_REGISTRY_PASSWORD": "s3cret"}, "docker.io/python"),
    ],
    ids=["a mirror", "the dependency proxy", "the project's registry"],
)
def test_the_job_logs_in_where_its_base_is(
    account: dict[str, str], base: str, host: str, login: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    login.write_text("{}", encoding="utf-8")
    for name, value in (account | {"BASE_IMAGE": base}).items():
        monkeypatch.setenv(name, value.replace("HOST", host).replace("LOGIN", LOGIN))
    registry.log_in()
    assert json.loads(login.read_text(encoding="utf-8"))["auths"] == {host: {"auth": LOGIN}}


@pytest.mark.parametrize("content", ["no JSON", "[]", '{"auths": {"registry.example.org": 1}}'])
def test_a_wrong_configuration_of_docker_is_named(content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_AUTH_CONFIG", content)
    with pytest.raises(registry.CommandError, match="DOCKER_AUTH_CONFIG is not a configuration of Docker"):
        registry.log_in()


@pytest.mark.usefixtures("skopeo")
def test_an_absent_image_has_no_digest_and_a_failure_is_an_error(host: str) -> None:
    assert registry.digest(f"{host}/private/absent:latest") is None
    assert registry.created(f"{host}/private/absent:latest") is None
    for repository in ("private/denied", "public/no-registry"):
        with pytest.raises(registry.CommandError, match="skopeo inspect"):
            registry.digest(f"{host}/{repository}:latest")


@pytest.mark.usefixtures("skopeo")
def test_a_registry_of_an_own_authority_is_trusted_with_its_certificate(tmp_path: Path) -> None:
    needs("openssl")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry) as server:
        encrypt(server, tmp_path)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        # In capitals it is not taken for a registry on this machine, for which plain HTTP is permitted.
        image = f"LOCALHOST:{server.server_address[1]}/public/absent:latest"

        def asked(**variables: str) -> str:
            env = os.environ | {"CA_FILE": "", "CI_SERVER_TLS_CA_FILE": ""} | variables
            bundle = subprocess.run(["ci/certificates"], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
            env |= {"SSL_CERT_FILE": bundle.stdout.strip()} if bundle.stdout else {}
            code = f"from ci import registry; print(registry.digest({image!r}))"
            done = subprocess.run(
                [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=False
            )
            return done.stdout + done.stderr

        assert "certificate signed by unknown authority" in asked()
        assert asked(CA_FILE=str(tmp_path / "authority.pem")) == "None\n"
        server.shutdown()
