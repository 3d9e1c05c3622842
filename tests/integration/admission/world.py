"""The chart's policies and roles in a namespace of the test API server, and people who try things there."""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import urllib3
import yaml
from tests.cluster import binaries, paths
from tests.cluster.apiserver import ApiServer
from tests.cluster.process import wait_for

GROUP = "/apis/maestro-operator.io/v1alpha1"
MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY = "application/apply-patch+yaml"
MASTERS = "system:masters"
TEMPLATES = ("admission", "admission-decision", "rbac")
POSTGRESQL = ("--set=store.type=postgresql", "--set=store.postgresql.existingSecret=store")
HASH, NEXT_HASH = "sha256:one", "sha256:two"

Object = dict[str, Any]


class RefusedError(Exception):
    """The API server said no; the text is its message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def render(release: str, namespace: str, *values: str) -> list[Object]:
    """The chart's policies and rights, as helm makes them."""
    shown = [f"--show-only=templates/{name}.yaml" for name in TEMPLATES]
    chart = str(paths.REPOSITORY / "charts" / "maestro")
    made = subprocess.run(
        [binaries.find("helm"), "template", release, chart, "--namespace", namespace, *shown, *values],
        check=True,
        capture_output=True,
        text=True,
    )
    return [document for document in yaml.safe_load_all(made.stdout) if document]


