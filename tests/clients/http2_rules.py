"""The rules of HTTP/2 for servers, tried frame by frame (RFC 9113, RFC 7541).

Prints the port of an upstream of its own. For each port that it then reads, it breaks every rule once on the gateway
there and prints what was not answered as it has to be, and at last how many rules were kept.

A broken rule has to end in GOAWAY with one of the rule's codes or in the end of the connection; where the rule is of
a stream, RST_STREAM will do. Of a malformed request an answer with 4xx will do as well.
"""

import socket
import struct
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from hpack import Decoder, Encoder

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS, ACK, PADDED, PRIORITISED = 1, 4, 1, 8, 32
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
CODES = {1: "PROTOCOL", 2: "INTERNAL", 3: "FLOW_CONTROL", 5: "CLOSED", 6: "FRAME_SIZE", 7: "REFUSED", 9: "COMPRESSION"}
PATIENCE = 10
KEPT = True


def upstream():
    """Answers with ten bytes, with 100,000 below /large, and never below /silent."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=500)

    def serve(connection):
        stream = connection.makefile("rwb")
        while line := stream.readline():
            length, chunked = 0, False
            while (field := stream.readline().strip().lower()) != b"":
                name, _, value = field.partition(b":")
                length = int(value) if name == b"content-length" else length
                chunked = chunked or name == b"transfer-encoding"
            stream.read(length)
            while chunked and (size := int(stream.readline(), 16)) >= 0:
                stream.read(size)
                stream.readline()
                chunked = size > 0
            if b"/silent" in line:
                connection.recv(1)
                return
            body = b"x" * (100_000 if b"/large" in line else 10)
            stream.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
            stream.write(b"" if line.startswith(b"HEAD") else body)
            stream.flush()

    def quietly(connection):
        with connection:
            try:
                serve(connection)
            except (OSError, ValueError):
                pass

    def accept():
        while True:
            threading.Thread(target=quietly, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener.getsockname()[1]


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def number(value):
    return struct.pack(">I", value)


def setting(*pairs):
    return b"".join(struct.pack(">HI", name, value) for name, value in pairs)


class Connection:
    """A caller. Nothing is done for it but what a rule says."""

    port = None

    def __init__(self, begin=True):
        self.socket = socket.create_connection(("127.0.0.1", self.port))
        self.buffer, self.closed, self.hpack, self.settings = b"", False, Encoder(), {}
        if begin:
            self.send(PREFACE + frame(SETTINGS, 0, 0))
            kind, _, _, payload = self.read(PATIENCE)
            assert kind == SETTINGS, "the server does not begin with SETTINGS"
            for at in range(0, len(payload), 6):
                name, value = struct.unpack(">HI", payload[at : at + 6])
                self.settings[name] = value
            self.send(frame(SETTINGS, ACK, 0))
            self.until(lambda kind, flags, *_: kind == SETTINGS and flags & ACK)

    def send(self, *frames):
        try:
            self.socket.sendall(b"".join(frames))
        except OSError:
            pass

    def read(self, patience):
        """The next frame; None at the end or when nothing comes."""
        end = time.monotonic() + patience

        def take(count):
            while len(self.buffer) < count:
                self.socket.settimeout(max(0.01, end - time.monotonic()))
                try:
                    some = self.socket.recv(65536)
                except TimeoutError:
                    return None
                except OSError:
                    some = b""
                if not some:
                    self.closed = True
                    return None
                self.buffer += some
            taken, self.buffer = self.buffer[:count], self.buffer[count:]
            return taken

        header = take(9)
        if header is None:
            return None
        length, stream = int.from_bytes(header[:3], "big"), int.from_bytes(header[5:9], "big") & 0x7FFFFFFF
        return header[3], header[4], stream, take(length) if length else b""

    def until(self, wanted):
        end = time.monotonic() + PATIENCE
        while (left := end - time.monotonic()) > 0:
            read = self.read(left)
            if read is None or wanted(*read):
                return read
        return None

    def next(self, *kinds):
        return self.until(lambda kind, *_: kind in kinds)

    def ends(self):
        self.until(lambda *_: False)
        return self.closed or "the connection stays open"

    def fields(self, *more, method="GET", path="/", scheme="http", authority="a", without=()):
        first = [(":method", method), (":scheme", scheme), (":path", path), (":authority", authority)]
        return self.hpack.encode([field for field in first if field[0] not in without] + list(more), huffman=False)

    def get(self, stream=1, **more):
        return frame(HEADERS, END_HEADERS | END_STREAM, stream, self.fields(**more))

    def post(self, *more, stream=1):
        return frame(HEADERS, END_HEADERS, stream, self.fields(*more, method="POST"))

    def more(self, *fields):
        return self.hpack.encode(fields, huffman=False)

    # What has to come of it.

    def connection_error(self, *codes):
        read = self.next(GOAWAY)
        if read is None:
            return self.closed or "nothing came of it"
        code = CODES.get(int.from_bytes(read[3][4:8], "big"))
        return code in codes or self.ends()

    def stream_error(self, *codes):
        read = self.next(GOAWAY, RST_STREAM)
        if read is None:
            return self.closed or "nothing came of it"
        reset = read[0] == RST_STREAM
        code = CODES.get(int.from_bytes(read[3][:4] if reset else read[3][4:8], "big"))
        return code in codes or (f"reset as {code}" if reset else self.ends())

    def refused(self):
        read = self.next(GOAWAY, RST_STREAM, HEADERS)
        if read is None:
            return self.closed or "nothing came of it"
        if read[0] != HEADERS:
            return KEPT
        status = dict(Decoder().decode(read[3]))[":status"]
        return status.startswith("4") or f"answered with {status}"

    def answered(self, stream=1):
        read = self.next(GOAWAY, RST_STREAM, HEADERS)
        return (read is not None and read[0] == HEADERS and read[2] == stream) or f"not answered: {read}"

    def alive(self):
        self.send(frame(PING, 0, 0, b"are you?"))
        read = self.until(lambda kind, flags, *_: kind == GOAWAY or (kind == PING and flags & ACK))
        return (read is not None and read[3] == b"are you?") or f"no answer to a ping: {read}"

    def data(self, length):
        read = self.next(DATA, GOAWAY, RST_STREAM)
        return (read is not None and read[0] == DATA and len(read[3]) == length) or f"not {length} bytes of data: {read}"


RULES = []


def rule(name, *frames, then, begin=True):
    """One rule: `frames` of a connection are sent, `then` says what has to come of it."""

    def tried():
        connection = Connection(begin)
        connection.send(*(part(connection) if callable(part) else part for part in frames))
        return then(connection)

    RULES.append((name, tried))


def connection_error(*codes):
    return lambda c: c.connection_error(*codes)


def stream_error(*codes):
    return lambda c: c.stream_error(*codes)


def malformed(name, *more, only=None, **request):
    """A request that RFC 9113 §8 calls malformed."""

    def head(c):
        return frame(HEADERS, END_HEADERS | END_STREAM, 1, c.more(*only) if only else c.fields(*more, **request))

    rule(name, head, then=Connection.refused)


REQUEST = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")]
BLOCK_CUT = lambda c: frame(HEADERS, END_STREAM, 1, c.fields())
SILENT = lambda c: c.get(path="/silent")
GET, POST = Connection.get, Connection.post
ITSELF = struct.pack(">IB", 1, 255)
CLOSED = [
    ("DATA", frame(DATA, END_STREAM, 1, b"data"), ["CLOSED"]),
    ("HEADERS", GET, ["CLOSED"]),
    ("CONTINUATION", lambda c: frame(CONTINUATION, END_HEADERS, 1, c.more(("a", "b"))), ["CLOSED", "PROTOCOL"]),
]


def finished(c):
    c.send(c.get())
    c.until(lambda kind, flags, *_: kind in (HEADERS, DATA) and flags & END_STREAM)
    return b""


# RFC 9113 §3 and §4: beginning, frames, header blocks.
rule("3.4 no preface", b"SOMETHING ELSE THAN A PREFACE\r\n\r\n", begin=False, then=lambda c: c.ends())
rule("3.4 no SETTINGS", PREFACE, frame(PING, 0, 0, b"12345678"), begin=False, then=connection_error("PROTOCOL"))
rule("4.1 unknown type", frame(0xFF, 0, 0, b"12345678"), then=Connection.alive)
rule("4.1 unknown flags", frame(WINDOW_UPDATE, 0x16, 0, number(1)), then=Connection.alive)
rule("4.1 reserved bit", frame(WINDOW_UPDATE, 0, 0x80000000, number(1)), then=Connection.alive)
rule("4.2 a frame of the full size", POST, frame(DATA, END_STREAM, 1, b"x" * 16384), then=Connection.answered)
rule("4.2 DATA too long", POST, frame(DATA, END_STREAM, 1, b"x" * 16385), then=stream_error("FRAME_SIZE"))
rule("4.2 HEADERS too long", frame(HEADERS, 5, 1, b"x" * 16385), then=connection_error("FRAME_SIZE"))
rule("4.3 a broken block", frame(HEADERS, 5, 1, b"\x40"), then=connection_error("COMPRESSION"))
rule("4.3 PRIORITY in a block", BLOCK_CUT, frame(PRIORITY, 0, 1, b"\0\0\0\0\xff"), then=connection_error("PROTOCOL"))
rule("4.3 HEADERS of another in a block", BLOCK_CUT, lambda c: c.get(3), then=connection_error("PROTOCOL"))
rule("4.3 an unknown frame in a block", BLOCK_CUT, frame(0x16, 0, 0, b"x"), then=connection_error("PROTOCOL"))

# §5: streams.
for kind, sent in [
    ("DATA", frame(DATA, END_STREAM, 1, b"data")),
    ("RST_STREAM", frame(RST_STREAM, 0, 1, number(8))),
    ("WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 1, number(1))),
    ("CONTINUATION", lambda c: frame(CONTINUATION, END_HEADERS, 1, c.fields())),
]:
    rule(f"5.1 {kind} on an idle stream", sent, then=connection_error("PROTOCOL"))
for kind, sent, codes in CLOSED:
    rule(f"5.1 {kind} behind the request's end", SILENT, sent, then=stream_error(*codes))
    rule(f"5.1 {kind} behind a reset", POST, frame(RST_STREAM, 0, 1, number(8)), sent, then=stream_error(*codes))
    rule(f"5.1 {kind} behind the answer", finished, sent, then=stream_error(*codes))
rule("5.1.1 an even number", lambda c: c.get(2), then=connection_error("PROTOCOL"))
rule("5.1.1 a lower number", lambda c: c.get(5), lambda c: c.get(3), then=connection_error("PROTOCOL"))
rule(
    "5.1.2 more streams than allowed",
    lambda c: b"".join(c.get(1 + 2 * n, path="/silent") for n in range(c.settings[3] + 1)),
    then=stream_error("PROTOCOL", "REFUSED"),
)
rule(
    "5.3.1 HEADERS that depends on itself",
    lambda c: frame(HEADERS, 5 | PRIORITISED, 1, ITSELF + c.fields()),
    then=stream_error("PROTOCOL"),
)
rule("5.3.1 PRIORITY that depends on itself", frame(PRIORITY, 0, 1, ITSELF), then=stream_error("PROTOCOL"))
rule("5.4.1 the connection ends", frame(PING, 0, 0), then=Connection.ends)

# §6: each frame.
rule("6.1 DATA on stream 0", frame(DATA, END_STREAM, 0, b"data"), then=connection_error("PROTOCOL"))
rule("6.1 more padding than DATA", POST, frame(DATA, 1 | PADDED, 1, b"\x06data"), then=connection_error("PROTOCOL"))
rule("6.1 padding", POST, frame(DATA, 1 | PADDED, 1, b"\x02data\0\0"), then=Connection.answered)
rule("6.2 HEADERS on stream 0", lambda c: c.get(0), then=connection_error("PROTOCOL"))
rule("6.2 more padding than HEADERS", frame(HEADERS, 5 | PADDED, 1, b"\x09\x82"), then=connection_error("PROTOCOL"))
rule("6.3 PRIORITY on stream 0", frame(PRIORITY, 0, 0, ITSELF), then=connection_error("PROTOCOL"))
rule("6.3 PRIORITY of 4 bytes", POST, frame(PRIORITY, 0, 1, number(0)), then=stream_error("FRAME_SIZE"))
rule("6.3 PRIORITY anywhere", finished, frame(PRIORITY, 0, 1, b"\0\0\0\0\xff"), then=Connection.alive)
rule("6.4 RST_STREAM on stream 0", frame(RST_STREAM, 0, 0, number(8)), then=connection_error("PROTOCOL"))
rule("6.4 RST_STREAM of 3 bytes", POST, frame(RST_STREAM, 0, 1, b"\0\0\0"), then=connection_error("FRAME_SIZE"))
rule("6.5 an ACK with settings", frame(SETTINGS, ACK, 0, b"\0"), then=connection_error("FRAME_SIZE"))
rule("6.5 SETTINGS on a stream", frame(SETTINGS, 0, 1, setting((3, 1))), then=connection_error("PROTOCOL"))
rule("6.5 SETTINGS of 3 bytes", frame(SETTINGS, 0, 0, b"\0\3\0"), then=connection_error("FRAME_SIZE"))
for name, value, code in [(2, 2, "PROTOCOL"), (4, 2**31, "FLOW_CONTROL"), (5, 16383, "PROTOCOL"), (5, 2**24, "PROTOCOL")]:
    sent = frame(SETTINGS, 0, 0, setting((name, value)))
    rule(f"6.5.2 setting {name} to {value}", sent, then=connection_error(code))
rule("6.5.2 an unknown setting", frame(SETTINGS, 0, 0, setting((0xFF, 1))), then=Connection.alive)
rule("6.5.3 the last value", frame(SETTINGS, 0, 0, setting((4, 100), (4, 1))), GET, then=lambda c: c.data(1))
rule(
    "6.5.3 an ACK",
    frame(SETTINGS, 0, 0, setting((1, 4096))),
    then=lambda c: c.until(lambda kind, flags, *_: kind == SETTINGS and flags & ACK) is not None or "no ACK",
)
rule("6.7 PING", then=Connection.alive)
rule("6.7 an ACK is not answered", frame(PING, ACK, 0, b"12345678"), then=Connection.alive)
rule("6.7 PING on a stream", frame(PING, 0, 1, b"12345678"), then=connection_error("PROTOCOL"))
rule("6.7 PING of 6 bytes", frame(PING, 0, 0, b"123456"), then=connection_error("FRAME_SIZE"))
rule("6.8 GOAWAY on a stream", frame(GOAWAY, 0, 1, number(0) + number(0)), then=connection_error("PROTOCOL"))
rule("6.9 no increment", frame(WINDOW_UPDATE, 0, 0, number(0)), then=connection_error("PROTOCOL"))
rule("6.9 no increment of a stream", POST, frame(WINDOW_UPDATE, 0, 1, number(0)), then=stream_error("PROTOCOL"))
rule("6.9 WINDOW_UPDATE of 3 bytes", frame(WINDOW_UPDATE, 0, 0, b"\0\0\1"), then=connection_error("FRAME_SIZE"))
WIDEST = number(2**31 - 1)
rule("6.9.1 too wide", frame(WINDOW_UPDATE, 0, 0, WIDEST) * 2, then=connection_error("FLOW_CONTROL"))
rule("6.9.1 a stream too wide", POST, frame(WINDOW_UPDATE, 0, 1, WIDEST) * 2, then=stream_error("FLOW_CONTROL"))


def narrow(c):
    if (first := c.data(1)) is not KEPT:
        return first
    c.send(frame(WINDOW_UPDATE, 0, 1, number(1)))
    return c.data(1)


def widened(c):
    c.next(HEADERS)
    c.send(frame(SETTINGS, 0, 0, setting((4, 1))))
    return c.data(1)


def negative(c):
    if (first := c.data(3)) is not KEPT:
        return first
    c.send(frame(SETTINGS, 0, 0, setting((4, 2))), frame(WINDOW_UPDATE, 0, 1, number(2)))
    return c.data(1)


rule("6.9.1 the window is kept to", frame(SETTINGS, 0, 0, setting((4, 1))), GET, then=narrow)
rule("6.9.2 a window that grows later", frame(SETTINGS, 0, 0, setting((4, 0))), GET, then=widened)
rule("6.9.2 a negative window", frame(SETTINGS, 0, 0, setting((4, 3))), lambda c: c.get(path="/large"), then=negative)


def going_on(flags, stream=1):
    return lambda c: frame(CONTINUATION, flags, stream, c.more(("x-a", "b")))


END = ["PROTOCOL", "CLOSED"]
rule("6.10 several CONTINUATIONs", BLOCK_CUT, going_on(0), going_on(END_HEADERS), then=Connection.answered)
rule("6.10 DATA in between", BLOCK_CUT, going_on(0), frame(DATA, 1, 1, b"x"), then=connection_error("PROTOCOL"))
rule("6.10 on stream 0", BLOCK_CUT, going_on(END_HEADERS, 0), then=connection_error("PROTOCOL"))
rule("6.10 behind a whole block", SILENT, going_on(END_HEADERS), then=connection_error(*END))
rule("6.10 behind its end", BLOCK_CUT, going_on(END_HEADERS), going_on(END_HEADERS), then=connection_error(*END))
rule("6.10 behind DATA", POST, frame(DATA, 1, 1, b"x"), going_on(END_HEADERS), then=connection_error(*END))
rule("7 an unknown reason to reset", POST, frame(RST_STREAM, 0, 1, number(0xFF)), then=Connection.alive)

# §8: requests.
rule("8.1 HEADERS twice", POST, lambda c: frame(HEADERS, 4, 1, c.more(("x-t", "b"))), then=stream_error("PROTOCOL"))
rule(
    "8.1 trailers",
    POST,
    frame(DATA, 0, 1, b"data"),
    lambda c: frame(HEADERS, 5, 1, c.more(("x-t", "b"))),
    then=Connection.answered,
)
rule("8.1 HEAD", lambda c: c.get(method="HEAD"), then=Connection.answered)
rule("8.1 POST", POST, frame(DATA, END_STREAM, 1, b"data"), then=Connection.answered)
rule("8.1.1 too little data", lambda c: c.post(("content-length", "5")), frame(DATA, 1, 1, b"data"), then=Connection.refused)
rule("8.1.1 too much data", lambda c: c.post(("content-length", "1")), frame(DATA, 1, 1, b"data"), then=Connection.refused)
rule(
    "8.1.1 too little in several",
    lambda c: c.post(("content-length", "9")),
    frame(DATA, 0, 1, b"data"),
    frame(DATA, 1, 1, b"data"),
    then=Connection.refused,
)
malformed("8.2.1 an upper-case name", ("X-A", "b"))
malformed("8.2.1 a name with a colon", ("x:a", "b"))
malformed("8.2.1 a name with a space", ("x a", "b"))
malformed("8.2.1 no name", ("", "b"))
for byte in ["\r", "\n", "\0"]:
    malformed(f"8.2.1 {byte!r} in a value", ("x-a", f"a{byte}b"))
malformed("8.2.1 space before a value", ("x-a", " b"))
malformed("8.2.1 space behind a value", ("x-a", "b "))
for field in ["connection", "transfer-encoding", "keep-alive", "upgrade", "proxy-connection"]:
    malformed(f"8.2.2 {field}", (field, "chunked" if field == "transfer-encoding" else "close"))
malformed("8.2.2 TE for more than trailers", ("te", "trailers, deflate"))
malformed("8.3 an unknown one", (":test", "a"))
malformed("8.3 one of answers", (":status", "200"))
malformed("8.3 behind others", only=[*REQUEST[:3], ("x-a", "b"), REQUEST[3]])
for name in [":method", ":scheme", ":path"]:
    malformed(f"8.3.1 without {name}", without=(name,))
for field in REQUEST:
    malformed(f"8.3.1 {field[0]} twice", only=[field, *REQUEST])
malformed("8.3.1 an empty path", path="")
malformed("8.3.1 a relative path", path="small")
malformed("8.3.1 a user in the authority", authority="u@a")
malformed("8.3.1 another host", ("host", "b"))
malformed("8.5 CONNECT with a path", only=[(":method", "CONNECT"), *REQUEST[1:]])
rule(
    "8.4 PUSH_PROMISE of a caller",
    POST,
    lambda c: frame(PUSH_PROMISE, END_HEADERS, 1, number(3) + c.fields()),
    then=connection_error("PROTOCOL"),
)

# RFC 7541.
for name, block in [
    ("2.3.3 an index above the tables", b"\xc6"),
    ("2.3.3 a name's index above the tables", b"\x7f\x07\x01a"),
    ("4.2 a size at the end", b"\x20"),
    ("5.2 too much padding", b"\x00\x85\xf2\xb2\x4a\x84\xff\x84\x49\x50\x9f\xff"),
    ("5.2 padding of zeros", b"\x00\x85\xf2\xb2\x4a\x84\xff\x83\x49\x50\x90"),
    ("5.2 an end of string", b"\x00\x85\xf2\xb2\x4a\x84\xff\x87\x49\x50\xff\xff\xff\xff\x00"),
    ("6.1 index 0", b"\x80"),
]:
    rule(f"HPACK {name}", lambda c, block=block: frame(HEADERS, 5, 1, c.fields() + block), then=connection_error("COMPRESSION"))
rule(
    "HPACK 6.3 a size above the setting",
    lambda c: frame(HEADERS, 5, 1, b"\x3f\xe1\xff\x03" + c.fields()),
    then=connection_error("COMPRESSION"),
)


def outcome(named):
    name, tried = named
    try:
        return name, tried()
    except Exception as error:  # Whatever it is, the rule was not kept.
        return name, repr(error)


def main():
    print(upstream(), flush=True)
    for line in sys.stdin:
        Connection.port = int(line)
        with ThreadPoolExecutor(8) as pool:
            outcomes = list(pool.map(outcome, RULES))
        for name, what in outcomes:
            if what is not KEPT:
                print(f"{name}: {what}")
        print(f"{sum(what is KEPT for _, what in outcomes)} of {len(RULES)}", flush=True)


main()
