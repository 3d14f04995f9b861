"""Requests as bytes on a socket, sent to a real gunicorn."""

import json
import socket
from collections.abc import Iterator

import httpx2

from idempotency.tests.conftest import Shop
from payflow.embedded.ports import LOOPBACK
from payflow.tests.processes import Web


def chunks(body: bytes, size: int) -> Iterator[bytes]:
    for at in range(0, len(body), size):
        yield body[at : at + size]


def headers(shop: Shop, key: str) -> dict[str, str]:
    return {
        "Authorization": f"Bearer {shop.key}",
        "Idempotency-Key": key,
        "Content-Type": "application/json",
    }


def test_a_body_in_chunks_is_read_and_is_the_same_request(shop, key, web: Web):
    first = httpx2.post(
        f"{web.url}/v1/transfers",
        content=chunks(json.dumps(shop.body()).encode(), 7),
        headers=headers(shop, key),
    )
    again = shop.send(web, idempotency_key=key)

    assert first.request.headers["Transfer-Encoding"] == "chunked"
    assert first.status_code == 201, first.text
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.content == first.content


def test_a_body_in_chunks_that_is_too_large_is_refused(shop, key, tmp_path):
    body = json.dumps(shop.body(description="x" * 3_000)).encode()
    with Web(tmp_path, REQUEST_MAX_BYTES="1000") as web:
        response = httpx2.post(
            f"{web.url}/v1/transfers",
            content=chunks(body, 100),
            headers=headers(shop, key),
        )

    assert response.status_code == 413
    assert response.json()["code"] == "body_too_large"
    assert response.json()["max_bytes"] == 1_000


def raw(shop: Shop, key: str, *more: str, method: str = "POST") -> bytes:
    lines = [f"{method} /v1/transfers HTTP/1.1", "Host: localhost", *more]
    lines += [f"{name}: {value}" for name, value in headers(shop, key).items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def read_until(client: socket.socket, words: bytes, count: int = 1) -> bytes:
    received = b""
    while received.count(words) < count:
        data = client.recv(65536)
        assert data, received
        received += data
    return received


def test_a_chunk_that_is_not_one_is_refused_as_truncated(shop, key, web: Web):
    with socket.create_connection((LOOPBACK, web.port), timeout=10) as client:
        client.sendall(raw(shop, key, "Transfer-Encoding: chunked") + b"nonsense\r\n")
        answer = read_until(client, b'"reason":"truncated"')

    assert answer.startswith(b"HTTP/1.1 400 ")


def test_two_requests_sent_at_once_get_two_answers_in_order(shop, key, web: Web):
    body = json.dumps(shop.body()).encode()
    length = f"Content-Length: {len(body)}"
    one = raw(shop, f"{key}-1", length) + body
    two = raw(shop, f"{key}-2", length) + body
    with socket.create_connection((LOOPBACK, web.port), timeout=10) as client:
        client.sendall(one + two[:-5])
        read_until(client, b'"balances"')
        client.sendall(two[-5:])
        second = read_until(client, b'"balances"')

    assert second.startswith(b"HTTP/1.1 201 ")
    assert shop.transfer_count() == 2


def test_who_expects_to_be_asked_for_the_body_is_asked_once(shop, key, web: Web):
    body = json.dumps(shop.body()).encode()
    head = raw(shop, key, f"Content-Length: {len(body)}", "Expect: 100-continue")
    with socket.create_connection((LOOPBACK, web.port), timeout=10) as client:
        client.sendall(head)
        assert read_until(client, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(body)
        answer = read_until(client, b'"balances"')

    assert answer.startswith(b"HTTP/1.1 201 ")


def test_a_body_that_announces_too_much_is_refused_without_it(shop, key, web: Web):
    length = 5_000_000
    inner = raw(shop, f"{key}-inner", "Content-Length: 2") + b"{}"
    with socket.create_connection((LOOPBACK, web.port), timeout=10) as client:
        client.sendall(raw(shop, key, f"Content-Length: {length}") + b"{" * 1_000)
        refused = read_until(client, b"body_too_large")
        # What is left of the body is not taken for a request, though it looks like one.
        client.sendall(inner + b"x" * (length - 1_000 - len(inner)))
        client.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = read_until(client, b"alive")

    assert refused.startswith(b"HTTP/1.1 413 ")
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_a_head_request_has_the_headers_and_no_body(shop, key, web: Web):
    answer = httpx2.head(f"{web.url}/v1/transfers", headers=headers(shop, key))
    full = httpx2.get(f"{web.url}/v1/transfers", headers=headers(shop, key))
    httpx2.head(f"{web.url}/health")

    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["Content-Length"] == full.headers["Content-Length"]
    assert "no-body response" not in web.log.read_text()
