"""What the dispatcher asks of a bank, and the closed set of answers it understands."""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol
from uuid import UUID

#: A provider's words are of any length.
MAX_TEXT_CHARACTERS = 500

_SURROGATES = re.compile("[\ud800-\udfff]")


class ProviderResult(StrEnum):
    """How a call to a provider ended, as far as the caller can know.

    The distinction that matters is whether the provider may have the payout:
    ``NOT_SENT`` says that it certainly does not, ``UNKNOWN`` that it may.
    """

    SETTLED = "settled"
    """The money has left; the decision is final."""
    ACCEPTED = "accepted"
    """The provider has the payout and will decide later."""
    REJECTED = "rejected"
    """The provider has refused the payout, definitely and with a reason."""
    NOT_SENT = "not_sent"
    """The request never reached the provider: no address, connection or TLS."""
    RETRY_LATER = "retry_later"
    """The provider asks for patience (409, 425, 429)."""
    UNKNOWN = "unknown"
    """No answer, half of one, or one that nobody can read."""
    NOT_FOUND = "not_found"
    """Only of an inquiry: the provider does not know the key."""


#: The answers after which a payout's fate is known for good.
DECISIONS = (ProviderResult.SETTLED, ProviderResult.REJECTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class PayoutInstruction:
    """One payout, as the provider is told of it.

    Attributes:
        key: the provider's idempotency key, the same on every call, for life.
        amount: in minor units of ``currency``.
        destination: where the money goes, in the provider's own notation.
        reference: what the recipient's statement shows.
    """

    key: UUID
    amount: int
    currency: str
    destination: str
    reference: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderAnswer:
    """What came of one call. Its texts are cut, and made fit for the database.

    Attributes:
        result: one of the closed set.
        detail: for people: the provider's reason, or what went wrong on the way.
        provider_reference: the provider's own name for the payout, if it gave one.
        retry_after_seconds: how long the provider wants to be left alone, if it said.
    """

    result: ProviderResult
    detail: str = ""
    provider_reference: str | None = None
    retry_after_seconds: float | None = None

    def __post_init__(self) -> None:
        # Here, so that no provider, however it reads its bank's answers, can hand on a
        # text that PostgreSQL refuses and so keep a decision from being written down.
        object.__setattr__(self, "detail", storable(self.detail))
        if self.provider_reference is not None:
            object.__setattr__(
                self, "provider_reference", storable(self.provider_reference) or None
            )


def storable(text: str) -> str:
    """``text`` as PostgreSQL takes it: without NUL and lone surrogates, and cut.

    JSON can spell both, ``"\\u0000"`` and ``"\\ud800"``; UTF-8 has no surrogates.
    """
    return _SURROGATES.sub("\ufffd", text.replace("\0", ""))[:MAX_TEXT_CHARACTERS]


class PayoutProvider(Protocol):
    """A bank, or whatever else pays money out.

    Both calls answer for every condition of the network and of the provider and raise
    for none. They are made with no transaction open and must end well inside the
    dispatcher's lease.
    """

    def send(self, instruction: PayoutInstruction) -> ProviderAnswer:
        """Asks for the payout; again with the same key it is still one payout."""

    def inquire(self, instruction: PayoutInstruction) -> ProviderAnswer:
        """Asks what became of the payout; changes nothing."""
