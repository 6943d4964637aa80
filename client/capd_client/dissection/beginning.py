"""How dissections begin: what is asked is checked against what Wireshark knows."""

import os
from typing import cast

from capd_client.dissection.dissecting import Dissecting
from capd_client.dissection.options import Asked, DissectionArguments, asked
from capd_client.dissection.registry.fields import Fields, fields_of_program


def begun(
    names: tuple[object, ...],
    restart_packets: int | None,
    arguments: DissectionArguments,
    *,
    source: str,
    is_live: bool = False,
    source_fd: int | None = None,
) -> Dissecting:
    """Return a dissection whose engine is not started yet.

    Args:
        names: of fields, or ``fields.…`` themselves; none: frames are whole.
        restart_packets: begin with a new engine after so many packets.
        arguments: the others.
        source: what is dissected, for people.
        is_live: each frame is wanted as soon as its packet has come.
        source_fd: a file that the engine reads by itself, which is taken over.

    Raises:
        InvalidArgument: an argument is not possible.
        UnknownField: there is no such field.
        UnsupportedError: there is no tshark.
    """
    try:
        wanted, fields = prepared(names, restart_packets, arguments)
    except BaseException:
        if source_fd is not None:
            os.close(source_fd)
        raise
    return Dissecting(wanted, fields, source=source, is_live=is_live, source_fd=source_fd)


def prepared(
    names: tuple[object, ...], restart_packets: int | None, arguments: DissectionArguments
) -> tuple[Asked, Fields]:
    """Return what is asked for, and what there is; see ``begun``."""
    wanted = asked(tuple(map(str, names)), restart_packets, cast("DissectionArguments", dict(arguments)))
    program = wanted.program
    fields = fields_of_program(None if program is None else os.fspath(program))
    fields.load()
    if not wanted.has_own_configuration:
        fields.checked(wanted.names)
    return wanted, fields
