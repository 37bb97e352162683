"""Flower's apps in one process: messages are serialised as on the network and delivered to clients by calls.

For tests and the demonstration. Flower's own simulation starts a Ray cluster, which needs minutes on a small machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity


def set_task_identity() -> None:
    """Set what Flower's runtime sets in the process of an app."""
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1


class InProcessGrid(Grid):
    """Delivers messages to clients in this process and keeps their replies.

    Args:
        app: the app of all clients.
        clients: number of clients.
        defaults: settings of all.
        dropped: clients that never reply after they have shared their keys.

    Attributes:
        replies: what the clients sent.
        sent_bytes: size of all replies, as serialised.
    """

    def __init__(
        self, app: ClientApp, clients: int, defaults: Mapping[str, object], dropped: tuple[int, ...] = ()
    ) -> None:
        self._app, self._dropped = app, dropped
        self.replies: list[Message] = []
        self.sent_bytes = 0
        self._contexts = {
            node: Context(1, node, {**defaults, "partition-id": node}, RecordDict(), {})
            for node in range(1, clients + 1)
        }

    def set_run(self, run: Run) -> None:
        """Not used by the workflow."""
        raise NotImplementedError

    @property
    def run(self) -> Run:
        """Run information."""
        return Run.create_empty(1)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Not used by the workflow."""
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        """Numbers of the clients, from 1."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Not used by the workflow."""
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Not used by the workflow."""
        raise NotImplementedError

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Deliver messages and return the replies."""
        replies = []
        for message in messages:
            node = message.metadata.dst_node_id
            learns = "fitins.parameters" in message.content.array_records
            if learns and node in self._dropped:
                replies.append(Message(Error(code=0, reason="gone"), reply_to=message))
            else:
                delivered = message_from_proto(message_to_proto(message))
                replies.append(self._app(delivered, self._contexts[node]))
        answered = [reply for reply in replies if reply.has_content()]
        self.replies += answered
        self.sent_bytes += sum(message_to_proto(reply).ByteSize() for reply in answered)
        return replies
