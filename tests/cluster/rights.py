"""What RBAC objects give to whom, as values that requests can be held against."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, order=True)
class Request:
    """What somebody asks of the API server, in the words of RBAC.

    Attributes:
        verb: for example patch.
        group: of the API; empty for the core.
        resource: with its subresource, for example nodes/status.
        namespace: empty for the whole cluster.
        name: of the object; empty for none in particular.
    """

    verb: str
    group: str
    resource: str
    namespace: str = ""
    name: str = ""

    def __str__(self) -> str:
        kind = f"{self.resource}.{self.group}" if self.group else self.resource
        where = f" in {self.namespace}" if self.namespace else ""
        return f"{self.verb} {kind}{f' {self.name}' if self.name else ''}{where}"


@dataclass(frozen=True, order=True)
class Right(Request):
    """One verb on one resource; empty namespace and name mean every one."""

    def covers(self, request: Request) -> bool:
        """Whether this right alone allows the request."""
        return (
            (self.verb, self.group, self.resource)
            == (request.verb, request.group, request.resource)
            and self.namespace in ("", request.namespace)
            and self.name in ("", request.name)
        )


def rights(objects: Iterable[dict[str, Any]]) -> dict[str, set[Right]]:
    """What each service account may do by the roles and bindings among these objects."""
    listed = list(objects)
    roles = {_key(one): one["rules"] for one in listed if one["kind"] in ("ClusterRole", "Role")}
    found: defaultdict[str, set[Right]] = defaultdict(set)
    for binding in listed:
        if binding["kind"] not in ("ClusterRoleBinding", "RoleBinding"):
            continue
        namespace = binding["metadata"].get("namespace", "")
        role = binding["roleRef"]
        inside = namespace if role["kind"] == "Role" else ""
        for subject in binding["subjects"]:
            mine = _expanded(roles[role["kind"], inside, role["name"]], namespace)
            found[subject["name"]].update(mine)
    return dict(found)


def _key(role: dict[str, Any]) -> tuple[str, str, str]:
    metadata = role["metadata"]
    return role["kind"], metadata.get("namespace", ""), metadata["name"]


def _expanded(rules: list[dict[str, Any]], namespace: str) -> Iterator[Right]:
    for rule in rules:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                for verb in rule["verbs"]:
                    for name in rule.get("resourceNames", [""]):
                        yield Right(verb, group, resource, namespace, name)
