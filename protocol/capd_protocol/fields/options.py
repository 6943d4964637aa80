"""Options of IPv4 and TCP: one after another, for all packets that have as many. Pure."""

import numpy as np

from capd_protocol.fields.layers import I64, Flags, Layer, Numbers, Walk

_IP_HEADER_BYTES = 20
_TCP_HEADER_BYTES = 20
#: In an IPv4 header.
_DESTINATION_AT = 16
_SACK = 5
_SACK_BLOCK_BYTES = 8
#: What has no length.
_END, _NOTHING = 0, 1
#: Source routes: the address in the header is not where the packet goes in the end.
_SOURCE_ROUTES = (131, 137)
#: How long options of a kind are at least, by their numbers.
_LEAST_BYTES = np.zeros(256, np.int64)
_LEAST_BYTES[[7, 11, 12, 25, 68, 82, 130, 131, 133, 134, 136, 137, 148]] = 3, 4, 4, 8, 4, 12, 3, 3, 3, 6, 4, 3, 4
#: One without a third byte that says how far it is filled.
_ROUTER_ALERT = 148


def ip_options(walk: Walk, layer: Layer, options_bytes: I64) -> Flags:
    """Keep the destinations of headers that have options, as ``ip.dst``: in a source route, the last one's.

    Args:
        walk: what is walked.
        layer: headers that have options.
        options_bytes: how many.

    Returns:
        Which of them have no option that is shorter than one of its kind: behind that, Wireshark shows nothing.
    """
    are_sound = np.ones(len(layer.rows), np.bool_)
    data = layer.data
    destination = layer.at + _DESTINATION_AT
    at, ends = layer.at + _IP_HEADER_BYTES, layer.at + options_bytes + _IP_HEADER_BYTES
    captured_ends = layer.at + layer.size
    is_known = np.ones(len(at), np.bool_)
    places = np.arange(len(at))
    while len(places):
        # Options are looked at as far as they were captured; where one is cut in its beginning, nothing more is known.
        option = data.take(np.minimum(at, len(data) - 1))
        has_length = option > _NOTHING
        is_cut = at + has_length >= captured_ends
        is_known[places[is_cut]] = False
        length = np.where(has_length, data.take(np.minimum(at + 1, len(data) - 1)), 1)
        # One without room for its length, or longer than what is left, is the last.
        behind = at + length
        is_good = ~is_cut & (~has_length | ((length >= 2) & (behind <= ends) & (behind <= captured_ends)))
        is_cut = has_length & (option != _ROUTER_ALERT) & (at + 2 >= captured_ends) & (behind <= ends)
        is_known[places[is_cut]] = False
        are_sound[places[is_good & (length < _LEAST_BYTES.take(option))]] = False
        is_route = np.isin(option, _SOURCE_ROUTES)
        is_known[places[is_route & (behind > captured_ends) & (behind <= ends)]] = False
        # One that says that it is used up does not count.
        pointer = data.take(np.minimum(at + 2, len(data) - 1))
        is_route &= is_good & (pointer >= 4) & (pointer <= length)
        destination[places[is_route]] = behind[is_route] - 4
        goes_on = is_good & (option != _END) & (behind < ends)
        places, at, ends, captured_ends = places[goes_on], behind[goes_on], ends[goes_on], captured_ends[goes_on]
    moved = Layer(data, layer.rows, destination - _DESTINATION_AT, layer.size, layer.reported)
    walk.keep("ip.dst", moved.where(is_known))
    return are_sound


def whole_options(layer: Layer, header_bytes: I64) -> Flags:
    """Return which headers of IPv6 have only options that end within them.

    Args:
        layer: headers that begin with the next one's kind and their own length, captured whole.
        header_bytes: how long they are.
    """
    data = layer.data
    are_whole = np.ones(len(layer.rows), np.bool_)
    places = np.arange(len(layer.rows))
    at, ends = layer.at + 2, layer.at + header_bytes
    while len(places):
        has_length = data.take(at) != 0
        length = np.where(has_length, data.take(np.minimum(at + 1, len(data) - 1)).astype(np.int64) + 2, 1)
        behind = at + length
        are_whole[places[behind > ends]] = False
        goes_on = behind < ends
        places, at, ends = places[goes_on], behind[goes_on], ends[goes_on]
    return are_whole


#: Types of routing headers: of sources, of mobile nodes, and segments.
_SOURCE_ROUTE, _MOBILE, _SEGMENTS = 0, 2, 4