@dataclass
class World:
    """One release of the chart that watches one namespace.

    Who is who: `ed` has the role editor, `vic` viewer, `ann` and `bob` approver and editor, `flux` (a Git tool)
    editor. `controller` and `api` are Maestro's own accounts, `root` a cluster administrator.
    """

    server: ApiServer
    namespace: str
    release: str
    mutating: bool
    count: int = 0

    def __post_init__(self) -> None:
        self._pool = urllib3.PoolManager(
            ca_certs=str(self.server.certificate_authority),
            cert_file=str(self.server.client_certificate),
            key_file=str(self.server.client_key),
            retries=False,
            timeout=30,
        )
        self.controller = f"system:serviceaccount:{self.namespace}:{self.release}"
        self.api = f"{self.controller}-api"

    def bindings(self) -> list[Object]:
        """What gives people their roles."""
        roles = {"ed": "editor", "vic": "viewer", "ann": "editor approver", "bob": "editor approver", "flux": "editor"}
        given = [(person, role) for person, several in roles.items() for role in several.split()]
        return [self._bound(person, f"{self.release}-{role}") for person, role in given]

    def _bound(self, user: str, role: str, kind: str = "ClusterRole") -> Object:
        api = "rbac.authorization.k8s.io"
        return {
            "apiVersion": f"{api}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": f"{user}-{role}", "namespace": self.namespace},
            "roleRef": {"apiGroup": api, "kind": kind, "name": role},
            "subjects": [{"apiGroup": api, "kind": "User", "name": user}],
        }

    def grant(self, user: str, verbs: str, resource: str) -> None:
        """Give somebody further rights on a resource of the group."""
        name = f"more-{secrets.token_hex(3)}"
        rule = {"apiGroups": ["maestro-operator.io"], "resources": [resource], "verbs": verbs.split()}
        role = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": {"name": name, "namespace": self.namespace},
            "rules": [rule],
        }
        binding = self._bound(user, name, "Role")
        for plural, made in (("roles", role), ("rolebindings", binding)):
            path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{self.namespace}/{plural}"
            self._request("root", "POST", path, made, "application/json")
        wanted = verbs.split()
        wait_for(f"{user} may {verbs}", lambda: all(self._may(user, verb, resource) for verb in wanted), timeout=30)

    def account(self, name: str, *roles: str) -> str:
        """Make a ServiceAccount with these ClusterRoles in the namespace; returns a token of it."""
        subject = {"kind": "ServiceAccount", "name": name, "namespace": self.namespace}
        bindings = [{**self._bound(f"sa-{name}", role), "subjects": [subject]} for role in roles]
        made = {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": name, "namespace": self.namespace},
        }
        self.server.apply(made, *bindings)
        return self.server.kubectl("create", "token", name, "-n", self.namespace, "--duration=1h").strip()

    def _may(self, user: str, verb: str, resource: str) -> bool:
        plural, _, subresource = resource.partition("/")
        attributes = {"group": "maestro-operator.io", "resource": plural, "subresource": subresource}
        attributes |= {"namespace": self.namespace, "verb": verb}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": user, "resourceAttributes": attributes},
        }
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        answer = self._request("root", "POST", path, review, "application/json")
        return bool(answer["status"]["allowed"])

    # -- requests

    def send(
        self, user: str, method: str, path: str, body: Any = None, *, type: str = "application/json", **query: str
    ) -> Object:
        """One request as somebody; RefusedError where it isn't taken."""
        path = f"{GROUP}/namespaces/{self.namespace}/reprocessings{path}"
        if query:
            path += "?" + "&".join(f"{key}={value}" for key, value in query.items())
        return self._request(user, method, path, body, type)

    def _request(self, user: str, method: str, path: str, body: Any, type: str) -> Object:
        headers = {"Content-Type": type, "Impersonate-User": user}
        if user == "root":
            headers["Impersonate-Group"] = MASTERS
        content = None if body is None else json.dumps(body).encode()
        answer = self._pool.request(method, self.server.url + path, headers=headers, body=content)
        found: Object = json.loads(answer.data)
        if answer.status >= 300:
            raise RefusedError(answer.status, found["message"])
        return found

    def body(self, name: str, spec: Mapping[str, Any], **metadata: Any) -> Object:
        return {
            "apiVersion": "maestro-operator.io/v1alpha1",
            "kind": "Reprocessing",
            "metadata": {"name": name, **metadata},
            "spec": {"solution": "shop", "select": {"states": ["Failed"]}, **spec},
        }

    def create(
        self, user: str = "ed", /, *, name: str | None = None, metadata: Object | None = None, dry_run: bool = False,
        status: Object | None = None, **spec: Any,
    ) -> str:  # fmt: skip
        """Make a Reprocessing; returns its name."""
        self.count += 1
        name = name or f"r-{self.count}"
        body = self.body(name, spec, **(metadata or {}))
        if status:
            body["status"] = status
        self.send(user, "POST", "", body, **({"dryRun": "All"} if dry_run else {}))
        return name

    def planned(self, user: str = "ed", /, **spec: Any) -> str:
        """Make one and let the controller plan it; what the plan says of who asks is filled in either way."""
        if not self.mutating and user != self.api:
            spec.setdefault("requestedBy", user)
        name = self.create(user, **spec)
        self.observe(name)
        return name

    def approved(self, phase: str = "Running") -> str:
        """One that ann approved, in a later phase."""
        name = self.planned()
        self.decide("ann", name)
        self.observe(name, phase)
        return name

    def observe(self, name: str, phase: str = "PendingApproval", hash: str = HASH) -> Object:
        """Write the status, as the controller does."""
        status = {"observedGeneration": 1, "phase": phase, "plan": {"hash": hash, "total": 40}}
        return self.send(self.controller, "PATCH", f"/{name}/status", {"status": status}, type=MERGE)

    def patch(self, user: str, name: str, /, **spec: Any) -> Object:
        """A merge patch of the spec; returns the spec that it made."""
        found: Object = self.send(user, "PATCH", f"/{name}", {"spec": spec}, type=MERGE)["spec"]
        return found

    def decide(self, user: str, name: str, decision: str = "Approved", hash: str = HASH, **spec: Any) -> Object:
        """Decide with everything that a decision names, as it is needed without the mutating policy."""
        return self.patch(user, name, decision=decision, decidedBy=user, planHash=hash, **spec)

    def get(self, name: str) -> Object:
        return self.send("root", "GET", f"/{name}")

    def spec(self, name: str) -> Object:
        found: Object = self.get(name)["spec"]
        return found

    def apply(self, user: str, name: str, manager: str, /, **spec: Any) -> Object:
        """Server-side apply with force, as Flux does it."""
        body = self.body(name, spec)
        return self.send(user, "PATCH", f"/{name}", body, type=APPLY, fieldManager=manager, force="true")

    def enforced(self) -> bool:
        """Whether the API server has taken the policies in (it watches them)."""
        try:
            self.create("root", dry_run=True, decision="Skipped")
        except RefusedError as error:
            # A mutating policy works once the API server has the schema of a CRD that was made just before.
            if "can be a delay" in str(error):
                return False
            if "without spec.decision" not in str(error):
                raise
        else:
            return False
        if not self.mutating:
            return True
        return "requestedBy" in self.send("root", "POST", "", self.body("probe", {}), dryRun="All")["spec"]


def install(server: ApiServer, namespace: str, *values: str, mutating: bool) -> World:
    """Render the chart for PostgreSQL (the API has an account of its own), apply its policies and rights, wait."""
    release = f"m{secrets.token_hex(3)}"
    chosen = f"--set=admission.mutating={str(mutating).lower()}"
    objects = render(release, namespace, *POSTGRESQL, f"--set=watch.namespaces={{{namespace}}}", chosen, *values)
    world = World(server, namespace, release, mutating)
    server.apply(*objects, *world.bindings())
    wait_for("the API server enforces the policies", world.enforced, timeout=60, every=0.1)
    return world


def uninstall(world: World) -> None:
    """Take the cluster-wide objects away again."""
    kinds = (
        *("validatingadmissionpolicybinding", "validatingadmissionpolicy", "mutatingadmissionpolicybinding"),
        *("mutatingadmissionpolicy", "clusterrolebinding", "clusterrole"),
    )
    label = f"app.kubernetes.io/instance={world.release}"
    world.server.kubectl("delete", ",".join(kinds), "-l", label, "--wait=false")
