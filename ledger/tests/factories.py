"""Factories that go through the services: a raw entry could not balance.

They need an open transaction, as the services do; in an ordinary test the test's own
is one. A test that commits wraps them in ``payflow.db.transaction_owner``.
"""

from typing import Any

import factory

from ledger.enums import AccountKind
from ledger.models import Account, ApiClient, Ledger
from ledger.services.accounts import AccountRequest, account_create
from ledger.services.clients import client_get_or_create
from ledger.services.ledgers import ledger_create
from ledger.services.posting import Outcome, transfers_post
from ledger.services.transfers import opening_balance_request, transfer_post
from ledger.types import PostedTransfer, PostingRequest, TransferRequest
from payflow.actors import Actor
from payflow.clock import now
from payflow.ids import new_id

ACTOR = Actor("test", request_id="test-request")


class LedgerFactory(factory.Factory):  # type: ignore[type-arg]
    """An empty ledger with a slug of its own."""

    class Meta:
        model = Ledger

    slug = factory.LazyFunction(lambda: f"test-{new_id()}")
    name = factory.Faker("company")
    time_zone = "UTC"

    @classmethod
    def _create(cls, model_class: Any, *args: Any, **kwargs: Any) -> Ledger:
        return ledger_create(**kwargs, actor=ACTOR)


class ApiClientFactory(factory.Factory):  # type: ignore[type-arg]
    """An API client of ``ledger``."""

    class Meta:
        model = ApiClient

    ledger = factory.SubFactory(LedgerFactory)
    name = factory.Sequence(lambda n: f"client-{n}")

    @classmethod
    def _create(cls, model_class: Any, *args: Any, **kwargs: Any) -> ApiClient:
        return client_get_or_create(ledger_id=kwargs["ledger"].id, name=kwargs["name"])


class AccountFactory(factory.Factory):  # type: ignore[type-arg]
    """An account of ``ledger``; ``balance=5000`` gives it an opening balance."""

    class Meta:
        model = Account

    ledger = factory.SubFactory(LedgerFactory)
    currency = "USD"
    kind = AccountKind.LIABILITY
    owner_name = factory.Faker("name")
    balance = 0

    @classmethod
    def _create(cls, model_class: Any, *args: Any, **kwargs: Any) -> Account:
        ledger, balance = kwargs.pop("ledger"), kwargs.pop("balance")
        account = account_create(ledger_id=ledger.id, request=AccountRequest(**kwargs))
        assert isinstance(account, Account), account
        if balance:
            outcome = transfer_post(
                ledger_id=ledger.id,
                request=opening_balance_request(account=account, amount=balance),
                actor=ACTOR,
                now=now(),
            )
            assert isinstance(outcome, PostedTransfer), outcome
            account = Account.objects.get(ledger_id=ledger.id, id=account.id)
        return account


def transfer_request(
    source: Account, target: Account, amount: int, **fields: Any
) -> TransferRequest:
    """A request for one posting from ``source`` to ``target``."""
    return TransferRequest(
        postings=(PostingRequest(source.id, target.id, amount),), **fields
    )


def post(*requests: TransferRequest, ledger: Ledger) -> list[Outcome]:
    """Posts requests by the engine, in one call."""
    return transfers_post(
        ledger_id=ledger.id, requests=requests, actor=ACTOR, now=now()
    )


def move(source: Account, target: Account, amount: int, **fields: Any) -> Outcome:
    """Posts one transfer of one posting."""
    (outcome,) = post(
        transfer_request(source, target, amount, **fields), ledger=source.ledger
    )
    return outcome


def fresh(account: Account) -> Account:
    """The account as it stands in the database now."""
    return Account.objects.get(ledger_id=account.ledger_id, id=account.id)
