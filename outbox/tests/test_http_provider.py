"""The HTTP provider against real sockets."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from outbox.providers.base import PayoutInstruction, ProviderResult
from outbox.providers.http import (
    CONNECT_TIMEOUT_SECONDS,
    TOTAL_TIMEOUT_SECONDS,
    HttpPayoutProvider,
    classify,
)
from outbox.tests.bank import SimulatedBank
from payflow.ids import new_id


def instruction(**changes: Any) -> PayoutInstruction:
    values = {
        "key": new_id(),
        "amount": 500,
        "currency": "USD",
        "destination": "somewhere",
        "reference": "r",
        **changes,
    }
    return PayoutInstruction(**values)


def answer_body(payout: PayoutInstruction, **changes: Any) -> bytes:
    body = {
        "key": str(payout.key),
        "amount": payout.amount,
        "currency": payout.currency,
        "status": "settled",
        "reason": "",
        "provider_reference": "bank-1",
        **changes,
    }
    return json.dumps(body).encode()


@contextmanager
def raw_server(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that takes one connection, reads a request and then does ``talk``."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65_536)
                talk(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


# --- what each state of the bank is taken for -------------------------------------


@pytest.mark.parametrize(
    ("behaviour", "sent", "inquired"),
    [
        ("settle", "settled", "settled"),
        ("settle_later", "accepted", "accepted"),
        ("reject", "rejected", "rejected"),
        ("reject_later", "accepted", "accepted"),
        ("fail", "unknown", "not_found"),
        ("fail_after_accept", "unknown", "settled"),
        ("cut", "unknown", "settled"),
    ],
)
def test_the_banks_behaviour_is_classified(
    bank: SimulatedBank, behaviour: str, sent: str, inquired: str
) -> None:
    provider = HttpPayoutProvider(bank.url)
    destination = bank.destination(behaviour, delay_seconds=3600)
    payout = instruction(destination=destination)

    answers = provider.send(payout), provider.inquire(payout)

    assert [answer.result for answer in answers] == [sent, inquired]


def test_a_slow_bank_is_unknown_and_has_paid(bank: SimulatedBank) -> None:
    provider = HttpPayoutProvider(bank.url, read_timeout_seconds=0.1)
    payout = instruction(destination=bank.destination("slow", delay_seconds=1))

    answer = provider.send(payout)

    assert answer.result == ProviderResult.UNKNOWN
    assert answer.detail == "ReadTimeout"
    assert bank.payments(payout.key) == (1, 500)


def test_a_rejection_carries_its_reason_and_reference(bank: SimulatedBank) -> None:
    provider = HttpPayoutProvider(bank.url)

    answer = provider.send(instruction(destination=bank.destination("reject")))

    assert answer.detail == "account closed"
    assert str(answer.provider_reference).startswith("bank-")


def test_a_reused_key_is_not_a_rejection(bank: SimulatedBank) -> None:
    provider = HttpPayoutProvider(bank.url)
    payout = instruction()
    provider.send(payout)

    answer = provider.send(instruction(key=payout.key, amount=501))

    assert answer.result == ProviderResult.UNKNOWN


# --- requests that never left -----------------------------------------------------


def test_a_refused_port_is_not_sent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    answer = HttpPayoutProvider(f"http://127.0.0.1:{port}").send(instruction())

    assert answer.result == ProviderResult.NOT_SENT


def test_a_name_that_nobody_has_is_not_sent() -> None:
    answer = HttpPayoutProvider("http://bank.invalid").send(instruction())

    assert answer.result == ProviderResult.NOT_SENT


def test_a_failed_tls_handshake_is_not_sent() -> None:
    with raw_server(lambda connection: connection.sendall(b"no TLS here\r\n")) as url:
        provider = HttpPayoutProvider(url.replace("http:", "https:"))

        answer = provider.send(instruction())

    assert answer.result == ProviderResult.NOT_SENT


def test_a_listener_that_accepts_nobody_is_not_sent_in_time() -> None:
    # A full backlog drops further handshakes, as a black hole on the way would.
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        provider = HttpPayoutProvider(f"http://127.0.0.1:{address[1]}")
        started = time.monotonic()

        answer = provider.send(instruction())

        assert answer.result == ProviderResult.NOT_SENT
        assert answer.detail == "ConnectTimeout"
        assert time.monotonic() - started < CONNECT_TIMEOUT_SECONDS + 1
        for filler in fillers:
            filler.close()


# --- requests that may have arrived -----------------------------------------------


def silent(connection: socket.socket) -> None:
    connection.recv(1)


def closed(_connection: socket.socket) -> None:
    pass


def half_an_answer(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{")


def no_http(connection: socket.socket) -> None:
    connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")


def broken_compression(connection: socket.socket) -> None:
    connection.sendall(
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd"
    )


def redirect(connection: socket.socket) -> None:
    connection.sendall(
        b"HTTP/1.1 307 Look elsewhere\r\nLocation: http://elsewhere.invalid/\r\n"
        b"Content-Length: 0\r\n\r\n"
    )


@pytest.mark.parametrize(
    "talk", [silent, closed, half_an_answer, no_http, broken_compression, redirect]
)
def test_an_answer_that_nobody_can_read_is_unknown(
    talk: Callable[[socket.socket], None],
) -> None:
    with raw_server(talk) as url:
        provider = HttpPayoutProvider(url, read_timeout_seconds=0.2)

        answer = provider.send(instruction())

    assert answer.result == ProviderResult.UNKNOWN


@pytest.mark.parametrize(
    "drip", [b"x", b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n"]
)
def test_a_dripping_answer_is_cut_at_the_total_timeout(drip: bytes) -> None:
    ended = threading.Event()

    def talk(connection: socket.socket) -> None:
        connection.sendall(drip)
        while not ended.wait(0.02):
            try:
                connection.sendall(b"x")
            except OSError:
                return

    with raw_server(talk) as url:
        provider = HttpPayoutProvider(url, total_timeout_seconds=0.3)
        started = time.monotonic()

        answer = provider.send(instruction())

        ended.set()

    assert answer.result == ProviderResult.UNKNOWN
    assert time.monotonic() - started < 2


def test_a_call_ends_long_before_the_celery_limit() -> None:
    assert TOTAL_TIMEOUT_SECONDS < 15


# --- what an answer means ---------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        *[(status, "unknown") for status in (301, 400, 401, 403, 404, 405, 408, 422)],
        *[(status, "retry_later") for status in (409, 425, 429)],
        *[(status, "unknown") for status in (500, 502, 503, 504)],
        *[(status, "settled") for status in (200, 201, 202)],
    ],
)
def test_only_a_2xx_decides(status: int, expected: str) -> None:
    payout = instruction()

    answer = classify(
        status=status,
        headers={},
        body=answer_body(payout),
        instruction=payout,
        inquiry=False,
    )

    assert answer.result == expected


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"settled",
        b"\xff\xfe",
        b"[" * 100_000,
        b"<html>it works</html>",
    ],
)
def test_a_body_that_is_no_object_is_unknown(body: bytes) -> None:
    answer = classify(
        status=200, headers={}, body=body, instruction=instruction(), inquiry=False
    )

    assert answer.result == ProviderResult.UNKNOWN


@pytest.mark.parametrize(
    "change",
    [
        {"key": str(new_id())},
        {"amount": 501},
        {"amount": "500"},
        {"amount": 500.0},
        {"currency": "EUR"},
        {"status": "paid"},
        {"status": None},
    ],
)
def test_an_answer_about_something_else_is_unknown(change: dict[str, object]) -> None:
    payout = instruction()

    answer = classify(
        status=200,
        headers={},
        body=answer_body(payout, **change),
        instruction=payout,
        inquiry=False,
    )

    assert answer.result == ProviderResult.UNKNOWN


@pytest.mark.parametrize(
    ("body", "inquiry", "expected"),
    [
        ({"code": "payout_not_found"}, True, "not_found"),
        ({"code": "payout_not_found"}, False, "unknown"),
        ({"code": "not_found"}, True, "unknown"),
        ({"code": "payout_not_found", "key": "another"}, True, "unknown"),
    ],
)
def test_not_found_needs_the_providers_own_word(
    body: dict[str, str], inquiry: bool, expected: str
) -> None:
    payout = instruction()

    answer = classify(
        status=404,
        headers={},
        body=json.dumps({"key": str(payout.key), **body}).encode(),
        instruction=payout,
        inquiry=inquiry,
    )

    assert answer.result == expected


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Wed, 21 Oct 99999999999999999999 07:28:00 GMT", None),
        ("soon", None),
        ("-5", None),
        ("", None),
    ],
)
def test_retry_after_is_read(header: str, seconds: float | None) -> None:
    answer = classify(
        status=429,
        headers={"retry-after": header},
        body=b"",
        instruction=instruction(),
        inquiry=False,
    )

    assert answer.result == ProviderResult.RETRY_LATER
    assert answer.retry_after_seconds == seconds


def test_a_providers_words_are_made_fit_for_the_database() -> None:
    payout = instruction()

    answer = classify(
        status=200,
        headers={},
        body=answer_body(payout, status="rejected", reason="no\0" + "x" * 9_999),
        instruction=payout,
        inquiry=False,
    )

    assert answer.detail.startswith("nox")
    assert len(answer.detail) == 500


def test_half_a_character_is_replaced_before_it_reaches_the_database() -> None:
    payout = instruction()

    answer = classify(
        status=200,
        headers={},
        body=answer_body(
            payout,
            status="rejected",
            reason="bad \ud800 \U0001f600",
            provider_reference="\udfff",
        ),
        instruction=payout,
        inquiry=False,
    )

    assert answer.result == ProviderResult.REJECTED
    assert answer.detail == "bad \ufffd \U0001f600"
    assert answer.provider_reference == "\ufffd"


@pytest.mark.parametrize("amount", [True, 1.0])
def test_only_an_integer_echoes_an_amount(amount: object) -> None:
    payout = instruction(amount=1)

    answer = classify(
        status=200,
        headers={},
        body=answer_body(payout, amount=amount),
        instruction=payout,
        inquiry=False,
    )

    assert answer.result == ProviderResult.UNKNOWN


@pytest.mark.parametrize("reason", [None, 5, ["no"], {"text": "no"}])
def test_a_reason_that_is_no_text_is_left_out(reason: object) -> None:
    payout = instruction()

    answer = classify(
        status=200,
        headers={},
        body=answer_body(payout, status="rejected", reason=reason),
        instruction=payout,
        inquiry=False,
    )

    assert (answer.result, answer.detail) == (ProviderResult.REJECTED, "")
