"""RBAC objects as values: what each account may do, and which requests that covers."""

import pytest

from cluster.rights import Request, Right, rights

pytestmark = pytest.mark.cluster


def test_rights_of_accounts() -> None:
    """A binding that is misread would make the comparison with the requests worthless."""
    account = {"kind": "ServiceAccount", "name": "agent", "namespace": "ours"}
    rule = {"apiGroups": [""], "resources": ["pods", "nodes/status"], "verbs": ["list", "patch"]}
    named = {
        "apiGroups": ["apps"],
        "resources": ["daemonsets"],
        "resourceNames": ["one"],
        "verbs": ["get"],
    }
    found = rights(
        [
            {"kind": "ConfigMap", "metadata": {"name": "r"}},
            {"kind": "ClusterRole", "metadata": {"name": "r"}, "rules": [rule]},
            {"kind": "Role", "metadata": {"name": "r", "namespace": "ours"}, "rules": [named]},
            {
                "kind": "ClusterRoleBinding",
                "metadata": {"name": "b"},
                "roleRef": {"kind": "ClusterRole", "name": "r"},
                "subjects": [account],
            },
            {
                "kind": "RoleBinding",
                "metadata": {"name": "b", "namespace": "ours"},
                "roleRef": {"kind": "Role", "name": "r"},
                "subjects": [account, {**account, "name": "other"}],
            },
        ]
    )
    get = Right("get", "apps", "daemonsets", "ours", "one")
    assert found == {
        "agent": {
            Right("list", "", "pods"),
            Right("patch", "", "pods"),
            Right("list", "", "nodes/status"),
            Right("patch", "", "nodes/status"),
            get,
        },
        "other": {get},
    }


@pytest.mark.parametrize(
    ("request_", "is_covered"),
    [
        (Request("get", "apps", "daemonsets", "ours", "one"), True),
        (Request("patch", "apps", "daemonsets", "ours", "one"), False),
        (Request("get", "", "daemonsets", "ours", "one"), False),
        (Request("get", "apps", "daemonsets/status", "ours", "one"), False),
        (Request("get", "apps", "daemonsets", "theirs", "one"), False),
        (Request("get", "apps", "daemonsets", "ours", "two"), False),
        (Request("get", "apps", "daemonsets", "ours"), False),
    ],
    ids=str,
)
def test_a_right_covers_what_it_says(request_: Request, *, is_covered: bool) -> None:
    """One that covers too much would pass for used."""
    assert Right("get", "apps", "daemonsets", "ours", "one").covers(request_) is is_covered
