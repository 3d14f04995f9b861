"""A provider over HTTP and JSON: the protocol that the bank simulator speaks too.

``POST {url}/payouts`` with the header ``Idempotency-Key`` asks for a payout,
``GET {url}/payouts/{key}`` inquires after one. Both answer with the payout: ``key``,
``amount``, ``currency``, ``status`` (``settled``, ``accepted`` or ``rejected``),
``reason`` and ``provider_reference``.

Note [Only the provider's own word decides]. A payout is settled or rejected only if the
provider says so in a body that echoes our key, amount and currency. A bare status code
proves nothing: a 404 may come from a load balancer in front, a 403 from an expired
certificate, a 422 from a key that an earlier body has used up. All of these are
``unknown``, and lead to an inquiry instead of giving the money back.

Note [One connection per call]. Connections are not kept. On a kept one the server's
close may cross the next request, and a refusal to connect could then no longer be told
from a request that was cut off: certainty costs one handshake per payout.
"""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from socket import SHUT_RDWR, socket
from typing import Any
from urllib.parse import quote

import httpx2
from django.conf import settings
from django.utils import timezone

from outbox.providers.base import PayoutInstruction, ProviderAnswer, ProviderResult

CONNECT_TIMEOUT_SECONDS = 2.0
READ_TIMEOUT_SECONDS = 8.0
#: The whole call, however slowly the answer drips.
TOTAL_TIMEOUT_SECONDS = 12.0
MAX_BODY_BYTES = 65_536

#: The provider asks for patience; whether it has the payout, it does not say.
RETRY_LATER_STATUSES = frozenset({409, 425, 429})

#: The request cannot have left: there was no connection to send it over.
NOT_SENT_ERRORS = (
    httpx2.ConnectError,
    httpx2.ConnectTimeout,
    httpx2.PoolTimeout,
    httpx2.ProxyError,
    httpx2.UnsupportedProtocol,
    httpx2.LocalProtocolError,
)

_STATUSES = {
    "settled": ProviderResult.SETTLED,
    "accepted": ProviderResult.ACCEPTED,
    "rejected": ProviderResult.REJECTED,
}


