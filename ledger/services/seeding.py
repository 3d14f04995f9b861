"""Books to look at and to measure with: the demo books, and bulk books of any size.

All of it goes through the services; a seeded balance stands on entries like any other.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db import connection
from django.db.models import Q

from ledger.enums import AccountStatus, Permission, TransferKind
from ledger.models import Account, Ledger, Transfer
from ledger.services.accounts import AccountRequest, account_create, system_account_id
from ledger.services.clients import client_get_or_create, client_set_permissions
from ledger.services.ledgers import ledger_create
from ledger.services.posting import MAX_TRANSFERS, transfers_post
from ledger.services.transfers import opening_balance_request
from ledger.types import PostingRequest, TransferRequest
from payflow.actors import Actor
from payflow.db import require_transaction
from payflow.errors import Problem, ProblemError
from payflow.ids import new_id
from payflow.money import currency_exponent

# --- The demo books ---------------------------------------------------------------

DEMO_LEDGER_ID = UUID("00000000-0000-0000-0000-00000000000d")
TREASURY_ID = UUID("00000000-0000-0000-0000-000000000001")
USER_ALPHA_ID = UUID("00000000-0000-0000-0000-000000000002")
ALPHA_BANK_ID = UUID("00000000-0000-0000-0000-000000000003")
DEMO_CURRENCY = "USD"
#: What the Treasury starts with, in minor units.
DEMO_OPENING_BALANCE = 1_000_000
#: The IBAN that specimens show; the bank simulator pays to anybody.
DEMO_DESTINATION = "DE89370400440532013000"

# Any constant: two runs at once must not both find nothing.
_SEED_LOCK = 0x5EED


def demo_books_seed(
    *, ledger_slug: str, client_name: str, actor: Actor, now: datetime
) -> list[str]:
    """Makes what is missing of the demo books, in the caller's transaction.

    The Treasury gets its opening balance together with itself, so running it again
    gives nothing to anybody.

    Args:
        ledger_slug, client_name: what the demo ledger and its API client are called.
        actor: who asks, for the record.
        now: the interface's clock.

    Returns:
        What was made, for people; empty if everything was there.

    Raises:
        ProblemError: the ledger's slug is not well-formed.
        RuntimeError: no transaction is open.
    """
    require_transaction()
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_SEED_LOCK])
    made = []
    ledger = Ledger.objects.filter(slug=ledger_slug).first()
    if ledger is None:
        ledger = ledger_create(
            slug=ledger_slug,
            name="Demo books",
            time_zone="UTC",
            actor=actor,
            ledger_id=DEMO_LEDGER_ID,
        )
        made.append(f"ledger {ledger_slug}")
    client = ledger.apiclient_set.filter(name=client_name).first()
    if client is None:
        client = client_get_or_create(ledger_id=ledger.id, name=client_name)
        made.append(f"API client {client_name}")
    elif set(client.permissions) != set(Permission.values):
        made.append(f"permissions of API client {client_name}")
    # The demo is there to try everything.
    client_set_permissions(
        ledger_id=ledger.id,
        client_id=client.id,
        permissions=Permission.values,
        actor=actor,
    )

    present = set(
        Account.objects.filter(
            ledger_id=ledger.id, id__in=[TREASURY_ID, USER_ALPHA_ID, ALPHA_BANK_ID]
        ).values_list("id", flat=True)
    )
    for account_id, owner_name, opening_balance, destination in (
        (TREASURY_ID, "Treasury", DEMO_OPENING_BALANCE, None),
        (USER_ALPHA_ID, "User_Alpha", 0, None),
        (ALPHA_BANK_ID, "Alpha_Bank", 0, DEMO_DESTINATION),
    ):
        if account_id in present:
            continue
        account = account_create(
            ledger_id=ledger.id,
            request=AccountRequest(
                id=account_id,
                owner_name=owner_name,
                currency=DEMO_CURRENCY,
                payout_destination=destination,
            ),
        )
        if isinstance(account, Problem):
            raise ProblemError.of(account)
        if opening_balance:
            # Written as done: there is nobody to tell yet.
            (outcome,) = transfers_post(
                ledger_id=ledger.id,
                requests=[
                    opening_balance_request(account=account, amount=opening_balance)
                ],
                actor=actor,
                now=now,
                tasks_are_done=True,
            )
            if isinstance(outcome, Problem):
                raise ProblemError.of(outcome)
        made.append(f"account {owner_name}")
    return made


# --- Bulk books -------------------------------------------------------------------

#: The most accounts and the most transfers of one bulk run.
MAX_BULK = 100_000_000
DEFAULT_BATCH_SIZE = 5_000
#: How many processes can fill one ledger; the books do not depend on how many do.
MAX_SHARDS = 4
#: From how many accounts on there are shards.
_SHARDED_ACCOUNTS = 64

_ACCOUNT = "bulk-account-"
_OPENING = "bulk-opening-"
_TRANSFER = "bulk-transfer-"
_DIGITS = 9
#: Opening balances, in minor units.
_OPENING_RANGE = (10_000, 1_000_000)
#: Transfers are small, medium or large, in minor units.
_AMOUNT_CEILINGS = (1_000, 10_000, 100_000)
#: How often a sender with money is guessed before they are all looked through.
_MAX_GUESSES = 32
# Lists written as words, for a list of forty strings would fill a page.
_GIVEN_NAMES = """
    Ada Alan Amal Anna Barbara Ben Carla Chen Dana David Edsger Elena Femi Grace Hana
    Hedy Ines Ivan Jean Jun Karen Katherine Leila Linus Mary Miguel Nadia Noor Olga Omar
    Paul Priya Radia Rosa Sofia Tariq Uma Vera Wei Yara
