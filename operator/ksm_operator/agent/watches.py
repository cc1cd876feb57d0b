"""Everything that the agent watches in the cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ksm_operator.agent.client import Client, Resource
from ksm_operator.agent.selection import namespace_query
from ksm_operator.agent.watcher import Lookup, Watcher, decode_metadata, decode_node, decode_pod
from ksm_operator.agent.writer import COLLECTION

if TYPE_CHECKING:
    import queue

    from ksm_operator.agent.news import News
    from ksm_operator.agent.wire import NodePolicy

NAMESPACES = "/api/v1/namespaces"


class Watches:
    """The watches of one node's agent.

    Attributes:
        node: the agent's own KSMNode.
        pods: the pods of its node.
        namespaces: those that the policy selects; None while no policy does.
        lookup: asks about single namespaces.
    """

    def __init__(self, client: Client, node: str, news: queue.SimpleQueue[News]) -> None:
        self._client = client
        self._news = news
        own = Resource(COLLECTION, {"fieldSelector": f"metadata.name={node}"}, metadata_only=False)
        selector = {"fieldSelector": f"spec.nodeName={node}"}
        pods = Resource("/api/v1/pods", selector, metadata_only=False)
        self.node = Watcher(client, own, news, decode_node)
        self.pods = Watcher(client, pods, news, decode_pod)
        self.namespaces: Watcher | None = None
        self.lookup = Lookup(client, news)

    def start(self) -> None:
        """Begin to bring news."""
        for thread in (self.node, self.pods, self.lookup):
            thread.start()

    def select_namespaces(self, policy: NodePolicy | None) -> bool:
        """Watch the namespaces that a policy selects, with a selector that the server evaluates.

        Returns:
            Whether they are others than before, so that what is known of them is void.
        """
        query = namespace_query(policy) if policy is not None else ""
        if self.namespaces is not None:
            if self.namespaces.resource.params.get("labelSelector") == query:
                return False
            self.namespaces.end()
            self.namespaces = None
        if query:
            resource = Resource(NAMESPACES, {"labelSelector": query})
            self.namespaces = Watcher(self._client, resource, self._news, decode_metadata)
            self.namespaces.start()
        return True
