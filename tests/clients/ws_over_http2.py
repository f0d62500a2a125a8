"""A WebSocket caller over HTTP/2 (RFC 8441): `ws_over_http2.py HOST:PORT [CA]`. See ws_client.mjs for the commands.

HTTP/2 is `h2`'s, the frames of WebSocket are those of `websockets`, and nothing else is between them and the wire.
"""

import os
import socket
import ssl
import sys

import h2.config
import h2.connection
import h2.events
import h2.settings
from websockets.frames import Close, Frame, Opcode
from websockets.streams import StreamReader

ADDRESS = sys.argv[1]
CA = sys.argv[2] if len(sys.argv) > 2 else None


class Connection:
    """One HTTP/2 connection; events of a stream are kept until somebody asks for them."""

    def __init__(self):
        host, port = ADDRESS.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=20)
        if CA:
            context = ssl.create_default_context(cafile=CA)
            context.set_alpn_protocols(["h2"])
            self.socket = context.wrap_socket(self.socket, server_hostname=host)
            assert self.socket.selected_alpn_protocol() == "h2"
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(2**24)
        self.events = {}
        self.flush()
        while h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL not in self.h2.remote_settings:
            self.read()

    def flush(self):
        self.socket.sendall(self.h2.data_to_send())

    def read(self):
        data = self.socket.recv(65_536)
        assert data, "the connection was closed"
        for event in self.h2.receive_data(data):
            if isinstance(event, h2.events.ConnectionTerminated):
                raise AssertionError(f"GOAWAY {event.error_code} {event.additional_data}")
            if isinstance(event, h2.events.DataReceived):
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            if getattr(event, "stream_id", 0):
                self.events.setdefault(event.stream_id, []).append(event)
        self.flush()

    def next(self, stream, *kinds):
        """The next event of these kinds on a stream; others are passed over."""
        while True:
            waiting = self.events.setdefault(stream, [])
            while waiting:
                event = waiting.pop(0)
                if isinstance(event, kinds):
                    return event
            self.read()

    def request(self, fields, end_stream):
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, fields, end_stream=end_stream)
        self.flush()
        return stream

    def send(self, stream, data, end_stream=False):
        while True:
            window = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size)
            if window == 0:
                self.read()
                continue
            part, data = data[:window], data[window:]
            self.h2.send_data(stream, part, end_stream=end_stream and not data)
            self.flush()
            if not data:
                return


def head(path, method="CONNECT", more=()):
    fields = [(":method", method), (":scheme", "https" if CA else "http"), (":authority", ADDRESS), (":path", path)]
    if method == "CONNECT":
        fields.append((":protocol", "websocket"))
        fields += [("sec-websocket-version", "13"), ("origin", "https://orders.example")]
    return [*fields, ("authorization", "Bearer the-callers-own"), *more]


class WebSocket:
    def __init__(self, connection, path, more=()):
        self.connection = connection
        self.stream = connection.request(head(path, more=more), end_stream=False)
        answer = connection.next(self.stream, h2.events.ResponseReceived, h2.events.StreamReset)
        assert isinstance(answer, h2.events.ResponseReceived), answer
        self.fields = dict(answer.headers)
        self.status = int(self.fields[":status"])
        self.reader = StreamReader()

    def send(self, opcode, data):
        self.connection.send(self.stream, Frame(opcode, data).serialize(mask=True))

    def receive(self):
        parse = Frame.parse(self.reader.read_exact, mask=False)
        while True:
            try:
                next(parse)
            except StopIteration as parsed:
                return parsed.value
            self.more()

    def more(self):
        event = self.connection.next(
            self.stream, h2.events.DataReceived, h2.events.StreamEnded, h2.events.StreamReset
        )
        assert isinstance(event, h2.events.DataReceived), event
        self.reader.feed_data(event.data)

    def echoes(self, opcode, data):
        self.send(opcode, data)
        frame, found = self.receive(), b""
        assert frame.opcode == opcode, frame
        while True:
            found += frame.data
            if frame.fin:
                break
            frame = self.receive()
        assert found == data, f"{len(found)} bytes came back, not {len(data)}, or not the same"

    def close(self, code=1000, reason=""):
        self.send(Opcode.CLOSE, Close(code, reason).serialize())
        frame = self.receive()
        assert frame.opcode == Opcode.CLOSE, frame
        return Close.parse(frame.data)


def opened(connection, path, more=()):
    ws = WebSocket(connection, path, more)
    assert ws.status == 200, ws.fields
    for name in ["connection", "upgrade", "sec-websocket-accept", "transfer-encoding", "content-length"]:
        assert name not in ws.fields, f"{name} does not belong into HTTP/2's answer"
    return ws


