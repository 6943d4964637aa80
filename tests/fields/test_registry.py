"""The table of fields: what is in it is Wireshark's, and what is not is refused by name."""

import subprocess

import pytest

from capd_protocol.fields.registry import FIELDS, WIDTHS, UnknownFieldError, fields_of
from capd_protocol.fields.types import FieldType


def test_each_field_has_the_name_and_the_type_that_wireshark_gives_it() -> None:
    listed = subprocess.run(["tshark", "-G", "fields"], capture_output=True, check=True, text=True).stdout
    types = {row[2]: row[3] for row in (line.split("\t") for line in listed.splitlines()) if row[0] == "F"}
    # A time since 1970 is an absolute one from Wireshark 4.2 on.
    types["frame.time_epoch"] = "FT_ABSOLUTE_TIME"
    assert {name: field.type.wireshark_name for name, field in FIELDS.items()} == {
        name: types.get(name) for name in FIELDS
    }


def test_each_place_has_room_for_its_number() -> None:
    for field in FIELDS.values():
        assert bool(field.places) != bool(field.frame)
        for place in field.places:
            width = place.width or WIDTHS[field.type]
            assert place.mask < 1 << width * 8, field.name
            assert place.mask or field.type is not FieldType.BOOLEAN, field.name


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("tcp.seq", "tcp.seq_raw"),
        ("ip.srcc", "ip.src"),
        ("IP.SRC", "ip.src"),
        ("tcp.dport", "tcp.port"),
    ],
)
def test_an_unknown_field_is_named_and_near_ones_are_offered(name: str, near: str) -> None:
    with pytest.raises(UnknownFieldError) as caught:
        fields_of(["ip.dst", name])
    assert caught.value.name == name
    assert near in caught.value.near


def test_nothing_is_offered_that_is_not_near() -> None:
    with pytest.raises(UnknownFieldError) as caught:
        fields_of(["http.request.method"])
    assert caught.value.near == ()
