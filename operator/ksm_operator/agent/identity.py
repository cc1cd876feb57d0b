"""Who an agent is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Identity:
    """What the agent is told at start.

    Attributes:
        node: the node's name.
        namespace: the operator's own namespace.
        state_path: where the state is kept.
        version: of the agent.
    """

    node: str
    namespace: str
    state_path: Path
    version: str
