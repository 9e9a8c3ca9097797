"""The side that clients of HTTP/2 see: frames -> requests, many at a time (RFC 9113).

The protocol itself is the library h2's, an extra; here are the limits that it leaves to its user:
requests that are reset again and again, frames that carry nothing, windows that are never opened.
"""

import asyncio
from collections.abc import Callable
from typing import Any, cast

from h2 import events  # pants: no-infer-dep
from h2.config import H2Configuration  # pants: no-infer-dep
from h2.connection import ConnectionState, H2Connection  # pants: no-infer-dep
from h2.exceptions import ProtocolError  # pants: no-infer-dep
from h2.settings import SettingCodes, Settings  # pants: no-infer-dep

from servekit.relay.allowance import Allowance
from servekit.relay.client_connection import (
    IN_TRANSIT_S,
    LINGER_AT_MOST_S,
    LINGER_S,
    ClientSet,
    Handler,
    RelayedRequest,
    peer_of,
    reset,
)
from servekit.relay.heads import MAX_HEAD_BYTES
from servekit.relay.http2_stream import NO_ERROR, Http2Stream

# As many requests at a time as most servers take from one connection.
MOST_STREAMS = 250
# A body may be sent this far ahead of us, on a stream and on all of them.
STREAM_WINDOW, CONNECTION_WINDOW = 256 * 1024, 4 * 1024 * 1024
_FIRST_WINDOW = 65_535

# A client may give up so many requests at once, and so many a second: each is work for us and for
# an engine ("rapid reset", CVE-2023-44487, and the resets that frames provoke, CVE-2025-8671).
RESETS, RESETS_PER_S = 500, 33
# Frames that carry nothing: pings, settings, priorities, empty data.
IDLE_FRAMES, IDLE_FRAMES_PER_S = 2000, 200

# Of our headers, for a client that is told them in short.
MOST_TABLE_BYTES = 4096

REFUSED_STREAM, ENHANCE_YOUR_CALM = 7, 11


