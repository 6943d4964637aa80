"""May this peer do this? Pure: values in, a decision out."""

from dataclasses import dataclass

from capd.peer import Peer

_ROOT = 0


@dataclass(frozen=True)
class Policy:
    """Root, the members of one group, and one user may capture.

    Attributes:
        group_id: members may capture; None where there is no such group.
        group_name: what to tell those who are no members.
        user_id: this user may too: the owner of a private daemon.
    """

    group_id: int | None
    group_name: str
    user_id: int | None = None

    def refusal_to_capture(self, peer: Peer) -> str | None:
        """Return why the peer may not capture, as a sentence for that user; None if it may."""
        if peer.user_id in (_ROOT, self.user_id):
            return None
        if self.group_id is not None and self.group_id in (peer.group_id, *peer.groups):
            return None
        return (
            f"user {peer.user_id} may not capture here: ask an administrator to be added to the group "
            f"{self.group_name}, then log in again"
        )

    def may_see(self, peer: Peer, owner_id: int) -> bool:
        """Whether the peer may list and stop a capture of this user."""
        return peer.user_id in (_ROOT, owner_id)
