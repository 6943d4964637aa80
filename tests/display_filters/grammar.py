"""Display filters by chance: what people write, with fields and values that fit, and some of what they should not."""

import random
from collections.abc import Callable, Sequence
from typing import Final

from capd_protocol.display_filters.checking import LIKE_NUMBERS
from capd_protocol.fields.names import value_names
from capd_protocol.fields.protocols import PROTOCOLS
from capd_protocol.fields.registry import FIELDS
from capd_protocol.fields.types import Base, FieldType

#: Fields whose values are the same in every kind of file; interfaces have no names in pcap.
NAMES: Final = tuple(name for name in FIELDS if not name.startswith("frame.interface"))
_NUMBERS = {FieldType.UINT8: 8, FieldType.UINT16: 16, FieldType.UINT24: 24, FieldType.UINT32: 32}
_BY_TYPE: Final[dict[FieldType, list[str]]] = {}
for _name in NAMES:
    _BY_TYPE.setdefault(FIELDS[_name].type, []).append(_name)
_COMMON: Final = (
    "ip.src ip.dst ip.addr ip.ttl ip.proto ip.len tcp.port tcp.srcport tcp.dstport udp.port tcp.flags tcp.flags.syn "
    "tcp.flags.ack eth.src eth.dst eth.addr eth.type vlan.id ipv6.src ipv6.dst ipv6.addr frame.len frame.number "
    "frame.time_relative icmp.type arp.opcode udp.length tcp.len"
).split()
_COMPARISONS: Final = (
    "== == == == != != > >= < <= === !== eq ne gt lt ge le any_eq all_ne all_eq any_ne contains matches".split()
)


