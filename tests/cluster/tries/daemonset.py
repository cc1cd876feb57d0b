"""What the agents of a DaemonSet may not do, as changes to the chart's."""

from typing import Any, Final

RUNS_ONE: Final = "runs one container, the image"
CONTAINER_HAS: Final = "no other file, folder or claim, and probes that run no command"
PODS_HAVE: Final = "have the labels and annotations of the chart"
POD: Final = "spec.template.spec"
C: Final = f"{POD}.containers.0"
PORT: Final = {"port": 80, "host": "169.254.169.254"}
NAME: Final = {"fieldRef": {"fieldPath": "metadata.name"}}
SECRET: Final = {"secretKeyRef": {"name": "s", "key": "k"}}
AT: Final = "/usr/lib/python3"

AGENTS_MAY_NOT: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "be another image": ({f"{C}.image": "example.com/evil:1"}, RUNS_ONE),
    "be another version": ({f"{C}.image": "localhost/ksm-operator:older"}, RUNS_ONE),
    "run another command": ({f"{C}.command": ["sh", "-c", "id"]}, RUNS_ONE),
    "run the image's own command": ({f"{C}.command": []}, RUNS_ONE),
    "get other arguments": ({f"{C}.args": ["--state-dir", "/etc"]}, RUNS_ONE),
    "run something at their start": (
        {f"{C}.lifecycle": {"postStart": {"exec": {"command": ["id"]}}}},
        RUNS_ONE,
    ),
    "run something before": ({f"{POD}.initContainers": [{"name": "a", "image": "b"}]}, RUNS_ONE),
    "have a second container": ({f"{POD}.containers.1": {"name": "a", "image": "b"}}, RUNS_ONE),
    "use another account": ({f"{POD}.serviceAccountName": "ksm-operator-controller"}, RUNS_ONE),
    "obey a variable": ({f"{C}.env": [{"name": "PYTHONPATH", "valueFrom": NAME}]}, CONTAINER_HAS),
    "take another node for theirs": (
        {f"{C}.env": [{"name": "NODE_NAME", "value": "other"}]},
        CONTAINER_HAS,
    ),
    "read a Secret": ({f"{C}.env": [{"name": "NODE_NAME", "valueFrom": SECRET}]}, CONTAINER_HAS),
    "obey a ConfigMap": ({f"{C}.envFrom": [{"configMapRef": {"name": "x"}}]}, CONTAINER_HAS),
    "start in a folder": ({f"{C}.workingDir": "/run/ksm-operator"}, CONTAINER_HAS),
    "have a file in place of another": ({f"{C}.terminationMessagePath": AT}, CONTAINER_HAS),
    "have their folder elsewhere": (
        {f"{C}.volumeMounts": [{"name": "state", "mountPath": AT}]},
        CONTAINER_HAS,
    ),
    "have another folder": ({f"{POD}.volumes.0.hostPath.path": "/etc"}, CONTAINER_HAS),
    "have a second folder": (
        {f"{POD}.volumes.1": {"name": "a", "hostPath": {"path": "/run"}}},
        CONTAINER_HAS,
    ),
    "have a ConfigMap's files": (
        {f"{POD}.volumes.1": {"name": "a", "configMap": {"name": "b"}}},
        CONTAINER_HAS,
    ),
    "have a Secret's files": (
        {f"{POD}.volumes.1": {"name": "a", "secret": {"secretName": "b"}}},
        CONTAINER_HAS,
    ),
    "have an image's files": (
        {f"{POD}.volumes.1": {"name": "a", "image": {"reference": "b"}}},
        CONTAINER_HAS,
    ),
    "have a disk": (
        {
            f"{POD}.volumes.1": {"name": "a", "persistentVolumeClaim": {"claimName": "b"}},
            f"{C}.volumeDevices": [{"name": "a", "devicePath": "/dev/a"}],
        },
        CONTAINER_HAS,
    ),
    "have what a device's driver brings": (
        {f"{POD}.resourceClaims": [{"name": "a", "resourceClaimName": "b"}]},
        CONTAINER_HAS,
    ),
    "run something to start": ({f"{C}.startupProbe": {"exec": {"command": ["a"]}}}, CONTAINER_HAS),
    "run something to live": ({f"{C}.livenessProbe": {"exec": {"command": ["a"]}}}, CONTAINER_HAS),
    "run something to be ready": (
        {f"{C}.readinessProbe": {"exec": {"command": ["a"]}}},
        CONTAINER_HAS,
    ),
    "ask another host": ({f"{C}.livenessProbe.httpGet.host": "169.254.169.254"}, CONTAINER_HAS),
    "ask another host, before": ({f"{C}.startupProbe": {"httpGet": PORT}}, CONTAINER_HAS),
    "knock elsewhere": ({f"{C}.startupProbe": {"tcpSocket": PORT}}, CONTAINER_HAS),
    "be labelled for others": (
        {"spec.template.metadata.labels": {"sidecar.istio.io/inject": "true"}},
        PODS_HAVE,
    ),
    "be annotated for others": (
        {"spec.template.metadata.annotations": {"inject.istio.io/templates": "x"}},
        PODS_HAVE,
    ),
}
