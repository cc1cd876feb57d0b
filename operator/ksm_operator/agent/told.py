"""What the node's KSMNode says: the spec that is obeyed, and terms that are not understood."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec

from ksm_operator.agent.wire import NodePolicy, NodeSpec, to_json_types, unknown_terms

if TYPE_CHECKING:
    from ksm_operator.agent.state import State
    from ksm_operator.agent.wire import Node

log = logging.getLogger(__name__)


class Told:
    """What was heard last.

    Attributes:
        spec: what is obeyed; None before the first.
        unknown: terms of the latest spec that cannot be understood. While there are any, the spec
            before it is obeyed.
        listed: the node's object was listed, whether or not it was there.
    """

    def __init__(self, state: State) -> None:
        self.spec: NodeSpec | None = None
        self.unknown: list[str] = []
        self.listed = False
        self._state = state
        self._uid = ""

    @property
    def policy(self) -> NodePolicy | None:
        """The policy that is obeyed, if the node has an owner."""
        return self.spec.policy if self.spec is not None else None

    def resume(self) -> None:
        """Obey what an earlier agent was told last, until something is heard.

        It may have been a newer one, that knew more.
        """
        if self._state.told is None:
            return
        try:
            spec = msgspec.convert(self._state.told, NodeSpec)
        except msgspec.ValidationError as error:
            log.warning("not understood: what the last agent was told", extra={"error": str(error)})
            return
        if unknown := unknown_terms(spec):
            log.warning("not understood: what the last agent was told", extra={"unknown": unknown})
        else:
            self.spec = spec

    def is_another(self, node: Node) -> bool:
        """Tell whether this is another object than the one before: deleted, and made anew."""
        before, self._uid = self._uid, node.metadata.uid
        return before != self._uid

    def hear(self, node: Node) -> bool:
        """Take what a KSMNode says, and have it on record; tells whether the spec has changed."""
        unknown = unknown_terms(node.spec)
        if unknown != self.unknown:
            self.unknown = unknown
            if unknown:
                log.warning("spec not understood; changing nothing", extra={"unknown": unknown})
        if unknown:
            return False
        self._state.generation = node.metadata.generation
        if node.spec == self.spec:
            return False
        log.info(
            "told",
            extra={
                "desiredState": node.spec.desired_state,
                "policy": node.spec.owner.name if node.spec.owner else None,
                "generation": node.metadata.generation,
            },
        )
        self.spec = node.spec
        self._state.told = to_json_types(node.spec)
        return True
