"""Images in a registry: copies, digests and tags, through skopeo."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
import os
import re
import subprocess
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

# The error codes of the OCI distribution specification for an image or a repository that does not exist.
ABSENT = {"MANIFEST_UNKNOWN", "NAME_UNKNOWN"}
MANIFEST_TYPES = ", ".join(
    f"application/vnd.{name}+json"
    for name in (
        "oci.image.index.v1",
        "oci.image.manifest.v1",
        "docker.distribution.manifest.list.v2",
        "docker.distribution.manifest.v2",
    )
)
TIMEOUT_SECONDS = 30
# Of the OCI distribution specification. Git permits more, such as a slash or a plus.
TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


class CommandError(RuntimeError):
    """A program that builds or copies images failed; the message has the last lines that it printed."""


def printed(*call: object, stdin: bytes | None = None) -> bytes:
    """Run a program and return what it prints on standard output. Raises CommandError."""
    words = [str(word) for word in call]
    done = subprocess.run(words, input=stdin, capture_output=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()[-15:]
        raise CommandError(f"{' '.join(words[:3])} ...: exit code {done.returncode}\n" + "\n".join(lines))
    return done.stdout


def run(*call: object) -> str:
    """Run a program and return what it prints as text, without white space around it. Raises CommandError."""
    return printed(*call).decode().strip()


def without_tag(image: str) -> str:
    """Return an image's name for skopeo, which takes a tag or a digest, but not both."""
    return re.sub(r":[\w.-]+(?=@sha256:)", "", image)


def is_local(name: str) -> bool:
    """Tell if an image or a registry is on this machine. Such registries use plain HTTP."""
    return name.split("/")[0].split(":")[0] in ("127.0.0.1", "localhost")


def tls(*references: str, flag: str = "--tls-verify") -> list[str]:
    """Return the flag that permits plain HTTP if one of the images is in a registry on this machine."""
    return [f"{flag}=false"] if any(map(is_local, references)) else []


def log_in() -> None:
    """Log in to GitLab's registry, and to that of BASE_IMAGE, with the variables of the job. No password is shown.

    Raises CommandError.
    """
    env = os.environ.get
    accounts = {env("CI_REGISTRY"): (env("CI_REGISTRY_USER"), env("CI_REGISTRY_PASSWORD"))}
    base = env("BASE_IMAGE") or ""
    host, logins = base.partition("/")[0], _job_logins()
    proxies = (env(f"CI_DEPENDENCY_PROXY_{kind}_IMAGE_PREFIX") for kind in ("GROUP", "DIRECT_GROUP"))
    if any(proxy and base.startswith(f"{proxy}/") for proxy in proxies):
        accounts[host] = (env("CI_DEPENDENCY_PROXY_USER"), env("CI_DEPENDENCY_PROXY_PASSWORD"))
    elif host in logins and host not in accounts:
        user, _, password = base64.b64decode(logins[host]).decode().partition(":")
        accounts[host] = (user, password)
    for server, (name, secret) in accounts.items():
        if server and name and secret:
            call = ["skopeo", "login", *tls(server), "--username", name, "--password-stdin", server]
            printed(*call, stdin=secret.encode())


def _job_logins() -> dict[str, str]:
    """Return the accounts of DOCKER_AUTH_CONFIG, with which the runner pulls the images of jobs, by registry.

    Raises CommandError.
    """
    try:
        entries = json.loads(os.environ.get("DOCKER_AUTH_CONFIG") or "{}").get("auths", {})
        return {host: entry["auth"] for host, entry in entries.items() if "auth" in entry}
    except (ValueError, AttributeError, TypeError) as error:
        raise CommandError("DOCKER_AUTH_CONFIG is not a configuration of Docker with `auths`") from error


def digest(reference: str) -> str | None:
    """Return the digest of an image in a registry, or None if the registry has no such image. Raises CommandError."""
    try:
        return sha256(printed("skopeo", "inspect", *tls(reference), "--raw", f"docker://{without_tag(reference)}"))
    except CommandError:
        # skopeo of Debian 12 exits with 1 for every error; the registry's own response has a code.
        if is_absent(reference):
            return None
        raise


