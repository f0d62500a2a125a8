"""A gRPC caller: `grpc_client.py ADDRESS [--ca FILE] [--token TOKEN] [--service NAME]`.

The command `all` on stdin runs every case and prints `ok NAME` or `failed NAME: why` for each, then `done`.
Any other command is the name of one case, or `status`, which calls once and prints `STATUS: WORDS`.
"""

import argparse
import queue
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc

parser = argparse.ArgumentParser()
parser.add_argument("address")
parser.add_argument("--ca")
parser.add_argument("--token", help="sent with every call, for calls that go straight to the server")
parser.add_argument("--service", default="test.Orders")
arguments = parser.parse_args()

METADATA = [("authorization", "Bearer " + (arguments.token or "the-callers-own"))]
# Larger than gRPC's own default of 4 MiB, as the message's envelope comes on top.
OPTIONS = [("grpc.max_receive_message_length", 8 * 2**20), ("grpc.enable_http_proxy", 0)]
LIMIT = 20


def connect():
    if arguments.ca:
        with open(arguments.ca, "rb") as ca:
            credentials = grpc.ssl_channel_credentials(ca.read())
        return grpc.secure_channel(arguments.address, credentials, OPTIONS)
    return grpc.insecure_channel(arguments.address, OPTIONS)


channel = connect()


def path(method):
    return f"/{arguments.service}/{method}"


def call(kind, method, request, timeout=LIMIT, metadata=(), **more):
    stub = getattr(channel, kind)(path(method))
    return stub(request, timeout=timeout, metadata=[*METADATA, *metadata], **more)


def same(found, wanted):
    if found != wanted:
        raise AssertionError(f"{found!r}, not {wanted!r}")


def fails(run, code):
    try:
        run()
    except grpc.RpcError as error:
        same(error.code(), code)
        return error
    raise AssertionError(f"the call went well, not {code}")


def unary():
    same(call("unary_unary", "Unary", b"hello"), b"echo hello")
    same(call("unary_unary", "Unary", b""), b"echo ")


def client_streaming():
    same(call("stream_unary", "Collect", iter([b"a", b"b", b"c"])), b"a,b,c")
    same(call("stream_unary", "Collect", iter([])), b"")


def server_streaming():
    numbers = list(call("unary_stream", "Count", b"1000"))
    same(numbers, [str(n).encode() for n in range(1000)])
    same(list(call("unary_stream", "Count", b"0")), [])


def bidirectional():
    """Every message waits for the answer to the one before: nothing may be held back on the way."""
    outbox = queue.Queue()
    answers = call("stream_stream", "Chat", iter(outbox.get, None))
    for number in range(20):
        outbox.put(str(number).encode())
        same(next(answers), b"echo " + str(number).encode())
    outbox.put(None)
    same(list(answers), [])


def error_with_details():
    error = fails(lambda: call("unary_unary", "Fail", b""), grpc.StatusCode.FAILED_PRECONDITION)
    same(error.details(), "the order is closed: 50 % of naïve 注文")
    trailing = dict(error.trailing_metadata())
    same((trailing["reason"], trailing["details-bin"]), ("because", bytes(range(256))))


def error_midway():
    answers = call("unary_stream", "FailMidway", b"")
    same([next(answers), next(answers)], [b"one", b"two"])
    error = fails(lambda: next(answers), grpc.StatusCode.DATA_LOSS)
    same(error.details(), "the rest is gone")


def deadline():
    left = float(call("unary_unary", "Remaining", b"", timeout=15))
    # The server counts from when it got the call.
    assert 5 < left <= 16, left
    start = time.monotonic()
    fails(lambda: call("unary_unary", "Hang", b"", timeout=0.5), grpc.StatusCode.DEADLINE_EXCEEDED)
    took = time.monotonic() - start
    assert took < 5, took
    same(call("unary_unary", "WasCancelled", b""), b"yes")


def cancellation():
    stub = channel.unary_unary(path("Hang"))
    hanging = stub.future(b"", timeout=LIMIT, metadata=METADATA)
    # The server must have the call before it is taken back.
    same(call("unary_unary", "Unary", b"x"), b"echo x")
    threading.Timer(0.2, hanging.cancel).start()
    try:
        hanging.result()
    except grpc.FutureCancelledError:
        pass
    same(call("unary_unary", "WasCancelled", b""), b"yes")


def large_messages():
    message = bytes(range(256)) * (4 * 2**20 // 256)
    same(call("unary_unary", "Unary", message), b"echo " + message)


def compression():
    message = b"the same again " * 10_000
    same(call("unary_unary", "Unary", message, compression=grpc.Compression.Gzip), b"echo " + message)


def metadata():
    stub = channel.unary_unary(path("Metadata"))
    sent = [("x-text", "a, b"), ("x-bytes-bin", b"\x00\x01\xff"), ("x-text", "c")]
    answer, done = stub.with_call(b"", timeout=LIMIT, metadata=[*METADATA, *sent])
    assert {"x-text", "x-bytes-bin"} <= set(answer.decode().split(";")), answer
    first = list(done.initial_metadata())
    same([value for key, value in first if key == "x-first"], ["1"])
    # A list of values is one value, or several in the same order (RFC 9110 §5.3).
    same(", ".join(value for key, value in first if key == "x-text-back"), "a, b, c")
    same([value for key, value in first if key == "x-bytes-back"], ["0001ff"])
    trailing = dict(done.trailing_metadata())
    same((trailing["x-last"], trailing["x-last-bin"]), ("2", b"\x00\xff\x00"))


def many_at_once():
    def one(number):
        text = str(number).encode() * 100
        same(call("unary_unary", "Unary", text), b"echo " + text)

    with ThreadPoolExecutor(24) as pool:
        list(pool.map(one, range(240)))


CASES = [
    unary,
    client_streaming,
    server_streaming,
    bidirectional,
    error_with_details,
    error_midway,
    deadline,
    cancellation,
    large_messages,
    compression,
    metadata,
    many_at_once,
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
        for case in CASES:
            attempt(case)
        print("done", flush=True)
    elif name == "status":
        try:
            call("unary_unary", "Unary", b"hello")
            print("OK", flush=True)
        except grpc.RpcError as error:
            print(f"{error.code().name}: {error.details()}", flush=True)
    else:
        attempt(next(case for case in CASES if case.__name__ == name))
channel.close()
