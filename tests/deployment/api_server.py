"""A small Kubernetes API server for the real kubectl: objects, server-side apply, watch, and the proxy of a Service.

It follows the API as far as ci.deploy depends on it. Unlike there, a list belongs to a field manager as a whole,
admission is a few rules, and requests need no credentials. tests.deployment.controllers makes the pods.
"""

from __future__ import annotations

import copy
import http.server
import json
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.deployment.cluster import Object

Path = tuple[str, ...]
Key = tuple[str, str, str]
# Kinds by the path under which they are served: plural, kind, and if they are in a namespace.
KINDS = {
    "api/v1": {
        "namespaces": "Namespace",
        "configmaps": "ConfigMap",
        "services": "Service",
        "serviceaccounts": "ServiceAccount",
        "pods": "Pod",
        "events": "Event",
    },
    "apis/apps/v1": {"deployments": "Deployment", "replicasets": "ReplicaSet"},
    "apis/policy/v1": {"poddisruptionbudgets": "PodDisruptionBudget"},
    "apis/autoscaling/v2": {"horizontalpodautoscalers": "HorizontalPodAutoscaler"},
    "apis/networking.k8s.io/v1": {"ingresses": "Ingress", "networkpolicies": "NetworkPolicy"},
    "apis/coordination.k8s.io/v1": {"leases": "Lease"},
    "apis/gateway.networking.k8s.io/v1": {"httproutes": "HTTPRoute"},
    "apis/monitoring.coreos.com/v1": {"servicemonitors": "ServiceMonitor", "prometheusrules": "PrometheusRule"},
}
RESOURCE = re.compile(r"/(apis?(?:/[^/]+)?/v\d\w*)(?:/namespaces/([^/]+))?/([a-z]+)(?:/([^/]+))?(?:/(\w+)(/.*)?)?")


