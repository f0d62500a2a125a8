"""A WebSocket caller that uses `websockets`: `ws_client.py URL [CA]`. See ws_client.mjs for the commands.

Its asyncio client, not the one with threads: there one thread reads while another writes, and the TLS of
Python 3.11 does not bear that. Once in a thousand handshakes the answer is never seen, with any server.
"""

import asyncio
import os
import ssl
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

BASE = sys.argv[1]
TLS = ssl.create_default_context(cafile=sys.argv[2]) if len(sys.argv) > 2 else None
TOKEN = os.environ.get("CALLERS_TOKEN", "the-callers-own")
PATIENCE = 20


def opened(path, **more):
    headers = {"authorization": f"Bearer {TOKEN}"}
    return connect(BASE + path, additional_headers=headers, ssl=TLS, proxy=None, max_size=2**26, **more)


async def echoes(ws, message):
    await ws.send(message)
    answer = await ws.recv()
    assert answer == message, f"{len(answer)} came back, not {len(message)}, or not the same"


async def text():
    async with opened("/echo") as ws:
        for message in ["hello", "", "naïve 注文 🙂", "x" * 126, "y" * 65_536]:
            await echoes(ws, message)


async def binary():
    async with opened("/echo") as ws:
        for length in [0, 1, 125, 126, 65_535, 65_536]:
            await echoes(ws, os.urandom(length))


async def large():
    for compression in ["deflate", None]:
        async with opened("/echo", compression=compression) as ws:
            await echoes(ws, os.urandom(8 * 2**20))


async def fragments():
    """One message in many frames."""
    async with opened("/echo") as ws:
        await ws.send(iter(["a", "b" * 1000, "c"]))
        answer = await ws.recv()
        assert answer == "a" + "b" * 1000 + "c", answer


async def ping():
    async with opened("/echo") as ws:
        await (await ws.ping("hello"))


async def close_by_the_caller():
    async with opened("/echo") as ws:
        await ws.close(4321, "enough")
        assert (ws.close_code, ws.close_reason) == (4321, "enough"), (ws.close_code, ws.close_reason)


async def close_by_the_api():
    async with opened("/bye") as ws:
        await ws.send("hello")
        try:
            await ws.recv()
        except ConnectionClosed as end:
            assert (end.rcvd.code, end.rcvd.reason) == (4001, "that is all"), end
        else:
            raise AssertionError("it was not closed")


async def refused():
    try:
        await opened("/refuse")
    except InvalidStatus as answer:
        assert (answer.response.status_code, answer.response.body) == (403, b"not you"), answer.response
    else:
        raise AssertionError("it was not refused")


CASES = [text, binary, large, fragments, ping, close_by_the_caller, close_by_the_api, refused]


def attempt(case):
    try:
        asyncio.run(asyncio.wait_for(case(), PATIENCE))
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
