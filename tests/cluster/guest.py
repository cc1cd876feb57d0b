"""A node that is another machine, looked at from a pod there that sees every process and cgroup."""

from dataclasses import dataclass
from typing import Any

from cluster.command import Kubectl
from cluster.operator_release import OF_TESTS

LABEL = "local-cluster.ksm-operator.dev/kernel"
"""Label and taint of the local cluster's virtual nodes."""

IMAGE = "localhost/ksm-operator-busybox:1"
NAMESPACE = "ksm-operator-tests-eyes-{kernel}"
EYES = "ksm-operator-tests-eyes"
"""Label of the pod that looks."""

# Without programs for what a shell does by itself: each costs an emulated machine milliseconds.
_LOOK = """
echo release $(uname -r)
cd /proc
for pid in [0-9]*; do
  read -r cgroup <$pid/cgroup || continue
  case $cgroup in *kubepods*) ;; *) continue ;; esac
  read -r stat <$pid/stat && set -- ${stat##*) } || continue
  pages= merges=
  while read -r name value; do
    case $name in ksm_merging_pages) pages=$value ;; ksm_merge_any:) merges=$value ;; esac
  done <$pid/ksm_stat || continue
  [ "$merges" ] || { grep -q '^VmFlags:.* mg' $pid/smaps && merges=yes || merges=no; }
  echo process $pid ${20} $merges ${pages:-0} $cgroup
done 2>/dev/null
cd /sys/kernel/mm/ksm
for file in $(find . -type f -perm -200); do
  read -r value <$file
  echo setting ${file#./} $value
done
cd /proc/1/root/sys/fs/cgroup
echo killed $(find . -name memory.events -exec grep -h '^oom_kill ' {} +)
"""


@dataclass(frozen=True)
class Seen:
    """A process there.

    Attributes:
        pid: Its number there.
        start: When it started, in clock ticks since that machine's boot.
        merges: Whether it merges whatever it maps; before Linux 6.14, which says so, whether any of
            its ranges is marked.
        merged_pages: How many of its pages are merged now.
        cgroup: Its path in the hierarchy of version 2.
    """

    pid: int
    start: int
    merges: bool
    merged_pages: int
    cgroup: str


@dataclass(frozen=True)
class View:
    """A node at one moment.

    Attributes:
        release: What its kernel calls itself.
        processes: The processes of pods.
        settings: Every writable file under /sys/kernel/mm/ksm.
        killed: Processes that the kernel killed for a limit, in all of its cgroups.
    """

    release: str
    processes: list[Seen]
    settings: dict[str, str]
    killed: int

    def of(self, containers: list[str]) -> list[Seen]:
        """The processes of these containers."""
        return [one for one in self.processes if any(each in one.cgroup for each in containers)]


def onto(pod: dict[str, Any], kernel: str) -> dict[str, Any]:
    """The same pod, for the virtual node with this kernel."""
    where = {
        "nodeSelector": {LABEL: kernel},
        "tolerations": [{"key": LABEL, "operator": "Exists"}],
    }
    return pod | {"spec": pod["spec"] | where}


def placed(name: str, namespace: str, kernel: str, script: str, memory: str = "") -> dict[str, Any]:
    """A pod that runs a shell script on the virtual node with this kernel.

    Args:
        name: its name.
        namespace: where.
        kernel: which node.
        script: for sh.
        memory: its limit, a Kubernetes quantity; none if empty.
    """
    container = {
        "name": "main",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", script],
        "resources": {"limits": {"memory": memory}} if memory else {},
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "containers": [container],
        },
    }
    return onto(pod, kernel)


class Guest:
    """One virtual node.

    Attributes:
        node: Its name.
        kernel: Its kernel's name.
        eyes: The namespace of the pod that looks.
    """

    def __init__(self, kubectl: Kubectl, kernel: str) -> None:
        self.node = f"vm-{kernel}"
        self.kernel = kernel
        self.eyes = NAMESPACE.format(kernel=kernel.replace(".", "-"))
        self._kubectl = kubectl

    def open_eyes(self) -> None:
        """Start the pod that looks, and do not wait for it."""
        metadata = {"name": self.eyes, "labels": {OF_TESTS: "true"}}
        self._kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        pod = placed("eyes", self.eyes, self.kernel, "sleep 1000000")
        pod["metadata"]["labels"] = {EYES: "open"}
        pod["spec"] |= {"hostPID": True, "hostNetwork": True}
        pod["spec"]["containers"][0]["securityContext"] = {"privileged": True}
        self._kubectl.apply(pod)

    def wait_for_pods(self, namespace: str, seconds: int) -> None:
        """Wait until the pods of a namespace run. To ask the node itself would make it slower."""
        self._kubectl(
            *("wait", "--for=condition=Ready", "pods", "--all", "-n", namespace),
            f"--timeout={seconds}s",
            timeout=seconds + 10,
        )

    def drain(self, seconds: int) -> None:
        """Drain the node, as a person does before its maintenance; the pod that looks stays."""
        self._kubectl(
            *("drain", self.node, "--ignore-daemonsets", "--force", "--delete-emptydir-data"),
            *(f"--pod-selector={EYES}!=open", f"--timeout={seconds}s"),
            timeout=seconds + 10,
        )

    def close_eyes(self) -> None:
        """Take it away."""
        self._kubectl("delete", "namespace", self.eyes, "--ignore-not-found", "--wait=false")

    def run(self, script: str) -> str:
        """What a shell script says there."""
        return self._kubectl("exec", "-n", self.eyes, "eyes", "--", "sh", "-c", script).stdout

    def look(self) -> View:
        """What is there now."""
        said = self.run(_LOOK)
        release, processes, settings, killed = "", [], {}, 0
        for kind, *words in map(str.split, said.splitlines()):
            match kind:
                case "release":
                    release = words[0]
                case "process":
                    pid, start, merges, pages, cgroup = words
                    cgroup = cgroup.removeprefix("0::")
                    processes.append(
                        Seen(int(pid), int(start), merges == "yes", int(pages), cgroup)
                    )
                case "setting":
                    settings[words[0]] = " ".join(words[1:])
                case "killed":
                    killed = sum(int(word) for word in words if word.isdecimal())
        return View(release, processes, settings, killed)
