"""The capture filter of a stream: compiled when its packets' link type is known, and run in this process."""

from capd.filters.compiler import CaptureFailed, Compiler, FilterError
from capd_protocol.batches.batch_filter import BatchFilter, LoopError, UnanswerableError
from capd_protocol.messages import InterfaceRequest


class StreamFilter:
    """Of one stream, for each link type that comes."""

    def __init__(self, compiler: Compiler, request: InterfaceRequest, number: int) -> None:
        """Nothing is compiled yet.

        Args:
            compiler: compiles it.
            request: what is captured of the stream.
            number: its place among what was asked for.
        """
        self._compiler = compiler
        self._request = request
        self._number = number

    def compile_for(self, linktype: int, is_swapped: bool) -> BatchFilter | None:
        """Return what filters packets of a link type, of a machine of the other byte order or not; None: all pass.

        Raises:
            CaptureFailed: it does not compile for them, or asks for what no stream says.
        """
        request = self._request
        if not request.capture_filter:
            return None
        try:
            return BatchFilter(
                self._compiler.compile_for_stream(request.capture_filter, linktype, is_swapped=is_swapped)
            )
        except UnanswerableError as error:
            failed = FilterError(f"it asks for {error.value}, which a stream does not say")
        except LoopError:
            failed = FilterError("'protochain' is not done on a stream: use 'proto'")
        except FilterError as error:
            failed = error
        raise CaptureFailed(failed.failure(request.name, self._number)) from failed