class Refused(Exception):
    """A request that gets an error."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.status = {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "code": code,
            "reason": reason,
            "message": message,
        }


@dataclass(frozen=True)
class Change:
    """An event of a watch."""

    version: int
    kind: str
    plural: str
    item: Object


class Store:
    """The objects by plural, namespace and name, and every change of them."""

    def __init__(self) -> None:
        self.objects: dict[Key, Object] = {}
        self.changes: list[Change] = []
        self.requests: list[str] = []
        self.changed = threading.Condition(threading.RLock())

    def get(self, plural: str, namespace: str, name: str) -> Object:
        """Return an object. Raises Refused."""
        if (plural, namespace, name) not in self.objects:
            raise Refused(404, "NotFound", f'{plural} "{name}" not found')
        return self.objects[plural, namespace, name]

    def of(self, plural: str, namespace: str = "") -> list[Object]:
        """Return all objects of a kind, of one namespace if it is named."""
        return [item for (p, n, _), item in self.objects.items() if p == plural and namespace in ("", n)]

    def put(self, plural: str, item: Object) -> Object:
        """Store an object as changed, if it differs from the one that is stored."""
        with self.changed:
            meta = item["metadata"]
            where = plural, meta.get("namespace", ""), meta["name"]
            before = self.objects.get(where)
            if before == item:
                return item
            self.admit(plural, item)
            version = len(self.changes) + 1
            if before is None:
                meta |= {
                    "uid": str(uuid.uuid4()),
                    "creationTimestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                }
            if before is None or before.get("spec") != item.get("spec"):
                meta["generation"] = meta.get("generation", 0) + 1
            meta["resourceVersion"] = str(version)
            self.objects[where] = item
            self.changes.append(Change(version, "MODIFIED" if before else "ADDED", plural, copy.deepcopy(item)))
            self.changed.notify_all()
            return item

    def admit(self, plural: str, item: Object) -> None:
        """Set defaults and check an object. Raises Refused."""
        namespace = item["metadata"].get("namespace")
        if namespace and ("namespaces", "", namespace) not in self.objects:
            raise Refused(404, "NotFound", f'namespaces "{namespace}" not found')
        spec = item.get("spec", {})
        if plural == "deployments":
            spec.setdefault("replicas", 1)
        if plural == "horizontalpodautoscalers" and spec["minReplicas"] > spec["maxReplicas"]:
            message = f"{item['metadata']['name']} is invalid: spec.maxReplicas: must be at least minReplicas"
            raise Refused(422, "Invalid", message)

    def delete(self, plural: str, namespace: str, name: str) -> Object:
        """Remove an object and return it. Raises Refused."""
        with self.changed:
            item = self.get(plural, namespace, name)
            del self.objects[plural, namespace, name]
            self.changes.append(Change(len(self.changes) + 1, "DELETED", plural, copy.deepcopy(item)))
            self.changed.notify_all()
            return item


def fields(value: Any) -> Object:
    """Return the fields of an object in the form of managedFields; a list is one field."""
    return {f"f:{name}": fields(inner) for name, inner in value.items()} if isinstance(value, dict) else {}


def leaves(owned: Object, path: Path = ()) -> Iterator[Path]:
    """Yield the paths of fields that have none below them."""
    for name, inner in owned.items():
        if name.startswith("f:"):
            below = (*path, name[2:])
            yield from leaves(inner, below) if inner else [below]


def tree(paths: set[Path]) -> Object:
    """Return paths in the form of managedFields."""
    root: Object = {}
    for path in sorted(paths):
        at = root
        for name in path:
            at = at.setdefault(f"f:{name}", {})
    return root


def content(item: Object) -> Object:
    """Return what a manager sets: all but what identifies the object and what the server sets."""
    known = ("name", "namespace", "uid", "creationTimestamp", "resourceVersion", "generation", "managedFields")
    inner = {name: value for name, value in item.items() if name not in ("apiVersion", "kind", "status")}
    metadata = {name: value for name, value in item["metadata"].items() if name not in known}
    del inner["metadata"]
    return inner | ({"metadata": metadata} if metadata else {})


def at_path(item: Any, path: Path) -> Any:
    """Return the value at a path, or None."""
    for name in path:
        if not isinstance(item, dict) or name not in item:
            return None
        item = item[name]
    return item


def set_path(item: Object, path: Path, value: Any) -> None:
    """Set a value, and objects on the way to it."""
    for name in path[:-1]:
        if not isinstance(item.get(name), dict):
            item[name] = {}
        item = item[name]
    item[path[-1]] = copy.deepcopy(value)


def drop_path(item: Object, path: Path) -> None:
    """Remove a value, and the objects around it that are empty then."""
    inner = item.get(path[0])
    if len(path) > 1 and isinstance(inner, dict):
        drop_path(inner, path[1:])
    if len(path) == 1 or inner == {}:
        item.pop(path[0], None)


def owners(item: Object) -> dict[tuple[str, str], set[Path]]:
    """Return the fields of each manager and operation."""
    entries = item["metadata"].get("managedFields", [])
    return {(entry["manager"], entry["operation"]): set(leaves(entry["fieldsV1"])) for entry in entries}


def own(item: Object, owned: dict[tuple[str, str], set[Path]]) -> None:
    """Write down the fields of each manager."""
    item["metadata"]["managedFields"] = [
        {
            "manager": manager,
            "operation": operation,
            "apiVersion": item["apiVersion"],
            "fieldsType": "FieldsV1",
            "fieldsV1": tree(paths),
        }
        for (manager, operation), paths in owned.items()
        if paths
    ]


def apply(live: Object, wanted: Object, manager: str, force: bool) -> None:
    """Apply to a live object as server-side apply does. Raises Refused."""
    applied, owned = content(wanted), owners(live)
    before = owned.get((manager, "Apply"), set())
    paths = set(leaves(fields(applied)))
    others = {who: theirs for who, theirs in owned.items() if who != (manager, "Apply")}
    for path in paths:
        if at_path(live, path) == at_path(applied, path):
            continue
        for (other, _), theirs in others.items():
            if path in theirs and not force:
                raise Refused(409, "Conflict", f'Apply failed: conflict with "{other}": .{".".join(path)}')
            theirs.discard(path)
    for path in before - paths:
        if not any(path in theirs for theirs in others.values()):
            drop_path(live, path)
    for path in paths:
        set_path(live, path, at_path(applied, path))
    own(live, others | {(manager, "Apply"): paths})


def update(live: Object, wanted: Object, manager: str) -> Object:
    """Return an object as an update of the live one; the manager owns what it changes."""
    paths = {p for p in leaves(fields(content(wanted))) if at_path(live, p) != at_path(wanted, p)}
    owned = {who: theirs - paths for who, theirs in owners(wanted).items()}
    owned[manager, "Update"] = owned.get((manager, "Update"), set()) | paths
    own(wanted, owned)
    return wanted


def json_patch(item: Object, operations: list[Object]) -> None:
    """Change an object as a JSON patch says. Raises Refused."""
    for operation in operations:
        path = tuple(p.replace("~1", "/").replace("~0", "~") for p in operation["path"].split("/")[1:])
        if operation["op"] == "remove":
            drop_path(item, path)
        elif path == ("metadata", "resourceVersion") and operation["value"] != item["metadata"]["resourceVersion"]:
            raise Refused(409, "Conflict", "the object has been modified")
        else:
            set_path(item, path, operation["value"])


def selects(query: dict[str, str], item: Object) -> bool:
    """Return True if an object matches the selectors of a request."""
    for term in filter(None, query.get("fieldSelector", "").split(",")):
        path, value = term.split("=", 1)
        if at_path(item, tuple(path.split("."))) != value:
            return False
    labels = item["metadata"].get("labels", {})
    return all(
        labels.get(term.split("=")[0]) == term.split("=")[-1]
        for term in filter(None, query.get("labelSelector", "").split(","))
    )


class ApiServer(http.server.ThreadingHTTPServer):
    """The API server on a free port of the loopback interface."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.store = Store()
        self.kinds = {version: dict(kinds) for version, kinds in KINDS.items()}
        # Ports of the services by image, and logs by pod.
        self.backends: dict[str, int] = {}
        self.logs: dict[str, str] = {}
        # Requests that get 403: method, plural, and a text in the body.
        self.forbidden: list[tuple[str, str, str]] = []

    @property
    def url(self) -> str:
        """Return the address."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def backend(self, namespace: str, name: str) -> int:
        """Return the port of the process behind a Service. Raises Refused."""
        service, _, port_name = name.partition(":")
        spec = self.store.get("services", namespace, service)["spec"]
        ports = [port for port in spec["ports"] if port.get("name") == port_name]
        for pod in self.store.of("pods", namespace):
            labels = pod["metadata"]["labels"]
            (container,) = pod["spec"]["containers"]
            if not ports or not spec["selector"].items() <= labels.items() or not is_ready(pod):
                continue
            open_ports = [port["containerPort"] for port in container["ports"]]
            targets = [p["containerPort"] for p in container["ports"] if ports[0]["targetPort"] == p["name"]]
            target = (targets or [ports[0]["targetPort"]])[0]
            if isinstance(target, str):
                continue
            if target not in open_ports or not self.permitted(namespace, labels, target):
                raise Refused(503, "ServiceUnavailable", f"dial tcp 10.0.0.1:{target}: connect: connection refused")
            return self.backends[container["image"]]
        raise Refused(503, "ServiceUnavailable", f'no endpoints available for service "{name}"')

    def permitted(self, namespace: str, labels: Object, port: int) -> bool:
        """Return True if the network policies let requests to a port of a pod through."""
        policies = [
            policy["spec"]
            for policy in self.store.of("networkpolicies", namespace)
            if policy["spec"]["podSelector"].get("matchLabels", {}).items() <= labels.items()
        ]
        rules = [rule for policy in policies for rule in policy.get("ingress", [])]
        return not policies or any(port in [p["port"] for p in rule["ports"]] for rule in rules)


def is_ready(pod: Object) -> bool:
    """Return True if a pod takes requests."""
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"]["conditions"])


class Handler(http.server.BaseHTTPRequestHandler):
    """Handles a request."""

    server: ApiServer
    protocol_version = "HTTP/1.1"
    # Otherwise every response waits 40 ms for the client's acknowledgement of its headers.
    disable_nagle_algorithm = True

    def do_GET(self) -> None:  # pylint: disable=invalid-name
        """Handle a request of any method."""
        address = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(address.query))
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        # A kubectl that chooses its version by the server's asks for it first.
        if address.path != "/version":
            self.server.store.requests.append(f"{self.command} {self.path}")
        try:
            if not self.discover(address.path):
                self.serve(address.path, query, body)
        except Refused as refused:
            self.reply(refused.status, refused.code)

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def log_message(self, format: str, *args: Any) -> None:  # pylint: disable=redefined-builtin
        """Log nothing."""

    def reply(self, document: Any, code: int = 200, kind: str = "application/json") -> None:
        """Send a response."""
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.send_response(code)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def discover(self, path: str) -> bool:
        """Respond if the request asks for what the server has."""
        kinds = self.server.kinds
        version = path.strip("/")
        groups = [name.split("/")[1:] for name in kinds if name.startswith("apis/")]
        if version == "version":
            self.reply({"major": "1", "minor": "32", "gitVersion": "v1.32.4"})
        elif version == "api":
            self.reply({"kind": "APIVersions", "versions": ["v1"]})
        elif version == "apis":
            named = [(group, {"groupVersion": f"{group}/{v}", "version": v}) for group, v in groups]
            items = [{"name": group, "versions": [v], "preferredVersion": v} for group, v in named]
            self.reply({"kind": "APIGroupList", "apiVersion": "v1", "groups": items})
        elif version in kinds:
            verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
            resources = [
                {"name": plural, "kind": kind, "namespaced": kind != "Namespace", "singularName": "", "verbs": verbs}
                for plural, kind in kinds[version].items()
            ]
            group = version.partition("/")[2]
            self.reply({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group, "resources": resources})
        elif version == "openapi/v2":
            # kubectl before 1.28 asks for it; an empty document says nothing about any kind.
            self.reply(b"", kind="application/com.github.proto-openapi.spec.v2.v1.0+protobuf")
        elif version == "openapi/v3":
            # Enough for kubectl to learn that the server itself checks the fields of objects.
            paths = {name: {"serverRelativeURL": f"/openapi/v3/{name}"} for name in kinds}
            self.reply({"paths": paths})
        elif version.startswith("openapi/v3/"):
            self.reply(schema(version.removeprefix("openapi/v3/"), kinds))
        else:
            return False
        return True

    def serve(self, path: str, query: dict[str, str], body: bytes) -> None:
        """Respond to a request for objects. Raises Refused."""
        match = RESOURCE.fullmatch(path)
        if path.startswith("/api/v1/namespaces/") and path.count("/") == 4:
            match = re.fullmatch(r"/(api/v1)()/(namespaces)/([^/]+)()()", path)
        if not match or match[3] not in self.server.kinds.get(match[1], {}):
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        version, namespace, plural, name, part, rest = match.groups(default="")
        if any(entry[:2] == (self.command, plural) and entry[2] in body.decode() for entry in self.server.forbidden):
            raise Refused(403, "Forbidden", f'{plural} "{name}" is forbidden')
        store = self.server.store
        if part == "proxy":
            self.forward(self.server.backend(namespace, name), rest, body)
        elif part == "log":
            log = self.server.logs.get(f"{name} previous" if query.get("previous") == "true" else name, "")
            self.reply(log.encode(), kind="text/plain")
        elif query.get("watch") in ("true", "1"):
            self.watch(plural, namespace, query)
        elif not name and self.command == "GET":
            with store.changed:
                items = [item for item in store.of(plural, namespace) if selects(query, item)]
                kind = self.server.kinds[version][plural]
                metadata = {"resourceVersion": str(len(store.changes))}
                api = version.partition("/")[2]
                self.reply({"kind": f"{kind}List", "apiVersion": api, "metadata": metadata, "items": items})
        else:
            with store.changed:
                self.reply(*self.write(plural, namespace, name, query, json.loads(body or b"{}")))

    def write(self, plural: str, namespace: str, name: str, query: dict[str, str], body: Any) -> tuple[Object, int]:
        """Read or change an object. Raises Refused."""
        store, manager = self.server.store, query.get("fieldManager", "unknown")
        if self.command == "POST":
            name = body["metadata"]["name"]
            if (plural, namespace, name) in store.objects:
                raise Refused(409, "AlreadyExists", f'{plural} "{name}" already exists')
            own(body, {(manager, "Update"): set(leaves(fields(content(body))))})
            return store.put(plural, body), 201
        kind = self.headers.get("content-type", "")
        known = (plural, namespace, name) in store.objects
        if self.command == "PATCH" and kind.startswith("application/apply-patch") and not known:
            item = {"apiVersion": body["apiVersion"], "kind": body["kind"], "metadata": dict(body["metadata"])}
            apply(item, body, manager, False)
            return store.put(plural, item), 201
        live = store.get(plural, namespace, name)
        if self.command == "DELETE":
            store.delete(plural, namespace, name)
            details = {"name": name, "uid": live["metadata"]["uid"]}
            return {"kind": "Status", "apiVersion": "v1", "status": "Success", "details": details}, 200
        changed = copy.deepcopy(live)
        if self.command == "PUT":
            if (
                body["metadata"].get("resourceVersion", live["metadata"]["resourceVersion"])
                != live["metadata"]["resourceVersion"]
            ):
                raise Refused(
                    409, "Conflict", "the object has been modified; please apply your changes to the latest version"
                )
            body["metadata"] = live["metadata"] | body["metadata"]
            changed = update(live, body, manager)
        elif kind.startswith("application/apply-patch"):
            apply(changed, body, manager, query.get("force") == "true")
        elif kind.startswith("application/json-patch"):
            json_patch(changed, body)
            if "managedFields" not in json.dumps(body):
                changed = update(live, changed, manager)
        elif self.command == "PATCH":
            raise Refused(415, "UnsupportedMediaType", kind)
        return store.put(plural, changed), 200

    def watch(self, plural: str, namespace: str, query: dict[str, str]) -> None:
        """Send changes until the client ends the connection."""
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        store, seen = self.server.store, int(query.get("resourceVersion") or 0)
        end = time.monotonic() + float(query.get("timeoutSeconds", 600))
        while time.monotonic() < end:
            with store.changed:
                store.changed.wait_for(lambda: len(store.changes) > seen, timeout=1)
                changes, seen = store.changes[seen:], len(store.changes)
            for change in changes:
                same = change.plural == plural and namespace in ("", change.item["metadata"].get("namespace"))
                if same and selects(query, change.item):
                    try:
                        line = json.dumps({"type": change.kind, "object": change.item}) + "\n"
                        self.wfile.write(line.encode())
                        self.wfile.flush()
                    except OSError:
                        return

    def forward(self, port: int, path: str, body: bytes) -> None:
        """Pass a request to a service, as the API server's proxy does."""
        passed = {name: value for name, value in self.headers.items() if name.lower() == "content-type"}
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body or None, passed)
        try:
            with urllib.request.urlopen(request) as response:
                self.reply(response.read(), response.status)
        except urllib.error.HTTPError as error:
            self.reply(error.read(), error.code)


def schema(version: str, kinds: dict[str, dict[str, str]]) -> Object:
    """Return an OpenAPI document that says that PATCH of every kind has the parameter fieldValidation."""
    group, _, number = version.partition("/")[2].rpartition("/")
    parameters = [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}]
    paths = {}
    for plural, kind in kinds[version].items():
        of = {"group": group, "version": number, "kind": kind}
        patch = {"parameters": parameters, "responses": {}, "x-kubernetes-group-version-kind": of}
        paths[f"/{version}/namespaces/{{namespace}}/{plural}/{{name}}"] = {"patch": patch}
    return {"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1.32.4"}, "paths": paths}
