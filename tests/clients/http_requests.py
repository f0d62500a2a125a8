"""A caller that uses `requests`. Reads commands, one a line, and prints what came back, one a line.

Commands: `get URL`, `post URL LENGTH`, `chunked URL LENGTH`. Answers: `STATUS VERSION BODY`.
"""

import sys

import requests

HEADERS = {"authorization": "Bearer the-callers-own", "x-caller": "requests"}


def pattern(length):
    """The bytes that the tests expect in a body of this length."""
    return bytes(i * 31 % 251 for i in range(length))


def pieces(length):
    """The same bytes in pieces, so that nobody knows the length in advance."""
    body = pattern(length)
    for at in range(0, length, 7_000):
        yield body[at : at + 7_000]


def main():
    session = requests.Session()
    session.trust_env = False
    if len(sys.argv) > 1:
        session.verify = sys.argv[1]
    for line in sys.stdin:
        command, url, *length = line.split()
        method, data = "GET", None
        if command == "post":
            method, data = "POST", pattern(int(length[0]))
        elif command == "chunked":
            method, data = "POST", pieces(int(length[0]))
        answer = session.request(method, url, headers=HEADERS, data=data, timeout=20)
        version = {10: "HTTP/1.0", 11: "HTTP/1.1", 20: "HTTP/2"}[answer.raw.version]
        print(answer.status_code, version, answer.text, flush=True)


main()