class Grammar:
    """A source of filters."""

    def __init__(self, rng: random.Random, values: Callable[[str], Sequence[str]]) -> None:
        """Make a source.

        Args:
            rng: of chance.
            values: gives literals of values that a field has in the packets, so that filters find some.
        """
        self._rng = rng
        self._values = values

    def filter(self, depth: int = 0) -> str:
        """Return a filter."""
        rng = self._rng
        if depth < 3 and rng.random() < 0.35:
            left, right = self.filter(depth + 1), self.filter(depth + 1)
            joined = f"{left} {rng.choice(('&&', 'and', '||', 'or'))} {right}"
            return f"({joined})" if rng.random() < 0.5 else joined
        if rng.random() < 0.12:
            inner = self.filter(depth + 1)
            return f"{rng.choice(('!', 'not '))}({inner})" if rng.random() < 0.6 else f"!{inner}"
        return self.test()

    def test(self) -> str:
        """Return a single test."""
        rng = self._rng
        kind = rng.random()
        if kind < 0.1:
            return self.layered(rng.choice((*NAMES, *PROTOCOLS)))
        if kind < 0.2:
            return self.membership()
        if kind < 0.27:
            return self.sliced_test()
        if kind < 0.33:
            return self.calculated_test()
        if kind < 0.39:
            return self.function_test()
        if kind < 0.42:
            return f"{self.field()} {rng.choice(_COMPARISONS)} {self.field()}"
        if kind < 0.46:
            return self.bytes_test()
        name = self.field()
        quantifier = rng.choice(("any ", "all ")) if rng.random() < 0.1 else ""
        return f"{quantifier}{self.layered(name)} {rng.choice(_COMPARISONS)} {self.literal(name)}"

    def field(self) -> str:
        """Return a field's name, one that people use more often than another."""
        return self._rng.choice(_COMMON if self._rng.random() < 0.6 else NAMES)

    def layered(self, name: str) -> str:
        """Return a field, sometimes of some layers only."""
        rng = self._rng
        if rng.random() < 0.9 or name.startswith("tcp.option"):
            return name
        return name + rng.choice(("#1", "#2", "#3", "#[1-2]", "#[2:]", "#[-1]", "#[1,3]", "#[:2]"))

    def literal(self, name: str) -> str:
        """Return a value of a field, mostly one that there is."""
        rng = self._rng
        field = FIELDS[name]
        there = self._values(name)
        if there and rng.random() < 0.5:
            return rng.choice(there)
        names = list(value_names(name).values())
        if names and rng.random() < 0.2:
            return f'"{rng.choice(names)}"'
        return self.made(field.type, field.base)

    def made(self, type_: FieldType, base: Base = Base.DECIMAL) -> str:
        """Return a literal of a type, sometimes one that is none."""
        rng = self._rng
        if rng.random() < 0.03:
            return rng.choice(("abc", '"abc"', "1.5", "-1", "0x1g", "99999999999", "'a'", "ff:ff", "1.2.", "tcp", "08"))
        if type_ in _NUMBERS:
            number = rng.randrange(1 << rng.choice((1, 4, 8, _NUMBERS[type_])))
            return rng.choice((str(number), hex(number), f"0{number:o}", f"0b{number:b}"))
        if type_ is FieldType.BOOLEAN:
            return rng.choice(("0", "1", "True", "False", "TRUE", "FALSE", '"Set"', '"Not set"'))
        if type_ is FieldType.IPV4:
            address = ".".join(str(rng.choice((0, 10, 192, 255, rng.randrange(256)))) for _ in range(4))
            return address + (f"/{rng.randrange(33)}" if rng.random() < 0.4 else "")
        if type_ is FieldType.IPV6:
            address = rng.choice(("2001:db8::", "::1", "2001:db8:1:2:3:4:5:6", "fe80::1", "::", "::ffff:1.2.3.4"))
            return address + (f"/{rng.randrange(129)}" if rng.random() < 0.4 else "")
        if type_ is FieldType.ETHER:
            return rng.choice((":", "-", ".", "")).join(f"{rng.choice((0, 1, 2, 255)):02x}" for _ in range(6))
        if type_ is FieldType.ABSOLUTE_TIME and base is not Base.EPOCH:
            year, month, day = rng.randrange(1971, 2035), rng.randrange(1, 13), rng.randrange(1, 29)
            return rng.choice(
                (
                    f'"{year}-{month:02}-{day:02} 12:34:56.5Z"',
                    f'"{year}-{month:02}-{day:02}"',
                    f'"{year}-{month:02}-{day:02}T01:02:03+02:00"',
                    f'"Mar {day}, {year} 12:34:56 UTC"',
                )
            )
        return rng.choice((f"{rng.randrange(100)}", f"{rng.randrange(2 * 10**9)}", f"{rng.random():.4f}", "-1.5"))

    def membership(self) -> str:
        """Return a test of a set."""
        rng = self._rng
        name = self.field()
        elements: list[str] = []
        for _ in range(rng.randrange(1, 5)):
            if rng.random() < 0.3:
                elements.append(f"{self.literal(name)} .. {self.literal(name)}")
            else:
                elements.append(self.literal(name))
        quantifier = rng.choice(("any ", "all ")) if rng.random() < 0.1 else ""
        operator = "not in" if rng.random() < 0.1 and not quantifier else "in"
        return f"{quantifier}{self.layered(name)} {operator} {{{', '.join(elements)}}}"

    def _sliceable(self) -> str:
        rng = self._rng
        return rng.choice(
            (
                *PROTOCOLS,
                "frame",
                *_BY_TYPE[FieldType.IPV4][:3],
                *_BY_TYPE[FieldType.IPV6][:3],
                *_BY_TYPE[FieldType.ETHER][:3],
                "ip.ttl" if rng.random() < 0.1 else "frame",
            )
        )

    def slice(self) -> str:
        """Return a slice of something."""
        rng = self._rng
        begin = rng.choice((0, 0, 1, 2, 6, 12, 14, 20, -1, -2, -4))
        size = rng.choice((1, 1, 2, 3, 4))
        part = rng.choice((f"{begin}:{size}", f"{begin}", f"{begin}:", f":{size}", f"{abs(begin)}-{abs(begin) + size}"))
        if rng.random() < 0.1:
            part += f",{rng.randrange(4)}"
        return f"{self.layered(self._sliceable())}[{part}]"

    def octets(self) -> str:
        """Return bytes."""
        rng = self._rng
        values = [
            f"{rng.choice((0, 1, 2, 8, 0x45, 64, 255, rng.randrange(256))):02x}" for _ in range(rng.randrange(1, 5))
        ]
        octets = rng.choice((":", "-", ".", "")).join(values)
        return f":{octets}" if octets in LIKE_NUMBERS else octets

    def sliced_test(self) -> str:
        """Return a test of a slice."""
        rng = self._rng
        kind = rng.random()
        if kind < 0.1:
            return self.slice()
        if kind < 0.2:
            return f"{self.slice()} & {self.octets()}" + (f" == {self.octets()}" if rng.random() < 0.5 else "")
        if kind < 0.3:
            return f"{self.slice()} {rng.choice(_COMPARISONS)} {self.slice()}"
        return f"{self.slice()} {rng.choice(_COMPARISONS)} {self.octets()}"

    def bytes_test(self) -> str:
        """Return a search in a protocol's bytes."""
        rng = self._rng
        name = rng.choice((*PROTOCOLS, "frame", "eth.src", "eth.addr"))
        if rng.random() < 0.4:
            pattern = rng.choice(
                (r"\x08\x00", "a+b?", "[0-9]{2}", r"^\x45", "(ab|cd)", r"\d\d", "[[:alpha:]]{3}", "a(?=b)", "x$")
            )
            return f'{name} matches {rng.choice(("r", ""))}"{pattern}"'
        return f"{name} contains {rng.choice((self.octets(), chr(34) + 'ab' + chr(34), 'c0:00'))}"

    def _number(self) -> str:
        rng = self._rng
        return rng.choice(_BY_TYPE[rng.choice(tuple(_NUMBERS))])

    def calculation(self, depth: int = 0) -> str:
        """Return something calculated, that begins with a field."""
        rng = self._rng
        left = self._number() if depth > 1 or rng.random() < 0.7 else self.calculation(depth + 1)
        right = self._number() if rng.random() < 0.2 else str(rng.randrange(1, 200))
        text = f"{left} {rng.choice('+-*/%&')} {right}"
        return f"{{{text}}}" if depth or rng.random() < 0.2 else text

    def calculated_test(self) -> str:
        """Return a test of what is calculated."""
        rng = self._rng
        kind = rng.random()
        if kind < 0.2:
            return self.calculation()
        if kind < 0.3:
            return f"-{self._number()} {rng.choice(('==', '>', '<'))} -{rng.randrange(100)}"
        if kind < 0.4:
            return f"{self._number()} {rng.choice(_COMPARISONS[:10])} {self.calculation()}"
        if kind < 0.5:
            address = rng.choice(("ip.src", "ip.dst", "ip.addr"))
            return f"{address} & {self.made(FieldType.IPV4)} {rng.choice(('==', '!='))} {self.made(FieldType.IPV4)}"
        return f"{self.calculation()} {rng.choice(_COMPARISONS[:10])} {rng.randrange(300)}"

    def function_test(self) -> str:
        """Return a test of what a function gives."""
        rng = self._rng
        name = self.field()
        one = rng.choice(
            (
                f"len({self._sliceable()})",
                f"count({self.layered(name)})",
                f"max({name}, {name})",
                f"min({name})",
                f"abs({self._number()} - {rng.randrange(100)})",
                f"max({self._number()}, {rng.randrange(200)})",
            )
        )
        if rng.random() < 0.25:
            shown = rng.choice((*_BY_TYPE[FieldType.IPV4], *_BY_TYPE[FieldType.UINT16], *_BY_TYPE[FieldType.ETHER]))
            right = rng.choice((' contains "1"', ' matches "^1"', ' == "1"', ' > "5"', '[0:2] == "19"'))
            return f"string({shown}){right}"
        if rng.random() < 0.1:
            return f"{self._number()} {rng.choice(_COMPARISONS[:10])} {one}"
        return f"{one} {rng.choice(_COMPARISONS[:10])} {rng.randrange(100)}"
