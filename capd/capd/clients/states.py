"""The state machine of a client's conversation: which message is legal in which state. Pure.

It is one table, in the manner of h11's ``_state.py``: a message that is in it is legal, and leads to the state
beside it; any other message breaks the protocol.
"""

import enum
from collections.abc import Mapping
from types import MappingProxyType

from capd_protocol.errors import RemoteProtocolError
from capd_protocol.messages import (
    AttachCapture,
    Failure,
    FailureCode,
    FlushCapture,
    GetCapabilities,
    GetDriverCounters,
    Hello,
    ListCaptures,
    ListInterfaces,
    Message,
    OpenDevice,
    RevokeCaptures,
    RotateCapture,
    SnapshotCapture,
    StartCapture,
    StartSending,
    StopCapture,
    WatchInterfaces,
    WatchStatistics,
    WhoAmI,
)

#: What is asked of a capture that runs.
OrderRequest = StopCapture | RotateCapture | FlushCapture | SnapshotCapture


class State(enum.Enum):
    """Where a conversation stands."""

    #: No message has come yet.
    GREETING = enum.auto()
    #: One request after another is answered.
    ASKING = enum.auto()
    #: The client follows a capture, which is the last thing that it asks for.
    FOLLOWING = enum.auto()
    #: It follows a capture, and an order that takes a while is carried out.
    ORDERING = enum.auto()
    #: It follows a capture, and the answer to an order waits among the events.
    ANSWERING = enum.auto()
    #: The client follows interfaces, which is the last thing that it asks for.
    WATCHING = enum.auto()
    #: The client has a lease: it sends packets, or has a device, which is the last thing that it asks for.
    LEASING = enum.auto()


class Step(enum.Enum):
    """What changes a conversation beside the messages of a client."""

    #: An order, whatever its type, of a client that may not give it: to find that out takes a while, too.
    FORBIDDEN_ORDER = enum.auto()
    #: An order was carried out, or refused.
    ORDER_ANSWERED = enum.auto()
    #: All events that waited are on their way, the answer to an order among them.
    EVENTS_SENT = enum.auto()
    #: What was asked for last is refused, and something else may be asked for.
    REFUSED = enum.auto()


_QUESTIONS = (ListCaptures, WhoAmI, ListInterfaces, GetCapabilities, GetDriverCounters)
_LONG_ORDERS = (RotateCapture, FlushCapture, SnapshotCapture, Step.FORBIDDEN_ORDER)

TRANSITIONS: Mapping[State, Mapping[type[Message] | Step, State]] = MappingProxyType(
    {
        State.GREETING: {Hello: State.ASKING},
        State.ASKING: {
            **dict.fromkeys(_QUESTIONS, State.ASKING),
            # Of captures that they name.
            **dict.fromkeys((StopCapture, RotateCapture, FlushCapture, SnapshotCapture), State.ASKING),
            RevokeCaptures: State.ASKING,
            StartCapture: State.FOLLOWING,
            AttachCapture: State.FOLLOWING,
            WatchInterfaces: State.WATCHING,
            WatchStatistics: State.WATCHING,
            **dict.fromkeys((StartSending, OpenDevice), State.LEASING),
            Step.REFUSED: State.ASKING,
        },
        State.FOLLOWING: {
            StopCapture: State.FOLLOWING,
            **dict.fromkeys(_LONG_ORDERS, State.ORDERING),
            Step.EVENTS_SENT: State.FOLLOWING,
            Step.REFUSED: State.ASKING,
        },
        State.ORDERING: {
            StopCapture: State.ORDERING,
            Step.ORDER_ANSWERED: State.ANSWERING,
            Step.EVENTS_SENT: State.ORDERING,
            Step.REFUSED: State.ASKING,
        },
        State.ANSWERING: {
            StopCapture: State.ANSWERING,
            Step.EVENTS_SENT: State.FOLLOWING,
            Step.REFUSED: State.ASKING,
        },
        State.WATCHING: {Step.REFUSED: State.ASKING},
        State.LEASING: {Step.REFUSED: State.ASKING},
    }
)

#: In which state a client that has to wait for its turn may find the conversation then.
_AFTER_ANSWER = MappingProxyType({State.ORDERING: State.FOLLOWING, State.ANSWERING: State.FOLLOWING})

#: The complaint about a message that may not come.
_COMPLAINTS = MappingProxyType(
    {
        State.GREETING: "the first message was no greeting",
        State.ASKING: "{} is no request",
        State.FOLLOWING: "a {} while this connection captures",
        State.ORDERING: "a {} before the answer to what was asked before",
        State.ANSWERING: "a {} before the answer to what was asked before",
        State.WATCHING: "a request while its connection watches",
        State.LEASING: "a request while its connection sends, or has a device",
    }
)


class Conversation:
    """One conversation, from its beginning."""

    def __init__(self) -> None:
        self.state = State.GREETING

    def check(self, message: Message) -> None:
        """Check that a message may come now, or once it has waited for its turn.

        Raises:
            RemoteProtocolError: it may not.
        """
        state = _AFTER_ANSWER.get(self.state, self.state)
        if type(message) not in TRANSITIONS[state]:
            raise complaint(state, message)

    def hear(self, message: Message, *, is_forbidden: bool = False) -> None:
        """Take note of what a client says.

        Args:
            message: what.
            is_forbidden: it is an order that the client may not give.

        Raises:
            RemoteProtocolError: it may not come now.
        """
        state = TRANSITIONS[self.state].get(Step.FORBIDDEN_ORDER if is_forbidden else type(message))
        if state is None:
            raise complaint(self.state, message)
        self.state = state

    def take(self, step: Step) -> None:
        """Take a step that can be taken now."""
        self.state = TRANSITIONS[self.state][step]


def complaint(state: State, message: Message) -> RemoteProtocolError:
    """Return the complaint about a message that may not come in this state."""
    return RemoteProtocolError(_COMPLAINTS[state].format(type(message).__name__))


def failure_of(violation: RemoteProtocolError) -> Failure:
    """Return the failure that a client is sent which has broken the protocol."""
    return Failure(code=FailureCode.PROTOCOL, text=f"capd did not understand the client: {violation}")