class HttpPayoutProvider:
    """Pays out over HTTP.

    Args:
        url: the provider's base URL; by default ``settings.PAYOUT_PROVIDER_URL``.
        read_timeout_seconds: longest silence of the provider once it is connected.
        total_timeout_seconds: longest call altogether.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        read_timeout_seconds: float = READ_TIMEOUT_SECONDS,
        total_timeout_seconds: float = TOTAL_TIMEOUT_SECONDS,
    ) -> None:
        self._url = (url or settings.PAYOUT_PROVIDER_URL).rstrip("/")
        self._total_timeout_seconds = total_timeout_seconds
        self._client = httpx2.Client(
            timeout=httpx2.Timeout(
                read_timeout_seconds, connect=CONNECT_TIMEOUT_SECONDS
            ),
            limits=httpx2.Limits(max_keepalive_connections=0),
            follow_redirects=False,
            trust_env=False,
            headers={"Accept": "application/json", "User-Agent": "payflow-outbox"},
        )

    def send(self, instruction: PayoutInstruction) -> ProviderAnswer:
        """Asks for the payout; again with the same key it is still one payout."""
        request = self._client.build_request(
            "POST",
            f"{self._url}/payouts",
            headers={"Idempotency-Key": str(instruction.key)},
            json={
                "amount": instruction.amount,
                "currency": instruction.currency,
                "destination": instruction.destination,
                "reference": instruction.reference,
            },
        )
        return self._call(request, instruction)

    def inquire(self, instruction: PayoutInstruction) -> ProviderAnswer:
        """Asks what became of the payout; changes nothing."""
        key = quote(str(instruction.key), safe="")
        request = self._client.build_request("GET", f"{self._url}/payouts/{key}")
        return self._call(request, instruction)

    def _call(
        self, request: httpx2.Request, instruction: PayoutInstruction
    ) -> ProviderAnswer:
        connected: list[socket] = []

        def trace(event: str, info: Mapping[str, Any]) -> None:
            if event in {
                "connection.connect_tcp.complete",
                "connection.start_tls.complete",
            }:
                connected.append(info["return_value"].get_extra_info("socket"))

        request.extensions["trace"] = trace
        try:
            with _deadline(self._total_timeout_seconds, connected):
                response = self._client.send(request, stream=True)
                try:
                    body = _read_bounded(response)
                finally:
                    response.close()
        except NOT_SENT_ERRORS as error:
            return _answer(ProviderResult.NOT_SENT, type(error).__name__)
        except httpx2.HTTPError as error:
            return _answer(ProviderResult.UNKNOWN, type(error).__name__)
        return classify(
            status=response.status_code,
            headers=response.headers,
            body=body,
            instruction=instruction,
            inquiry=request.method == "GET",
        )


def classify(
    *,
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    instruction: PayoutInstruction,
    inquiry: bool,
) -> ProviderAnswer:
    """The meaning of an HTTP answer. See Note [Only the provider's own word decides].

    Args:
        status: the answer's status code.
        headers: its headers; of interest is ``Retry-After``.
        body: its bytes, decoded from any transfer coding.
        instruction: what the answer must be about.
        inquiry: the answer is to an inquiry, so that "not found" has a meaning.
    """
    if status in RETRY_LATER_STATUSES:
        return _answer(
            ProviderResult.RETRY_LATER,
            f"HTTP {status}",
            retry_after_seconds=_retry_after_seconds(headers.get("retry-after")),
        )
    # The body of a 5xx is not even looked at.
    payout = _parse_object(body) if status < 500 else None
    if payout is None:
        return _answer(
            ProviderResult.UNKNOWN,
            f"HTTP {status} without a payout",
            retry_after_seconds=_retry_after_seconds(headers.get("retry-after")),
        )
    if (
        inquiry
        and status == 404
        and payout.get("code") == "payout_not_found"
        and payout.get("key") == str(instruction.key)
    ):
        return _answer(ProviderResult.NOT_FOUND, "the provider does not know the key")
    amount = payout.get("amount")
    about = (payout.get("key"), amount, payout.get("currency"))
    # 5.0 and true equal integers, and are no amounts.
    if type(amount) is not int or about != (
        str(instruction.key),
        instruction.amount,
        instruction.currency,
    ):
        return _answer(
            ProviderResult.UNKNOWN, f"HTTP {status} about another payout or none"
        )
    word = payout.get("status")
    result = _STATUSES.get(word) if isinstance(word, str) else None
    if result is None or not 200 <= status < 300:
        return _answer(ProviderResult.UNKNOWN, f"HTTP {status} of unknown meaning")
    reason, reference = payout.get("reason"), payout.get("provider_reference")
    return ProviderAnswer(
        result=result,
        detail=reason if isinstance(reason, str) else "",
        provider_reference=reference if isinstance(reference, str) else None,
    )


def _answer(
    result: ProviderResult,
    detail: str,
    *,
    retry_after_seconds: float | None = None,
) -> ProviderAnswer:
    return ProviderAnswer(
        result=result, detail=detail, retry_after_seconds=retry_after_seconds
    )


def _parse_object(body: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _retry_after_seconds(text: str | None) -> float | None:
    """The header's delay: a number of seconds or an HTTP date; nonsense is none."""
    if text is None:
        return None
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        instant = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    if instant.tzinfo is None:
        return None
    return max(0.0, (instant - timezone.now()).total_seconds())


def _read_bounded(response: httpx2.Response) -> bytes:
    """At most ``MAX_BODY_BYTES`` of the body; a longer one is cut, and unreadable."""
    chunks, length = [], 0
    for chunk in response.iter_bytes():
        chunks.append(chunk)
        length += len(chunk)
        if length > MAX_BODY_BYTES:
            break
    return b"".join(chunks)


@contextmanager
def _deadline(seconds: float, connected: list[socket]) -> Iterator[None]:
    """Cuts the connection after ``seconds``, which the blocked read sees as its end.

    The read timeout starts anew with every byte, so a drip could go on for ever.
    """

    def cut() -> None:
        for end in reversed(connected):
            try:
                # Not SSLSocket's own, which takes the TLS state from under the reader.
                socket.shutdown(end, SHUT_RDWR)
            except OSError:
                continue  # closed, or detached into its TLS successor
            return

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
