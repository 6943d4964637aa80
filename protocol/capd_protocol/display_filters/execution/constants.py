"""Values that are written in a display filter, as they are compared with those of packets. Pure."""

from collections.abc import Callable

import numpy as np

from capd_protocol.display_filters.execution.values import Flags, Numbers, Octets, compared, octets_of
from capd_protocol.display_filters.plan import Constant
from capd_protocol.fields.types import TIMES, FieldType

_IPV4_BITS, _IPV6_BITS, _IPV6_BYTES = 32, 128, 16
#: Compares values with one that was written.
Test = Callable[[Numbers | Octets], Flags]


def as_values(constant: Constant) -> Numbers | Octets:
    """Return it as values: one that is every packet's."""
    if isinstance(constant.value, bytes):
        return octets_of([constant.value])
    if constant.type in TIMES:
        return np.array([constant.value], "m8[ns]")
    return np.array([constant.value], np.uint32 if constant.value >= 0 else np.int64)


def compared_with(constant: Constant, how: str, *, needs_all: bool = False) -> Test:
    """Return what compares values with it; of addresses, only the bits of its prefix.

    Args:
        constant: what was written.
        how: the operator.
        needs_all: see ``compared``.
    """
    masked = {FieldType.IPV4: _masked_ipv4, FieldType.IPV6: _masked_ipv6}.get(constant.type)
    other = as_values(constant)
    if masked is None or how == "contains":
        return lambda values: compared(how, values, other, needs_all=needs_all)
    network = masked(other, constant.prefix_bits)
    return lambda values: compared(how, masked(values, constant.prefix_bits), network, needs_all=needs_all)


def _masked_ipv4(values: Numbers | Octets, prefix_bits: int) -> Numbers | Octets:
    assert not isinstance(values, Octets)
    return values & np.uint32(0xFFFFFFFF << (_IPV4_BITS - prefix_bits) & 0xFFFFFFFF)


def _masked_ipv6(values: Numbers | Octets, prefix_bits: int) -> Numbers | Octets:
    assert isinstance(values, Octets)
    if prefix_bits == _IPV6_BITS:
        return values
    mask = ((1 << prefix_bits) - 1) << (_IPV6_BITS - prefix_bits)
    masked = values.table(_IPV6_BYTES) & np.frombuffer(mask.to_bytes(_IPV6_BYTES, "big"), np.uint8)
    return Octets(masked.reshape(-1), np.arange(len(values)) * _IPV6_BYTES, values.sizes, values.sizes)


def between(low: Constant, high: Constant) -> Test:
    """Return what says of values whether they lie between two that were written, or are one of them."""
    above, below = compared_with(low, ">="), compared_with(high, "<=")
    return lambda values: above(values) & below(values)
