"""Netfilter's queues, which libpcap lists as devices: refused, since to capture from them stops the traffic."""

from capd_client.modules.contract import Capture, Module, NotSupported


class NfqueueModule(Module):
    """The queues of netfilter."""

    def owns(self, name: str) -> bool:
        """Return whether it is a queue's."""
        return name.partition(":")[0] == "nfqueue"

    def create(self, name: str) -> Capture:
        """Refuse it."""
        raise NotSupported(
            f"{name} is no tap: packets wait in a queue until its reader lets each of them pass, and are lost where it "
            "does not; log them instead, and capture from nflog"
        )


MODULE = NfqueueModule()
