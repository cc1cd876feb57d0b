import dataclasses
import fcntl
from pathlib import Path

import pytest

from local_cluster import components
from local_cluster.components import COMPONENTS


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("go version go1.26.8 linux/amd64", (1, 26)),
        ("go version go1.21 linux/arm64", (1, 21)),
        ("go version devel go1.27-8c57cd4d4e linux/amd64", (1, 27)),
        ("go: command failed", None),
    ],
)
def test_go_version(text: str, version: tuple[int, int] | None) -> None:
    """A Go that cannot fetch its successor has to be recognised before it fails obscurely."""
    assert components.parse_go_version(text) == version


def test_environment_of_the_shell_does_not_change_a_build() -> None:
    """GOFLAGS=-mod=vendor or a go.work above the repository broke builds of other projects."""
    shell = {"GOFLAGS": "-mod=vendor", "GOOS": "darwin", "GOWORK": "/x", "GOPROXY": "direct"}
    environment = components.build_environment(shell, cgo=False)
    assert environment["GOFLAGS"] == "-mod=readonly"
    assert environment["GOTOOLCHAIN"] == "auto"
    assert environment["GOWORK"] == "off"
    assert environment["CGO_ENABLED"] == "0"
    assert environment["GOPROXY"] == "direct"
    assert "GOOS" not in environment


def test_cache_key_follows_everything_that_decides_the_programs() -> None:
    """A stale cache would run another version than the tree says."""
    runc = COMPONENTS["runc"]
    keys = {
        components.cache_key(one)
        for one in (
            runc,
            dataclasses.replace(runc, tags=()),
            dataclasses.replace(runc, cgo=False),
            dataclasses.replace(runc, ldflags=("-X a.b=c",)),
            dataclasses.replace(runc, name="cni"),
        )
    }
    assert len(keys) == 5
    assert components.cache_key(runc) == components.cache_key(dataclasses.replace(runc))


@pytest.mark.parametrize("name", COMPONENTS)
def test_every_component_is_pinned(name: str) -> None:
    """A go.mod without its go.sum would build whatever a proxy serves today."""
    source = COMPONENTS[name].source
    assert (source / "go.mod").is_file()
    assert (source / "go.sum").is_file()


def test_what_is_built_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A lint that needs helm must not stand still while somebody builds Kubernetes, nor helm."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = components.folder(COMPONENTS["helm"])
    folder.mkdir(parents=True)
    with (folder.parent / "build-helm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        components.ensure(("helm",), pytest.fail)


def test_kubernetes_says_its_version() -> None:
    """Charts check kubeVersion; the number built in has to be the one in go.mod."""
    kubernetes = COMPONENTS["kubernetes"]
    flags = " ".join(kubernetes.ldflags)
    version = flags.partition("gitVersion=")[2].split()[0]
    assert f"k8s.io/kubernetes {version} " in (kubernetes.source / "go.mod").read_text()


@pytest.mark.parametrize(
    ("seconds", "text"), [(6.2, "6 s"), (59.6, "1 min 0 s"), (95.0, "1 min 35 s")]
)
def test_duration(seconds: float, text: str) -> None:
    """Estimates are read by people who decide whether to fetch a coffee."""
    assert components.duration(seconds) == text
