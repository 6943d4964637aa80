"""Tables as they fit terminals: what is cut shows it, and what is of no use when it is cut is whole or left out."""

from capd_client.cli.text import table, whole

ADDRESSES = ("192.0.2.4", "2001:db8:1234:5678:9abc:def0:1234:5678", "198.51.100.77", "fe80::1")


def test_items_are_whole_or_left_out_and_counted() -> None:
    for width in range(100):
        text = whole(ADDRESSES, width)
        assert len(text) <= width
        shown = tuple(each for each in text.split(", ") if each in ADDRESSES)
        assert shown == ADDRESSES[: len(shown)]
        left = len(ADDRESSES) - len(shown)
        assert text == ", ".join([*shown, *([f"+{left}"] if left and text else [])])
        # One more would not have fitted.
        longer = ", ".join([*ADDRESSES[: len(shown) + 1], *([f"+{left - 1}"] if left > 1 else [])])
        assert left == 0 or len(longer) > width


def test_without_a_width_all_of_them_are_there() -> None:
    assert whole(ADDRESSES, None) == ", ".join(ADDRESSES)
    assert whole((), 0) == whole((), None) == ""


def test_no_line_is_longer_and_no_item_is_cut() -> None:
    rows = [("1", "eth0", "a description", ADDRESSES), ("1,234,567", "a-very-long-name", "no items", ())]
    for width in range(1, 120):
        lines = table(("#", "NAME", "WHAT", "ADDRESSES"), rows, frozenset((0,)), width, frozenset((2, 3)))
        assert max(map(len, lines)) <= width
        cell = lines[1][lines[0].index("  ADD") :] if "  ADD" in lines[0] else ""
        for each in filter(None, cell.strip().split(", ")):
            assert each in ADDRESSES or each.removeprefix("+").isdecimal()
        if "1,234,567" not in lines[2]:
            assert width < 9
            assert "…" in lines[2] or width < 3
