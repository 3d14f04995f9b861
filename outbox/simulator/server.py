"""The simulated bank's HTTP interface, on the standard library alone."""

import json
import signal
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import FrameType
from typing import Any

from outbox.simulator.bank import Bank, KeyReused, PayoutRequest, Receipt
from outbox.simulator.behaviours import Behaviour, parse_rule

MAX_BODY_BYTES = 65_536
MAX_KEY_CHARACTERS = 255
MAX_TEXT_CHARACTERS = 500
#: A client that sends nothing for so long is cut off, so that draining ends.
IDLE_SECONDS = 15


class BankServer(ThreadingHTTPServer):
    """The bank behind a port; threads that are answering are waited for at the end."""

    daemon_threads = False
    block_on_close = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, host: str, port: int, bank: Bank) -> None:
        self.bank = bank
        self.draining = threading.Event()
        super().__init__((host, port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says in one line what broke; clients that went away break nothing."""
        error = sys.exception()
        if not isinstance(error, ConnectionError | TimeoutError):
            say(f"error: {type(error).__name__}: {error}")


class _Handler(BaseHTTPRequestHandler):
    # HTTP/1.0: the connection ends with the answer, so an idle one never holds up
    # the end of the server.
    protocol_version = "HTTP/1.0"
    timeout = IDLE_SECONDS
    server: BankServer

    def do_GET(self) -> None:
        bank = self.server.bank
        if self.path == "/health":
            self._answer(200, {"status": "healthy"})
        elif self.path == "/payouts":
            self._answer(200, {"data": bank.newest()})
        elif self.path == "/control":
            self._answer(200, {"rules": bank.rules()})
        elif self.path.startswith("/payouts/"):
            key = self.path.removeprefix("/payouts/")
            payout = bank.find(key)
            if payout is None:
                self._refuse(404, "payout_not_found", "no payout has this key", key=key)
            else:
                self._answer(200, payout, note=f"{payout['status']} {key}")
        else:
            self._refuse(404, "not_found", "no such path")

    def do_PUT(self) -> None:
        if self.path != "/control":
            self._refuse(404, "not_found", "no such path")
            return
        try:
            rule = parse_rule(self._body())
        except ValueError as error:
            self._refuse(400, "invalid", str(error))
            return
        self.server.bank.set_rule(rule)
        self._answer(200, {"rules": self.server.bank.rules()}, note=rule.behaviour)

    def do_POST(self) -> None:
        if self.path == "/payouts":
            self._receive()
        else:
            self._refuse(404, "not_found", "no such path")

    def _receive(self) -> None:
        key = self.headers.get("Idempotency-Key", "")
        if not 0 < len(key) <= MAX_KEY_CHARACTERS:
            self._refuse(400, "invalid", "the header Idempotency-Key is missing")
            return
        try:
            request = _parse_payout(self._body())
        except ValueError as error:
            self._refuse(400, "invalid", str(error))
            return
        try:
            receipt = self.server.bank.receive(key, request)
        except KeyReused:
            self._refuse(
                422, "key_reused", "the key belongs to a payout with another body"
            )
            return
        self._act(key, receipt)

    def _act(self, key: str, receipt: Receipt) -> None:
        """Answers as the behaviour that applied says."""
        rule, payout = receipt.rule, receipt.payout
        if rule is None:
            assert payout is not None
            self._answer(200, payout, note=f"{payout['status']}, known already, {key}")
            return
        if payout is None or rule.behaviour == Behaviour.FAIL_AFTER_ACCEPT:
            self._refuse(500, "failed", "told to fail", note=f"{rule.behaviour} {key}")
            return
        if rule.behaviour == Behaviour.CUT:
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            self._say(0, f"cut {key}")
            return
        if rule.behaviour == Behaviour.SLOW:
            # A bank that is shutting down keeps nobody waiting.
            self.server.draining.wait(rule.delay_seconds)
        self._answer(201, payout, note=f"{payout['status']} {key}")

    def _body(self) -> object:
        """The request's JSON body.

        Raises:
            ValueError: it is missing, too long or no JSON.
        """
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > MAX_BODY_BYTES:
            raise ValueError(f"a body of up to {MAX_BODY_BYTES} bytes is needed")
        try:
            return json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError) as error:
            raise ValueError("the body must be JSON") from error

    def _answer(self, status: int, body: dict[str, Any], *, note: str = "") -> None:
        data = json.dumps(body).encode()
        self._say(status, note)
        self.send_response_only(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _refuse(
        self, status: int, code: str, detail: str, *, note: str = "", **fields: Any
    ) -> None:
        self._answer(
            status, {"code": code, "detail": detail, **fields}, note=note or code
        )

    def _say(self, status: int, note: str) -> None:
        path = self.path.split("?")[0][:100]
        say(f"{self.command} {path} {status or '---'} {note}".rstrip())


def _parse_payout(body: object) -> PayoutRequest:
    """The payout that a body spells.

    Raises:
        ValueError: it spells none.
    """
    if not isinstance(body, dict):
        raise ValueError("the body must be a JSON object")
    amount = body.get("amount")
    if type(amount) is not int or not 0 < amount < 2**63:
        raise ValueError("amount must be a positive integer of minor units")
    texts = {}
    for name in ("currency", "destination", "reference"):
        text = body.get(name)
        if not isinstance(text, str) or len(text) > MAX_TEXT_CHARACTERS:
            raise ValueError(f"{name} must be a text")
        texts[name] = text
    return PayoutRequest(amount=amount, **texts)


def say(line: str) -> None:
    """One line of the bank's log."""
    print(f"{time.strftime('%H:%M:%S')} bank: {line}", flush=True)  # noqa: T201


def serve(*, host: str, port: int, database: str) -> None:
    """Runs the bank until SIGTERM or SIGINT; requests under way are answered first.

    Args:
        host: the address to listen on.
        port: the port; 0 takes a free one, which the first log line names.
        database: the path of the SQLite file.

    Raises:
        OSError: the port cannot be had.
        sqlite3.Error: the file cannot be used.
    """
    bank = Bank(database)
    server = BankServer(host, port, bank)

    def stop(_number: int, _frame: FrameType | None) -> None:
        server.draining.set()
        # shutdown() waits for serve_forever(), which this very thread is in.
        threading.Thread(target=server.shutdown, daemon=True).start()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    say(f"listening on http://{host}:{server.server_address[1]}")
    try:
        server.serve_forever(poll_interval=0.1)
    finally:
        server.server_close()
        bank.close()
        say("stopped")
