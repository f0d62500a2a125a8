"""A gRPC API that demands a bearer token in the metadata of every call: `grpc_server.py [CERTIFICATE KEY]`.

Prints `ready PORT`, then one line for each call: `call METHOD ok|refused`. The command `revoke` on stdin takes
back every token seen so far. A call without a good token ends with UNAUTHENTICATED, as gRPC servers say it:
HTTP 200 with the status in the head of an answer that has no body.

Messages are plain bytes, so nothing has to be generated from a schema.
"""

import sys
import threading
import time
from concurrent import futures

import grpc

SERVICE = "test.Orders"
seen = set()
revoked = set()
cancelled = threading.Event()
lock = threading.Lock()


def say(line):
    with lock:
        print(line, flush=True)


class Doorkeeper(grpc.ServerInterceptor):
    """Judges the token before anything of a call is read."""

    def intercept_service(self, continuation, details):
        method = details.method.rsplit("/", 1)[1]
        credentials = [value for key, value in details.invocation_metadata if key == "authorization"]
        token = credentials[0].removeprefix("Bearer ") if len(credentials) == 1 else ""
        if token.count(".") == 2 and token not in revoked:
            seen.add(token)
            say(f"call {method} ok")
            return continuation(details)
        say(f"call {method} refused")
        handler = continuation(details)
        if handler is None:
            return None

        def refuse(_, context):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "a token is needed")

        kinds = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }
        return kinds[handler.request_streaming, handler.response_streaming](refuse)


def unary(request, context):
    return b"echo " + request


def collect(requests, context):
    return b",".join(requests)


def count(request, context):
    for number in range(int(request)):
        yield str(number).encode()


def chat(requests, context):
    for request in requests:
        yield b"echo " + request


def fail(request, context):
    context.set_trailing_metadata((("reason", "because"), ("details-bin", bytes(range(256)))))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "the order is closed: 50 % of naïve 注文")


def fail_midway(request, context):
    yield b"one"
    yield b"two"
    context.abort(grpc.StatusCode.DATA_LOSS, "the rest is gone")


def hang(request, context):
    cancelled.clear()
    context.add_callback(cancelled.set)
    while context.is_active():
        time.sleep(0.01)
    return b"never"


def was_cancelled(request, context):
    return b"yes" if cancelled.wait(10) else b"no"


def metadata(request, context):
    asked = [item for item in context.invocation_metadata() if item[0].startswith("x-")]
    context.send_initial_metadata([("x-first", "1"), *((f"{key}-back", value) for key, value in _named(asked))])
    context.set_trailing_metadata((("x-last", "2"), ("x-last-bin", b"\x00\xff\x00")))
    return ";".join(sorted(key for key, _ in asked)).encode()


def _named(items):
    for key, value in items:
        yield (key.removesuffix("-bin"), value.hex() if isinstance(value, bytes) else value)


def remaining(request, context):
    return str(context.time_remaining()).encode()


def listen_to_commands(server):
    for line in sys.stdin:
        if line.strip() == "revoke":
            revoked.update(seen)
            say("revoked")
    server.stop(0)


def main():
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Collect": grpc.stream_unary_rpc_method_handler(collect),
        "Count": grpc.unary_stream_rpc_method_handler(count),
        "Chat": grpc.stream_stream_rpc_method_handler(chat),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
        "FailMidway": grpc.unary_stream_rpc_method_handler(fail_midway),
        "Hang": grpc.unary_unary_rpc_method_handler(hang),
        "WasCancelled": grpc.unary_unary_rpc_method_handler(was_cancelled),
        "Metadata": grpc.unary_unary_rpc_method_handler(metadata),
        "Remaining": grpc.unary_unary_rpc_method_handler(remaining),
    }
    server = grpc.server(
        futures.ThreadPoolExecutor(32),
        handlers=[grpc.method_handlers_generic_handler(SERVICE, handlers)],
        interceptors=[Doorkeeper()],
        options=[("grpc.max_receive_message_length", 8 * 2**20)],
        compression=grpc.Compression.Gzip,
    )
    if len(sys.argv) > 2:
        with open(sys.argv[1], "rb") as chain, open(sys.argv[2], "rb") as key:
            credentials = grpc.ssl_server_credentials([(key.read(), chain.read())])
        port = server.add_secure_port("127.0.0.1:0", credentials)
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    say(f"ready {port}")
    listen_to_commands(server)


main()
