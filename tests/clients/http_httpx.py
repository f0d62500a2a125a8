"""A caller that uses `httpx`: `http_httpx.py 1|2 [CA]`. HTTP/2 without a CA means prior knowledge.

Commands: `get URL`, `post URL LENGTH`, `chunked URL LENGTH`. Answers: `STATUS VERSION BODY`.
"""

import ssl
import sys

import httpx

HEADERS = {"authorization": "Bearer the-callers-own", "x-caller": "httpx"}


def pattern(length):
    """The bytes that the tests expect in a body of this length."""
    return bytes(i * 31 % 251 for i in range(length))


def pieces(length):
    """The same bytes in pieces, so that nobody knows the length in advance."""
    body = pattern(length)
    for at in range(0, length, 7_000):
        yield body[at : at + 7_000]


def main():
    is_http2 = sys.argv[1] == "2"
    trusted = ssl.create_default_context(cafile=sys.argv[2]) if len(sys.argv) > 2 else True
    # Over TLS both are offered and ALPN chooses; without it there is nothing to choose by.
    http1 = not is_http2 or len(sys.argv) > 2
    client = httpx.Client(http1=http1, http2=is_http2, verify=trusted, trust_env=False, timeout=20)
    for line in sys.stdin:
        command, url, *length = line.split()
        method, content = "GET", None
        if command == "post":
            method, content = "POST", pattern(int(length[0]))
        elif command == "chunked":
            method, content = "POST", pieces(int(length[0]))
        answer = client.request(method, url, headers=HEADERS, content=content)
        print(answer.status_code, answer.http_version, answer.text, flush=True)


main()