def whole_route(layer: Layer, header_bytes: I64) -> Flags:
    """Return which routing headers of IPv6 have all the addresses that they count.

    Args:
        layer: headers, captured whole.
        header_bytes: how long they are.
    """
    kind, left, last = layer.u8(2), layer.u8(3), layer.u8(4)
    addresses = (header_bytes - 8) // 16
    is_even = header_bytes % 16 == 8
    is_route = (kind == _SOURCE_ROUTE) & is_even & (left <= addresses)
    is_mobile = (kind == _MOBILE) & (header_bytes == 24) & (left == 1)
    is_segments = (kind == _SEGMENTS) & (last < addresses) & (left <= last)
    are_whole: Flags = is_route | is_mobile | is_segments
    return are_whole


#: Options with one form, by their numbers: the part that is kept, and their lengths in bytes.
_TCP_OPTIONS = {
    2: ("tcp.options.mss", 4),
    3: ("tcp.options.wscale", 3),
    8: ("tcp.options.timestamp", 10),
}


def tcp_options(walk: Walk, layer: Layer, options_bytes: I64) -> None:
    """Keep options: ``tcp.options``, of those with a length ``tcp.options.length``, and parts for the common ones.

    Args:
        walk: what is walked.
        layer: headers that have options.
        options_bytes: how many.
    """
    # They have the room that the header says, also where that is more than the packet says.
    size = np.minimum(np.maximum(layer.size - _TCP_HEADER_BYTES, 0), options_bytes)
    layer = Layer(layer.data, layer.rows, layer.at + _TCP_HEADER_BYTES, size, options_bytes).having(1)
    has_ended = np.zeros(len(layer.rows), np.bool_)
    while len(layer.rows):
        option = layer.u8(0)
        if has_ended.any():
            # Behind the end there may be zeros, and no option.
            is_good = ~has_ended | (option == _END)
            layer, option, has_ended = layer.where(is_good), option[is_good], has_ended[is_good]
        has_ended = has_ended | (option == _END)
        has_length = option > _NOTHING
        if has_length.any():
            # Of those with a length it must be there, count itself, and not go past the end.
            is_good = ~has_length | (layer.size >= 2)
            layer, option, has_length = layer.where(is_good), option[is_good], has_length[is_good]
            has_ended = has_ended[is_good]
            length = np.where(has_length, layer.data.take(np.minimum(layer.at + 1, len(layer.data) - 1)), 1)
            length = length.astype(np.int64)
            is_good = ~has_length | ((length >= 2) & (length <= layer.reported))
            layer, option, length = layer.where(is_good), option[is_good], length[is_good]
            has_ended = has_ended[is_good]
            _keep_option(walk, option, layer.cut(length))
            is_good = (option != _SACK) | ((length > 2) & (length % (_SACK_BLOCK_BYTES // 2) == 2))
            if not is_good.all():
                # One with half a block ends the list.
                layer, length, has_ended = layer.where(is_good), length[is_good], has_ended[is_good]
        else:
            length = np.ones(len(option), np.int64)
            walk.keep("tcp.options.kind", layer.cut(length))
        layer = layer.behind(length)
        is_good = layer.size > 0
        layer, has_ended = layer.where(is_good), has_ended[is_good]


def _keep_option(walk: Walk, option: Numbers, layer: Layer) -> None:
    walk.keep("tcp.options.kind", layer)
    walk.keep("tcp.options.length", layer.where(option > _NOTHING))
    for number, (kind, size_bytes) in _TCP_OPTIONS.items():
        if walk.wants(kind):
            walk.keep(kind, layer.where((option == number) & (layer.reported == size_bytes)))
    if walk.wants("tcp.options.sack") or walk.wants("tcp.options.sack.block"):
        _keep_sack(walk, layer.where(option == _SACK))


def _keep_sack(walk: Walk, layer: Layer) -> None:
    if not len(layer.rows):
        return
    blocks = (layer.reported - 2) // _SACK_BLOCK_BYTES
    # They are counted behind the last one, of which a half may be there.
    halves = (layer.reported - 2) // (_SACK_BLOCK_BYTES // 2)
    is_whole = layer.size >= np.where(halves > 0, 2 + halves * (_SACK_BLOCK_BYTES // 2), layer.reported)
    walk.keep("tcp.options.sack", layer.where(is_whole), blocks=blocks[is_whole])
    if walk.wants("tcp.options.sack.block"):
        block = layer.behind(2).having(1)
        while len(block.rows):
            walk.keep("tcp.options.sack.block", block)
            block = block.behind(_SACK_BLOCK_BYTES).having(1)