class Http2Connection(asyncio.Protocol):
    """One client's connection.  Its streams are clients themselves."""

    exchange: RelayedRequest | None = None
    requests = 0

    def __init__(self, handler: Handler, clients: ClientSet) -> None:
        """*clients*: where it is found for as long as it is connected."""
        self._handler = handler
        self._clients = clients
        self._now = handler.now
        self._streams: dict[int, Http2Stream] = {}
        # The library checks what comes in; what goes out was checked, and is in lower case.
        self._h2 = H2Connection(
            H2Configuration(
                client_side=False,
                header_encoding=None,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        # Streams that were answered before their request was whole, and until when the rest of it
        # is dropped: many clients look at an answer only when they have sent everything.
        self._unread: dict[int, float] = {}
        self._resets = Allowance(RESETS, RESETS_PER_S)
        self._idle_frames = Allowance(IDLE_FRAMES, IDLE_FRAMES_PER_S)
        self._writable = True
        self._flushing = False
        # The last stream that is served, once we have said that we leave.
        self._last_stream: int | None = None
        # Until when we listen to a client that we have said farewell to.
        self._linger_until_s: float | None = None
        self._takes: dict[type[events.Event], Callable[[Any], None]] = {
            events.RequestReceived: self._begin,
            events.DataReceived: self._take_body,
            events.StreamEnded: self._end_body,
            events.StreamReset: self._was_reset,
            events.WindowUpdated: self._take_window,
            events.RemoteSettingsChanged: self._take_settings,
            events.ConnectionTerminated: self._client_leaves,
            events.TrailersReceived: lambda _: None,
        }
        self.idle_since_s = self._now()
        self._deadline_s = self.idle_since_s + handler.limits.idle_timeout_s

    @property
    def _closing(self) -> bool:
        return self._linger_until_s is not None or self.transport.is_closing()

    @property
    def busy(self) -> bool:
        """Whether a request is under way."""
        return bool(self._streams)

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.peer = peer_of(transport)
        clients = self._clients
        clients.add(self)
        self._h2.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: MOST_STREAMS,
                SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
                SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEAD_BYTES,
            },
        )
        self._h2.decoder.max_header_list_size = MAX_HEAD_BYTES
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(CONNECTION_WINDOW - _FIRST_WINDOW)
        if len(clients) > clients.most and not clients.shed_idle():
            self._end(ENHANCE_YOUR_CALM)
        self._flush()

    def connection_lost(self, error: Exception | None) -> None:
        del error
        self._clients.discard(self)
        self._streams_gone()

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        try:
            came = self._h2.receive_data(data)
        except ProtocolError:
            # The library has said why in a last frame.
            self._close()
            return
        for event in came:
            take = self._takes.get(type(event))
            if take is not None:
                take(event)
            elif not self._idle_frames.spend(self._now()):
                self._end(ENHANCE_YOUR_CALM)
            if self._closing:
                return
        self._flush()

    def pause_writing(self) -> None:
        # Its frames ask for answers, which would pile up here.
        self._writable = False
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self._writable = True
        self.transport.resume_reading()
        self._pump()

    # Time.

    def check(self, now_s: float) -> None:
        """Close a connection that has carried nothing for long; stop requests that do not end."""
        for stream in [s for s, until_s in self._unread.items() if now_s > until_s]:
            self.reset(stream, NO_ERROR)
        if self._linger_until_s is not None:
            if now_s > self._linger_until_s:
                self.abort()
        elif not self._streams and now_s > self._deadline_s:
            self._end(NO_ERROR)

    def close_if_idle(self, now_s: float) -> None:
        """Take no further request; close once none is under way, nor likely to be on its way."""
        if self._last_stream is None:
            self._last_stream = self._h2.highest_inbound_stream_id
            self._say_goodbye(NO_ERROR)
            self._flush()
        if not self._streams and now_s - self.idle_since_s > IN_TRANSIT_S:
            self.transport.close()

    def close(self) -> None:
        """Close it, after what is written."""
        self._end(NO_ERROR)

    def abort(self) -> None:
        """Close it at once."""
        reset(self.transport)

    def _end(self, why: int) -> None:
        """Say why, and close."""
        self._say_goodbye(why)
        self._close()

    def _close(self) -> None:
        """Write what is to be written, and read and drop what the client still sends for a while:
        closing at once would reset the connection, and take our last frames with it."""
        self._flush()
        self._streams_gone()
        if self._linger_until_s is None:
            self._linger_until_s = self._now() + LINGER_S
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    def _streams_gone(self) -> None:
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.gone()

    def _say_goodbye(self, why: int) -> None:
        try:
            self._h2.close_connection(why, last_stream_id=self._last_stream)
        except ProtocolError:
            return
        # To the library that is the end, but requests under way come to theirs (section 6.8).
        self._h2.state_machine.state = ConnectionState.SERVER_OPEN

    # Frames that came.

    def _begin(self, event: events.RequestReceived) -> None:
        number = event.stream_id
        if self._last_stream is not None and number > self._last_stream:
            self.reset(number, REFUSED_STREAM)
            return
        clients = self._clients
        if len(clients) >= clients.most and not clients.shed_idle():
            self.reset(number, REFUSED_STREAM)
            return
        stream = Http2Stream(number, self, self._handler, clients)
        self._streams[number] = stream
        fields = [(bytes(name), bytes(value)) for name, value in event.headers]
        stream.open(fields, ended=event.stream_ended is not None)

    def _take_body(self, event: events.DataReceived) -> None:
        size = event.flow_controlled_length
        if (
            not event.data
            and event.stream_ended is None
            and not self._idle_frames.spend(self._now())
        ):
            self._end(ENHANCE_YOUR_CALM)
            return
        stream = self._streams.get(event.stream_id)
        if stream is not None:
            stream.take_body(event.data)
        if size:
            self._do(lambda: self._h2.acknowledge_received_data(size, event.stream_id))

    def _end_body(self, event: events.StreamEnded) -> None:
        self._unread.pop(event.stream_id, None)
        stream = self._streams.get(event.stream_id)
        if stream is not None:
            stream.end_body()

    def _was_reset(self, event: events.StreamReset) -> None:
        self._unread.pop(event.stream_id, None)
        stream = self._streams.pop(event.stream_id, None)
        if stream is not None:
            stream.gone()
            self._rest()
        if not self._resets.spend(self._now()):
            self._end(ENHANCE_YOUR_CALM)

    def _take_window(self, event: events.WindowUpdated) -> None:
        stream = self._streams.get(event.stream_id) if event.stream_id else None
        if stream is not None:
            stream.pump()
        elif not event.stream_id:
            self._pump()
        elif not self._idle_frames.spend(self._now()):
            self._end(ENHANCE_YOUR_CALM)

    def _take_settings(self, event: events.RemoteSettingsChanged) -> None:
        del event
        # The library would remember whatever we send, as much as the client asks for.
        encoder = self._h2.encoder
        encoder.header_table_size = min(encoder.header_table_size, MOST_TABLE_BYTES)
        if not self._idle_frames.spend(self._now()):
            self._end(ENHANCE_YOUR_CALM)
        self._pump()

    def _client_leaves(self, event: events.ConnectionTerminated) -> None:
        """It will ask nothing more; it may still wait for answers (section 6.8)."""
        if event.error_code != NO_ERROR or not self._streams:
            self._close()
            return
        self._last_stream = self._h2.highest_inbound_stream_id
        self._h2.state_machine.state = ConnectionState.SERVER_OPEN

    # What streams call.

    def send_head(self, stream: int, fields: list[tuple[bytes, bytes]], *, last: bool) -> None:
        self._do(lambda: self._h2.send_headers(stream, fields, end_stream=last))

    def send_body(self, stream: int, waiting: bytearray, *, last: bool) -> bool:
        if not self._writable:
            return False
        room = self._room(stream) if waiting else 1
        if room <= 0:
            return False
        piece = bytes(waiting[:room])
        del waiting[:room]
        self._do(lambda: self._h2.send_data(stream, piece, end_stream=last and not waiting))
        return True

    def reset(self, stream: int, why: int) -> None:
        self._unread.pop(stream, None)
        self._do(lambda: self._h2.reset_stream(stream, why))

    def over(self, stream: int) -> None:
        self._streams.pop(stream, None)
        self._rest()
        found = self._h2.streams.get(stream)
        if found is not None and not found.closed:
            self._unread[stream] = self._now() + LINGER_AT_MOST_S

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.transport.get_extra_info(name, default)

    def _room(self, stream: int) -> int:
        try:
            window = self._h2.local_flow_control_window(stream)
        except ProtocolError:
            # It is closed: what waits is dropped by sending it.
            return 1 << 20
        return min(window, self._h2.max_outbound_frame_size)

    def _rest(self) -> None:
        if not self._streams:
            self.idle_since_s = self._now()
            self._deadline_s = self.idle_since_s + self._handler.limits.idle_timeout_s

    def _do(self, act: Callable[[], None]) -> None:
        """Do something with a stream; that the client has closed it meanwhile is no matter."""
        try:
            act()
        except ProtocolError:
            return
        if not self._flushing:
            # What is written in one turn of the loop goes out as one.
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _pump(self) -> None:
        """Send what waits on all streams, a frame of each in turn."""
        waiting = [stream for stream in self._streams.values() if stream.waits]
        while waiting:
            waiting = [stream for stream in waiting if stream.send_frame()]

    def _flush(self) -> None:
        self._flushing = False
        data = self._h2.data_to_send()
        if data and not self._closing:
            self.transport.write(data)
