"""Interfaces that come while a capture runs: their rings are asked for, and they join."""

from collections import deque
from collections.abc import Callable, Sequence

from capd.filters.compiler import CaptureFailed
from capd.launch import Arm, Attach, LetGo
from capd.worker.control import RingCame
from capd.worker.output.report import Report
from capd.worker.sources.af_packet import PacketSockets, Plan, RingSource, SourceMaker
from capd.worker.sources.source import CapturedInterface, Declare, PacketSource
from capd_protocol.messages import Failure, FailureCode


class Arrivals:
    """Interfaces that are under way to a capture."""

    def __init__(
        self,
        sources: list[PacketSource],
        interfaces: Sequence[CapturedInterface],
        maker: SourceMaker,
        report: Report,
        *,
        declare: Declare,
        look: Callable[[int], None],
        joined: Callable[[int], None],
    ) -> None:
        """Begin without any.

        Args:
            sources: of the capture; what comes is added to it.
            interfaces: all that were declared.
            maker: makes sources.
            report: asks the daemon for rings, and says what became of each interface.
            declare: has an interface that is new declared.
            look: looks whether the interface of a source, by its number, is still there.
            joined: is called with the number of a source that takes part from now on.
        """
        self._sources = sources
        self._interfaces = interfaces
        self._declare = declare
        self._maker = maker
        self._report = report
        self._look = look
        self._joined = joined
        self._coming: deque[Attach] = deque()
        #: Those whose rings were asked for, by the rings' numbers.
        self._awaited: dict[int, Plan] = {}

    @property
    def are_waiting(self) -> bool:
        """Whether one waits until a ring of its name is let go."""
        return bool(self._coming)

    def add(self, attach: Attach) -> None:
        """Take an interface that the daemon has granted."""
        self._coming.append(attach)

    def take_away(self, interface_index: int) -> None:
        """Forget an interface that is not here yet, and has been taken away."""
        for attach in [each for each in self._coming if each.interface.index == interface_index]:
            self._coming.remove(attach)
        for number in [number for number, plan in self._awaited.items() if plan.interface.index == interface_index]:
            del self._awaited[number]

    def ask_for_rings(self) -> None:
        """Ask for the rings of those that have come; one that is still being let go waits until it is."""
        for _ in range(len(self._coming)):
            attach = self._coming.popleft()
            name = attach.interface.request.name
            known = self._known(name)
            if known is not None and known.is_armed:
                self._look(self._sources.index(known))
                if known.is_lost:
                    self._coming.append(attach)
                else:
                    text = "the capture has an interface already that had this name when it was attached"
                    self._report.interface_skipped(name, text)
                continue
            try:
                plan = self._maker.plan(attach.interface, attach.number)
            except CaptureFailed as error:
                self._report.interface_skipped(name, error.failure.text)
            else:
                self._awaited[attach.number] = plan
                self._report.ask(Arm(rings=(plan.filter,)))

    def _known(self, name: str) -> RingSource | None:
        rings = (source for source in self._sources if isinstance(source, RingSource))
        return next((ring for ring in rings if ring.name == name), None)

    def take_ring(self, came: RingCame) -> None:
        """Attach an interface whose ring has come, or say why it has none.

        Raises:
            SinkFailed: no more packets are taken.
        """
        plan = self._awaited.pop(came.number, None)
        if plan is None:  # it was taken away meanwhile
            if not isinstance(came.sockets, Failure):
                came.sockets.close()
                self._report.ask(LetGo(number=came.number))
        elif isinstance(came.sockets, Failure):
            self._report.interface_skipped(plan.interface.request.name, came.sockets.text)
        else:
            self._attach(plan, came.sockets)

    def _attach(self, plan: Plan, sockets: PacketSockets) -> None:
        name = plan.interface.request.name
        known = self._known(name)
        interface_id = len(self._interfaces) if known is None else self._interfaces.index(known)
        try:
            self._join(self._maker.make(plan, sockets, interface_id), known)
        except CaptureFailed as error:
            self._report.ask(LetGo(number=plan.filter.number))
            self._report.interface_skipped(name, error.failure.text)
        else:
            self._report.interface_attached(name)

    def _join(self, source: RingSource, known: RingSource | None) -> None:
        """Let a new source, or the new ring of a known one, take part.

        Raises:
            CaptureFailed: it cannot; it is disarmed.
            SinkFailed: no more packets are taken.
        """
        if known is None:
            try:
                self._declare(source)
            except CaptureFailed:
                source.disarm()
                raise
            self._sources.append(known := source)
        elif source.link_layer_type != known.link_layer_type:
            text = f"{source.name} came back with another link-layer type, {source.link_layer_type}"
            source.disarm()
            raise CaptureFailed(Failure(code=FailureCode.UNSUPPORTED, text=text, interface=source.name))
        else:
            known.take_over(source)
        self._joined(self._sources.index(known))
