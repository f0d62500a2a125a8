"""A WebSocket caller that uses `websockets`: `ws_client.py URL [CA]`. See ws_client.mjs for the commands."""

import os
import ssl
import sys

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

BASE = sys.argv[1]
TLS = ssl.create_default_context(cafile=sys.argv[2]) if len(sys.argv) > 2 else None
TOKEN = os.environ.get("CALLERS_TOKEN", "the-callers-own")


def opened(path, **more):
    headers = {"authorization": f"Bearer {TOKEN}"}
    return connect(BASE + path, additional_headers=headers, ssl=TLS, proxy=None, max_size=2**26, **more)


def echoes(ws, message):
    ws.send(message)
    answer = ws.recv(timeout=20)
    assert answer == message, f"{len(answer)} came back, not {len(message)}, or not the same"


def text():
    with opened("/echo") as ws:
        for message in ["hello", "", "naïve 注文 🙂", "x" * 126, "y" * 65_536]:
            echoes(ws, message)


def binary():
    with opened("/echo") as ws:
        for length in [0, 1, 125, 126, 65_535, 65_536]:
            echoes(ws, os.urandom(length))


def large():
    for compression in ["deflate", None]:
        with opened("/echo", compression=compression) as ws:
            echoes(ws, os.urandom(8 * 2**20))


def fragments():
    """One message in many frames."""
    with opened("/echo") as ws:
        ws.send(iter(["a", "b" * 1000, "c"]))
        answer = ws.recv(timeout=20)
        assert answer == "a" + "b" * 1000 + "c", answer


def ping():
    with opened("/echo") as ws:
        assert ws.ping("hello").wait(20), "no pong"


def close_by_the_caller():
    with opened("/echo") as ws:
        ws.close(4321, "enough")
        assert (ws.close_code, ws.close_reason) == (4321, "enough"), (ws.close_code, ws.close_reason)


def close_by_the_api():
    with opened("/bye") as ws:
        ws.send("hello")
        try:
            ws.recv(timeout=20)
        except ConnectionClosed as end:
            assert (end.rcvd.code, end.rcvd.reason) == (4001, "that is all"), end
        else:
            raise AssertionError("it was not closed")


def refused():
    try:
        opened("/refuse")
    except InvalidStatus as answer:
        assert (answer.response.status_code, answer.response.body) == (403, b"not you"), answer.response
    else:
        raise AssertionError("it was not refused")


CASES = [text, binary, large, fragments, ping, close_by_the_caller, close_by_the_api, refused]


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