""".split()  # noqa: SIM905
_FAMILY_NAMES = """
    Abe Almeida Andersson Bauer Bello Castro Costa Diaz Dubois Eze Fischer Garcia Haddad
    Hansen Ito Ivanov Jensen Kaya Khan Kim Kowalski Lee Lopez Mendez Moreau Mori Nair
    Nguyen Novak Okafor Petrov Rossi Sato Schmidt Silva Singh Tan Virtanen Wang Yilmaz
""".split()  # noqa: SIM905
_DESCRIPTIONS = ("Groceries", "Invoice", "Refund", "Rent", "Salary", "Subscription")


@dataclass(frozen=True, slots=True)
class BulkPlan:
    """How many bulk accounts and transfers to add, and in what steps.

    The same plan on a new ledger gives the same references, owners, amounts and
    balances; only ids and times differ.
    """

    ledger_id: UUID
    currency: str
    account_count: int
    transfer_count: int
    seed: int
    batch_size: int = DEFAULT_BATCH_SIZE


@dataclass(frozen=True, slots=True)
class BulkAccount:
    """One account to be made."""

    id: UUID
    reference: str
    owner_name: str


@dataclass(frozen=True, slots=True)
class BulkBatch:
    """What one short transaction writes: accounts with their openings, or transfers."""

    ledger_id: UUID
    currency: str
    accounts: tuple[BulkAccount, ...]
    requests: tuple[TransferRequest, ...]

    @property
    def transfer_count(self) -> int:
        """How many of the requests are no opening balances."""
        return 0 if self.accounts else len(self.requests)


@dataclass(slots=True)
class _Holder:
    """A bulk account as the plan sees it: who, and how much is there."""

    id: UUID
    balance: int


class BulkBooks:
    """Turns a plan into batches, keeping track of balances so that none is refused.

    Reads the ledger once, when it is made: bulk accounts that exist take part. The
    accounts fall into shards, and each transfer stays within one, so that processes
    can write the shards' transfers at the same time, and none waits for another's
    accounts.
    """

    def __init__(self, plan: BulkPlan) -> None:
        """Looks up where the ledger's bulk books end.

        Raises:
            ProblemError: the plan asks for something that is not possible.
        """
        _require_possible(plan)
        self._plan = plan
        self._last_account = _last_number(Account, plan.ledger_id, _ACCOUNT)
        self._last_transfer = _last_number(Transfer, plan.ledger_id, _TRANSFER)
        self._holders: list[_Holder] = []
        if self._last_account:
            self._holders = _existing_holders(plan)
        count = len(self._holders) + plan.account_count
        if plan.transfer_count and count < 2:
            raise ProblemError(
                "invalid_request", "Transfers need at least two bulk accounts."
            )
        #: How many processes can write transfers at the same time.
        self.shard_count = MAX_SHARDS if count >= _SHARDED_ACCOUNTS else 1

    @property
    def is_new(self) -> bool:
        """True if the ledger has no bulk books yet."""
        return self._last_account == 0 and self._last_transfer == 0

    @property
    def has_many_transfers(self) -> bool:
        """Whether there are more transfers than one batch has."""
        return self._plan.transfer_count > self._plan.batch_size

    def account_batches(self) -> Iterator[BulkBatch]:
        """The accounts with their openings; all are to be written before transfers."""
        plan = self._plan
        choice = self._choice("accounts")
        first = self._last_account + 1
        numbers = range(first, first + plan.account_count)
        for start in range(0, len(numbers), plan.batch_size):
            yield self._account_batch(choice, numbers[start : start + plan.batch_size])

    def transfer_batches(self, shard: int) -> Iterator[BulkBatch]:
        """A shard's batch of each round, in order; to be written in this order."""
        plan = self._plan
        choice = self._choice(f"transfers/{shard}")
        holders = self._holders[shard :: self.shard_count]
        first = self._last_transfer + 1
        numbers = range(first, first + plan.transfer_count)
        per_round = plan.batch_size * self.shard_count
        for start in range(0, len(numbers), per_round):
            in_round = numbers[start : start + per_round]
            yield BulkBatch(
                plan.ledger_id,
                plan.currency,
                (),
                tuple(
                    [
                        _transfer(choice, holders, number)
                        for number in in_round[shard :: self.shard_count]
                    ]
                ),
            )

    def _choice(self, part: str) -> random.Random:
        # Numbers go on where the ledger's end, and so does the choice.
        return random.Random(  # noqa: S311 - made-up books need no secrecy
            f"{self._plan.seed}/{self._last_account}/{self._last_transfer}/{part}"
        )

    def _account_batch(self, choice: random.Random, numbers: range) -> BulkBatch:
        accounts, requests = [], []
        for number in numbers:
            account = BulkAccount(
                new_id(),
                f"{_ACCOUNT}{number:0{_DIGITS}}",
                f"{choice.choice(_GIVEN_NAMES)} {choice.choice(_FAMILY_NAMES)}",
            )
            amount = choice.randint(*_OPENING_RANGE)
            accounts.append(account)
            requests.append(
                TransferRequest(
                    # The equity account is known only under the transaction.
                    postings=(PostingRequest(_EQUITY, account.id, amount),),
                    kind=TransferKind.OPENING_BALANCE,
                    reference=f"{_OPENING}{number:0{_DIGITS}}",
                    description="Opening balance",
                )
            )
            self._holders.append(_Holder(account.id, amount))
        return BulkBatch(
            self._plan.ledger_id, self._plan.currency, tuple(accounts), tuple(requests)
        )


