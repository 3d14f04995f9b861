"""Slow clients wait for themselves: a real gunicorn, and what it takes for complete."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from payflow.embedded.ports import LOOPBACK
from payflow.tests.processes import Web
from payflow.web_worker import MAX_HEAD_BYTES, IncomingRequest

CLIENTS = 40
UNFINISHED = {
    "nothing": b"",
    "header": b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
    "body": b"POST /transfer HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{",
    "chunk": b"POST /transfer HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
}


@pytest.fixture(scope="module")
def server(
    committed_database: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Web]:
    folder: Path = tmp_path_factory.mktemp("web")
    with Web(folder, WEB_WORKERS="1", WEB_REQUEST_SECONDS="2") as web:
        yield web


@contextlib.contextmanager
def clients(web: Web, beginning: bytes) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(CLIENTS):
            client = socket.create_connection((LOOPBACK, web.port), timeout=10)
            opened.append(stack.enter_context(client))
            client.sendall(beginning)
        yield opened


@pytest.mark.parametrize("kind", UNFINISHED)
def test_clients_that_never_finish_stop_nobody_and_are_cut(server, kind):
    with clients(server, UNFINISHED[kind]) as slow:
        for _ in range(10):
            answer = httpx2.get(f"{server.url}/livez", timeout=5)
            assert answer.status_code == 200
        started = time.monotonic()
        answers = {client.recv(1_000)[:12] for client in slow}

    assert answers == ({b"HTTP/1.1 408"} if UNFINISHED[kind] else {b""})
    assert time.monotonic() - started < 6


def test_a_client_that_drips_is_cut_by_the_time_of_the_whole_request(server):
    stop = threading.Event()
    with socket.create_connection((LOOPBACK, server.port), timeout=10) as client:
        client.sendall(UNFINISHED["header"])

        def drip() -> None:
            with contextlib.suppress(OSError):
                while not stop.wait(0.1):
                    client.send(b"x")

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            assert client.recv(1_000).startswith(b"HTTP/1.1 408 ")
        finally:
            stop.set()
            thread.join()


def test_clients_that_do_not_close_after_their_answer_stop_nobody(server):
    request = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with clients(server, request) as slow:
        assert all(client.recv(1_000).startswith(b"HTTP/1.1 200") for client in slow)
        assert httpx2.get(f"{server.url}/livez", timeout=5).status_code == 200


def test_a_head_without_an_end_is_refused(server):
    with socket.create_connection((LOOPBACK, server.port), timeout=10) as client:
        client.sendall(UNFINISHED["header"] + b"x" * MAX_HEAD_BYTES + b"x")
        assert client.recv(1_000).startswith(b"HTTP/1.1 431 ")


def test_a_connection_is_kept_for_the_next_request(server):
    with httpx2.Client(base_url=server.url) as client:
        ports = set()
        for _ in range(3):
            response = client.get("/livez")
            stream = response.extensions["network_stream"]
            ports.add(stream.get_extra_info("client_addr"))
    assert len(ports) == 1


def test_an_unfinished_request_does_not_hold_up_the_end(
    committed_database: None, tmp_path: Path
) -> None:
    with (
        Web(tmp_path, WEB_WORKERS="1", WEB_REQUEST_SECONDS="1") as web,
        clients(web, UNFINISHED["body"]),
    ):
        started = time.monotonic()
        assert web.stop() == 0
        assert time.monotonic() - started < 10


BODIES = st.binary(max_size=40)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A whole request, with its body in one piece or in chunks."""
    head = draw(st.sampled_from([b"", b"\r\n"])) + b"POST / HTTP/1.1\r\nHost: a\r\n"
    body = draw(BODIES)
    if draw(st.booleans()):
        return head + b"content-LENGTH:%d\r\n\r\n" % len(body) + body
    size = draw(st.integers(1, 10))
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    extension = draw(st.sampled_from([b"", b";a=b"]))
    chunked = b"".join(
        b"%X%s\r\n%s\r\n" % (len(piece), extension, piece) for piece in pieces
    )
    trailer = draw(st.sampled_from([b"", b"A: b\r\n"]))
    return (
        head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked + b"0\r\n"
        b"%s\r\n" % trailer
    )


@given(request=requests(), cuts=st.lists(st.integers(0, 200), max_size=6))
def test_that_a_request_is_complete_with_its_last_byte_and_not_before(request, cuts):
    incoming = IncomingRequest(max_body=1_000)
    marks = sorted({min(cut, len(request) - 1) for cut in cuts})
    for start, end in zip([0, *marks], [*marks, len(request) - 1], strict=True):
        incoming.add(request[start:end])
        assert not incoming.is_complete()

    incoming.add(request[-1:])

    assert incoming.is_complete()
    assert bytes(incoming.data) == request


def test_that_a_body_which_is_too_large_is_not_waited_for():
    for head in (b"Content-Length: 1001", b"Transfer-Encoding: chunked"):
        incoming = IncomingRequest(max_body=1_000)
        incoming.add(b"POST / HTTP/1.1\r\n" + head + b"\r\n\r\n7d1\r\n" + b"x" * 1_999)
        assert incoming.is_complete()


def test_that_only_http_1_1_is_asked_to_continue():
    for version, expected in ((b"1.1", True), (b"1.0", False)):
        incoming = IncomingRequest(max_body=1_000)
        incoming.add(
            b"POST / HTTP/" + version + b"\r\nExpect: 100-Continue\r\n"
            b"Content-Length: 2\r\n\r\n"
        )
        assert not incoming.is_complete()
        assert incoming.expects_continue is expected
        incoming.add(b"{}")
        assert incoming.is_complete()
        assert b"xpect" not in incoming.data
