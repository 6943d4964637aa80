"""What came before a batch: how many packets, and when. Pure."""

from capd_protocol.batches.model import Batch


class Progress:
    """What came before a batch.

    Attributes:
        packets: how many, the missed ones too.
        first_ns: when the first one came, since 1970-01-01 00:00 UTC; None: this is the first batch.
        before_ns: when the last one before the batch came.
    """

    def __init__(self) -> None:
        self.packets = 0
        self.first_ns: int | None = None
        self.before_ns = 0

    def note(self, batch: Batch) -> None:
        """Take note of a batch, before the next one comes."""
        if len(batch.timestamps_ns):
            self.packets += len(batch.timestamps_ns)
            self.before_ns = int(batch.timestamps_ns[-1])
            if self.first_ns is None:
                self.first_ns = int(batch.timestamps_ns[0])
