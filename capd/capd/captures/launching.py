"""The launch message for a capture's worker, made of values. Pure."""

from collections.abc import Sequence

import msgspec

from capd.launch import DirectoryComes, Launch, LaunchInterface
from capd.policy.peer import Peer
from capd.policy.rules import Terms
from capd_protocol.filter_words import may_say_vlan
from capd_protocol.formats.compression import wanted_compression
from capd_protocol.messages import Conditions, StartCapture

#: The least that is left of a capture's time. Chosen: it begins, and ends for that reason.
_LEAST_DURATION_S = 0.001


def launch_of(
    request: StartCapture,
    owner: Peer,
    terms: Terms,
    interfaces: Sequence[LaunchInterface],
    *,
    waits: bool,
    directory_comes: DirectoryComes,
    continues: bool,
    elapsed_s: float | None,
) -> Launch:
    """Return the launch message of a worker.

    Args:
        request: what was asked for, within the terms.
        owner: as whom to capture.
        terms: what holds for all of it.
        interfaces: those to begin with.
        waits: go on without any.
        directory_comes: how the worker gets the directory.
        continues: files of earlier runs belong to its ring.
        elapsed_s: since the first of these runs began; None: this is the first one.
    """
    filters = _filters(request, terms)
    return Launch(
        user_id=owner.user_id,
        group_id=owner.group_id,
        groups=owner.groups,
        interfaces=tuple(interfaces),
        directory_comes=directory_comes,
        passes_files=request.pass_files and directory_comes != DirectoryComes.KEPT,
        # A filter mentions what only a live handle compiles well, or a link-layer type is asked for.
        needs_live_handles=any(map(may_say_vlan, filters)) or any(each.link_layer_type for each in request.interfaces),
        later_filters=filters if waits else (),
        max_disk_bytes=terms.max_disk_bytes,
        name=request.name,
        continues=continues,
        destination=request.destination,
        file_format=request.file_format,
        streams=tuple(each for each in request.interfaces if each.is_stream),
        ring=request.ring,
        recorder=request.recorder,
        autostop=request.autostop if elapsed_s is None else _left_of(request.autostop, elapsed_s),
        update_interval_s=request.update_interval_s,
        packet_flags=request.packet_flags,
        comments=request.comments,
        # A recorder's snapshots are not, and not what is in memory only.
        compression=(
            None
            if request.recorder is not None or request.destination.unnamed
            else wanted_compression(request.compress_type, request.destination.file_name)
        ),
        waits=waits,
    )


def _left_of(autostop: Conditions, elapsed_s: float) -> Conditions:
    if autostop.duration_s is None:
        return autostop
    return msgspec.structs.replace(autostop, duration_s=max(autostop.duration_s - elapsed_s, _LEAST_DURATION_S))


def _filters(request: StartCapture, terms: Terms) -> tuple[str, ...]:
    """Return all filters that its interfaces may come under."""
    texts = [each.capture_filter for each in request.interfaces]
    if request.recorder is not None:
        texts.append(request.recorder.trigger_filter)
    return tuple(dict.fromkeys(text for text in (*texts, *(rule.filter for rule in terms.rules)) if text))
