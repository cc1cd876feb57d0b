"""One changer per node: the agent holds a lock file for its life, `ksm-node` for one change."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

AGENT_LOCK: Final = Path("/run/ksm-operator/agent.lock")


class AgentLock:
    """An exclusive lock (flock) that the kernel drops when its holder dies.

    Attributes:
        path: the file; its directory is made if need be.
    """

    def __init__(self, path: Path = AGENT_LOCK) -> None:
        self.path = path
        self._fd: int | None = None

    def acquire(self) -> bool:
        """Take it; False while another process holds it."""
        if self._fd is not None:
            return True
        self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        self._fd = fd
        return True

    def release(self) -> None:
        """Give it back; the file stays, because removing it would let two hold it."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
