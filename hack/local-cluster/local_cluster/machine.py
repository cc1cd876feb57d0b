"""Kernel settings of the whole machine that the kubelet changes, and putting them back."""

import json
from collections.abc import Mapping
from pathlib import Path

from local_cluster import layout

SYSCTLS = Path("/proc/sys")
RECORD = layout.RUN / "machine-settings.json"

KUBELET_VALUES = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
"""What a kubelet writes at its start (Kubernetes 1.37, pkg/kubelet/cm and kernel defaults)."""


def save(record: Path = RECORD, root: Path = SYSCTLS) -> None:
    """Write the present values down, once: a second `up` must not take the kubelet's for ours."""
    if record.exists():
        return
    values = {}
    for name in KUBELET_VALUES:
        file = root / name
        if file.exists():
            values[name] = file.read_text().strip()
    record.parent.mkdir(parents=True, exist_ok=True)
    draft = record.with_suffix(".new")
    draft.write_text(json.dumps(values) + "\n")
    draft.rename(record)


def to_restore(saved: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """The values to write back: those that still are what the kubelet made them.

    A value that someone changed in the meantime is theirs.
    """
    return {
        name: value
        for name, value in saved.items()
        if now.get(name) == KUBELET_VALUES.get(name) and now.get(name) != value
    }


def restore(record: Path = RECORD, root: Path = SYSCTLS) -> None:
    """Put the machine's settings back as they were before the first `up`."""
    if not record.exists():
        return
    saved = json.loads(record.read_text())
    now = {name: (root / name).read_text().strip() for name in saved if (root / name).exists()}
    for name, value in to_restore(saved, now).items():
        (root / name).write_text(f"{value}\n")
    record.unlink()