def text():
    ws = opened(Connection(), "/echo")
    for message in ["hello", "", "naïve 注文 🙂", "x" * 126, "y" * 65_536]:
        ws.echoes(Opcode.TEXT, message.encode())
    ws.close()


def binary():
    ws = opened(Connection(), "/echo")
    for length in [0, 1, 125, 126, 65_535, 65_536]:
        ws.echoes(Opcode.BINARY, os.urandom(length))
    ws.close()


def large():
    ws = opened(Connection(), "/echo")
    ws.echoes(Opcode.BINARY, os.urandom(8 * 2**20))
    ws.close()


def ping():
    ws = opened(Connection(), "/echo")
    ws.send(Opcode.PING, b"hello")
    frame = ws.receive()
    assert (frame.opcode, frame.data) == (Opcode.PONG, b"hello"), frame
    ws.close()


def close_by_the_caller():
    connection = Connection()
    ws = opened(connection, "/echo")
    end = ws.close(4321, "enough")
    assert (end.code, end.reason) == (4321, "enough"), end
    connection.send(ws.stream, b"", end_stream=True)
    connection.next(ws.stream, h2.events.StreamEnded)


def close_by_the_api():
    connection = Connection()
    ws = opened(connection, "/bye")
    ws.send(Opcode.TEXT, b"hello")
    frame = ws.receive()
    end = Close.parse(frame.data)
    assert (end.code, end.reason) == (4001, "that is all"), end
    ws.send(Opcode.CLOSE, frame.data)
    connection.next(ws.stream, h2.events.StreamEnded)


def subprotocol():
    ws = opened(Connection(), "/echo", [("sec-websocket-protocol", "orders.v2, orders.v1")])
    assert ws.fields["sec-websocket-protocol"] == "orders.v1", ws.fields
    ws.close()


def refused():
    connection = Connection()
    ws = WebSocket(connection, "/refuse")
    assert ws.status == 403, ws.fields
    body = connection.next(ws.stream, h2.events.DataReceived)
    assert body.data == b"not you", body
    connection.next(ws.stream, h2.events.StreamEnded, h2.events.StreamReset)


def several_on_one_connection():
    """Tunnels and an ordinary request, in turns, on one connection."""
    connection = Connection()
    tunnels = [opened(connection, "/echo") for _ in range(5)]
    for turn in range(3):
        for number, ws in enumerate(tunnels):
            ws.echoes(Opcode.TEXT, f"{turn} {number}".encode())
        stream = connection.request(head("/", "GET"), end_stream=True)
        answer = connection.next(stream, h2.events.ResponseReceived)
        assert dict(answer.headers)[":status"] == "200", answer
    for ws in tunnels:
        ws.close()


def bytes_before_the_answer():
    """What is sent before the answer has come belongs to the tunnel and is not lost."""
    connection = Connection()
    stream = connection.request(head("/echo"), end_stream=False)
    connection.send(stream, Frame(Opcode.TEXT, b"at once").serialize(mask=True))
    answer = connection.next(stream, h2.events.ResponseReceived)
    assert dict(answer.headers)[":status"] == "200", answer
    found = b""
    while len(found) < 9:
        found += connection.next(stream, h2.events.DataReceived).data
    assert found == b"\x81\x07at once", found


def an_unknown_protocol():
    connection = Connection()
    fields = [(":protocol", "connect-udp") if name == ":protocol" else (name, value) for name, value in head("/echo")]
    stream = connection.request(fields, end_stream=False)
    answer = connection.next(stream, h2.events.ResponseReceived, h2.events.StreamReset)
    if isinstance(answer, h2.events.ResponseReceived):
        assert dict(answer.headers)[":status"][0] in "45", answer.headers


def a_connect_without_protocol():
    connection = Connection()
    stream = connection.request([(":method", "CONNECT"), (":authority", "elsewhere.example:443")], end_stream=False)
    answer = connection.next(stream, h2.events.ResponseReceived, h2.events.StreamReset)
    if isinstance(answer, h2.events.ResponseReceived):
        assert dict(answer.headers)[":status"] in ("400", "405"), answer.headers


CASES = [
    text,
    binary,
    large,
    ping,
    close_by_the_caller,
    close_by_the_api,
    subprotocol,
    refused,
    several_on_one_connection,
    bytes_before_the_answer,
    an_unknown_protocol,
    a_connect_without_protocol,
]


def attempt(case):
    try:
        case()
        print("ok", case.__name__, flush=True)
    except Exception as error:  # whatever it is, the test wants to read it
        words = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"failed {case.__name__}: {words}", flush=True)


for line in sys.stdin:
    name = line.strip()
    if name == "all":
        for each in CASES:
            attempt(each)
        print("done", flush=True)
    else:
        attempt(next(case for case in CASES if case.__name__ == name))