def _transfer(
    choice: random.Random, holders: list[_Holder], number: int
) -> TransferRequest:
    """A transfer between two of the holders, whose balances follow it."""
    # Scaled by hand: the generator's own methods cost more than all the rest.
    count, pick = len(holders), choice.random
    sender = _sender(choice, holders)
    receiver = sender
    while receiver is sender:
        receiver = holders[int(pick() * count)]
    ceiling = _AMOUNT_CEILINGS[int(pick() * len(_AMOUNT_CEILINGS))]
    amount = 1 + int(pick() * min(sender.balance, ceiling))
    sender.balance -= amount
    receiver.balance += amount
    return TransferRequest(
        postings=(PostingRequest(sender.id, receiver.id, amount),),
        reference=f"{_TRANSFER}{number:0{_DIGITS}}",
        description=_DESCRIPTIONS[int(pick() * len(_DESCRIPTIONS))],
    )


def _sender(choice: random.Random, holders: list[_Holder]) -> _Holder:
    for _ in range(_MAX_GUESSES):
        holder = holders[int(choice.random() * len(holders))]
        if holder.balance > 0:
            return holder
    for holder in holders:
        if holder.balance > 0:
            return holder
    raise ProblemError("insufficient_funds", "No bulk account has any money.")


# Stands for the ledger's opening-balances account until the batch is written.
_EQUITY = UUID(int=0)