def is_absent(reference: str) -> bool:
    """Ask the registry, and tell if it responds that it has no such image. False if it cannot be asked."""
    host, _, path = without_tag(reference).partition("/")
    name, _, version = path.partition("@") if "@" in path else path.rpartition(":")
    url = f"{'http' if is_local(host) else 'https'}://{host}/v2/{name}/manifests/{version}"
    try:
        status, headers, body = _get(url, Accept=MANIFEST_TYPES)
        if status == 401:
            authorization = _authorization(host, headers["www-authenticate"])
            status, _, body = _get(url, Accept=MANIFEST_TYPES, Authorization=authorization)
        return status == 404 and bool(ABSENT & {error["code"] for error in json.loads(body)["errors"]})
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _get(url: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers with names in lower case, and body of a GET."""
    # A proxy for the internet does not lead to this machine.
    local = [urllib.request.ProxyHandler({})] if is_local(urllib.parse.urlsplit(url).netloc) else []
    opener = urllib.request.build_opener(*local)
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_SECONDS) as response:
            return response.status, {k.lower(): v for k, v in response.headers.items()}, response.read()
    except urllib.error.HTTPError as error:
        return error.code, {k.lower(): v for k, v in error.headers.items()}, error.read()


def _authorization(host: str, challenge: str) -> str:
    """Return the Authorization header that a registry asks for, by the token protocol of Docker's registries.

    https://distribution.github.io/distribution/spec/auth/token/
    """
    login = _stored_login(host)
    basic = {"Authorization": f"Basic {login}"} if login else {}
    scheme, _, rest = challenge.partition(" ")
    if scheme.lower() != "bearer":
        return basic["Authorization"]
    parameters = dict(re.findall(r'(\w+)="([^"]*)"', rest))
    realm = parameters.pop("realm")
    _, _, body = _get(f"{realm}?{urllib.parse.urlencode(parameters)}", **basic)
    given: dict[str, Any] = json.loads(body)
    return f"Bearer {given.get('token') or given['access_token']}"


def _stored_login(host: str) -> str | None:
    """Return user and password of a registry in base64 from the file that `skopeo login` or `docker login` wrote."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    paths = [
        Path(os.environ.get("REGISTRY_AUTH_FILE") or "/nonexistent"),
        Path(runtime or f"/run/containers/{os.getuid()}", *(["containers"] if runtime else []), "auth.json"),
        Path.home() / ".docker" / "config.json",
    ]
    for path in paths:
        if path.is_file():
            login = json.loads(path.read_bytes()).get("auths", {}).get(host, {}).get("auth")
            if login:
                return str(login)
    return None


def created(reference: str) -> dt.datetime | None:
    """Return when an image in a registry was created, or None if there is none. Ours have the time of their commit."""
    if digest(reference) is None:
        return None
    config = json.loads(printed("skopeo", "inspect", *tls(reference), "--config", f"docker://{without_tag(reference)}"))
    return dt.datetime.fromisoformat(config["created"])


def sha256(content: bytes) -> str:
    """Return the digest of a content in the form that registries use."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def fetch(reference: str, folder: Path) -> None:
    """Copy an image from a registry into a folder, with its layers uncompressed."""
    run("skopeo", "copy", "--quiet", *tls(reference, flag="--src-tls-verify"), "--dest-decompress",
        f"docker://{reference}", f"dir:{folder}")  # fmt: skip


def push(folder: Path, reference: str) -> str:
    """Copy an image from a folder to a registry and return its digest there."""
    with tempfile.NamedTemporaryFile("r", prefix="digest-") as file:
        run("skopeo", "copy", "--quiet", *tls(reference, flag="--dest-tls-verify"), "--digestfile", file.name,
            f"dir:{folder}", f"docker://{reference}")  # fmt: skip
        return file.read().strip()


def tag(repository: str, from_digest: str, name: str) -> None:
    """Make a tag of a repository point to the image with a digest."""
    flags = tls(repository, flag="--src-tls-verify") + tls(repository, flag="--dest-tls-verify")
    run("skopeo", "copy", "--quiet", "--all", "--preserve-digests", *flags,
        f"docker://{repository}@{from_digest}", f"docker://{repository}:{name}")  # fmt: skip