def bulk_batch_write(*, batch: BulkBatch, actor: Actor, now: datetime) -> None:
    """Writes one batch through the posting engine, in the caller's transaction.

    Nobody is told of bulk books: their outbox tasks are written as done.

    Args:
        batch: from :meth:`BulkBooks.batches`.
        actor: who asks, for the record.
        now: the interface's clock.

    Raises:
        ProblemError: the engine refused a transfer, so somebody else moved the money
            of a bulk account; nothing of the batch is written.
        RuntimeError: no transaction is open.
    """
    require_transaction()
    requests = batch.requests
    if batch.accounts:
        _insert_accounts(batch)
        equity_id = system_account_id(
            ledger_id=batch.ledger_id, name="opening-balances", currency=batch.currency
        )
        requests = tuple(_funded_by(equity_id, request) for request in requests)
    outcomes = transfers_post(
        ledger_id=batch.ledger_id,
        requests=requests,
        actor=actor,
        now=now,
        tasks_are_done=True,
    )
    for request, outcome in zip(requests, outcomes, strict=True):
        if isinstance(outcome, Problem):
            raise ProblemError(
                outcome.code,
                f"{request.reference} was refused: {outcome.detail} The bulk books"
                " change while they are seeded; nothing of this batch was written.",
            )


def _funded_by(equity_id: UUID, request: TransferRequest) -> TransferRequest:
    (posting,) = request.postings
    return TransferRequest(
        postings=(PostingRequest(equity_id, posting.to_account_id, posting.amount),),
        kind=request.kind,
        reference=request.reference,
        description=request.description,
        id=request.id,
    )


def _insert_accounts(batch: BulkBatch) -> None:
    # One statement instead of one per account; the table's triggers hold here too.
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO ledger_account"
            " (ledger_id, id, reference, owner_name, currency)"
            " SELECT %s, a.id, a.reference, a.owner_name, %s"
            " FROM unnest(%s::uuid[], %s::text[], %s::text[])"
            " AS a (id, reference, owner_name)",
            [
                batch.ledger_id,
                batch.currency,
                [account.id for account in batch.accounts],
                [account.reference for account in batch.accounts],
                [account.owner_name for account in batch.accounts],
            ],
        )


def _require_possible(plan: BulkPlan) -> None:
    if currency_exponent(plan.currency) is None:
        raise ProblemError(
            "currency_unknown", f"{plan.currency!r} is not a current ISO 4217 code."
        )
    if not 1 <= plan.batch_size <= MAX_TRANSFERS:
        raise ProblemError(
            "invalid_request", f"A batch has 1 to {MAX_TRANSFERS:,} transfers."
        )
    for count in (plan.account_count, plan.transfer_count):
        if not 0 <= count <= MAX_BULK:
            raise ProblemError("invalid_request", f"A run makes 0 to {MAX_BULK:,}.")


def _last_number(
    model: type[Account] | type[Transfer], ledger_id: UUID, prefix: str
) -> int:
    # A range instead of LIKE, which needs an index of its own in most collations.
    last = (
        model._default_manager.filter(
            ledger_id=ledger_id,
            reference__gte=prefix + "0" * _DIGITS,
            reference__lte=prefix + "9" * _DIGITS,
            reference__regex=f"^{prefix}[0-9]{{{_DIGITS}}}$",
        )
        .order_by("-reference")
        .values_list("reference", flat=True)
        .first()
    )
    return int(last.removeprefix(prefix)) if last else 0


def _existing_holders(plan: BulkPlan) -> list[_Holder]:
    rows = (
        Account.objects.filter(
            Q(payout_destination=None),
            ledger_id=plan.ledger_id,
            currency=plan.currency,
            status=AccountStatus.OPEN,
            reference__gte=_ACCOUNT + "0" * _DIGITS,
            reference__lte=_ACCOUNT + "9" * _DIGITS,
        )
        .order_by("reference")
        .values_list("id", "credits_posted", "debits_posted", "debits_pending")
    )
    return [
        _Holder(account_id, credits - debits - pending)
        for account_id, credits, debits, pending in rows.iterator(chunk_size=10_000)
    ]
