"""``manage.py set_account``: freezes, unfreezes, closes or limits an account."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import UUID

from django.core.management.base import CommandParser

from ledger.api.limits import limits_json
from ledger.enums import LimitDirection, LimitPeriod, Permission
from ledger.management.base import LedgerCommand
from ledger.models import Account, Ledger
from ledger.selectors.accounts import account_get
from ledger.selectors.limits import AccountLimits, limits_get
from ledger.services.account_status import (
    MAX_REASON,
    account_close,
    account_freeze,
    account_unfreeze,
)
from ledger.services.limits import Limit, limits_set
from payflow.actors import Actor
from payflow.clock import now
from payflow.db import retry_on_conflict, transaction_owner
from payflow.errors import Problem, ProblemError
from payflow.ids import parse_id
from payflow.money import MAX_AMOUNT

#: Operators have every permission: they have the database.
ACTOR = Actor("command:set_account", permissions=frozenset(Permission.values))
NO_FLOOR = "none"

HELP = """\
Freezes, unfreezes or closes an account, or sets what limits it. All changes of one call
are made together or not at all, and each is kept in the account's history with its old
value. What is already as wanted is not written.

A frozen account moves nothing (--freeze all), or still receives (--freeze outgoing).
A closed account stays closed; only an empty one can be closed, without open holds and
without unfinished payouts.

--limit replaces all velocity limits of the account, so give all that it is to have. Its
form is DIRECTION:PERIOD:amount=N,count=N, with one of the two or both: DIRECTION is in
or out, PERIOD is rolling_day, day or month, amounts are minor units.
"""

EPILOG = """\
examples:
  manage.py set_account user-ada --ledger acme --freeze all --reason "card stolen"
  manage.py set_account user-ada --ledger acme --unfreeze --reason "new card sent"
  manage.py set_account user-ada --ledger acme --close --reason "asked for it" --json
  manage.py set_account user-ada --ledger acme --min-balance -50000 \\
      --limit out:day:amount=100000,count=20 --limit out:month:amount=1000000
  manage.py set_account user-ada --ledger acme --no-limits
"""


class Command(LedgerCommand):
    """Changes an account's status and limits."""

    help = HELP
    epilog = EPILOG

    def add_arguments(self, parser: CommandParser) -> None:
        """Declares the options."""
        parser.add_argument(
            "account", metavar="ACCOUNT", help="the account's reference or id"
        )
        parser.add_argument(
            "--ledger", required=True, metavar="SLUG", help="the ledger that it is in"
        )
        status = parser.add_mutually_exclusive_group()
        status.add_argument("--freeze", choices=("all", "outgoing"), help="freeze it")
        status.add_argument("--unfreeze", action="store_true", help="open it again")
        status.add_argument("--close", action="store_true", help="close it for good")
        parser.add_argument(
            "--reason", metavar="TEXT", help="why, for the history; with the above"
        )
        parser.add_argument(
            "--min-balance",
            metavar="AMOUNT",
            help="the floor of the available balance in minor units, negative for a"
            " credit line, none for no floor",
        )
        limits = parser.add_mutually_exclusive_group()
        limits.add_argument(
            "--limit",
            dest="limits",
            action="append",
            metavar="LIMIT",
            help="a velocity limit; repeatable, see above",
        )
        limits.add_argument(
            "--no-limits",
            dest="limits",
            action="store_const",
            const=[],
            help="remove all velocity limits",
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def run(self, options: dict[str, Any]) -> None:
        """Makes the changes that the options describe."""
        changes = self._limit_changes(options)
        change_status = self._status_change(options)
        if not changes and change_status is None:
            raise self.failure(
                "Nothing to change: give --freeze, --unfreeze, --close, --min-balance,"
                " --limit or --no-limits."
            )
        ledger_id, account_id = self._find(options["ledger"], options["account"])

        def change() -> tuple[Account, AccountLimits]:
            with transaction_owner():
                if changes:
                    _done(
                        limits_set(
                            ledger_id=ledger_id,
                            account_id=account_id,
                            changes=changes,
                            actor=ACTOR,
                        )
                    )
                if change_status is not None:
                    _done(change_status(ledger_id=ledger_id, account_id=account_id))
                return (
                    account_get(ledger_id=ledger_id, account_id=account_id),
                    limits_get(ledger_id=ledger_id, account_id=account_id),
                )

        account, limits = retry_on_conflict(change)
        if options["json"]:
            document = {"reference": account.reference, "status": account.status}
            self.say(json.dumps({**document, **limits_json(limits)}))
            return
        floor = "no floor" if limits.min_balance is None else limits.min_balance
        self.say(f"Account {account}: {account.status}, min_balance {floor}.")
        for window in limits.windows:
            for measure, used, maximum in window.measures():
                if maximum is not None:
                    self.say(
                        f"  {window.direction} per {window.period}, {measure}:"
                        f" {used:,} of {maximum:,} used"
                    )

    def _find(self, slug: str, name: str) -> tuple[UUID, UUID]:
        ledger = Ledger.objects.filter(slug=slug).first()
        if ledger is None:
            raise self.failure(f"There is no ledger {slug!r}.")
        rows = Account.objects.filter(ledger_id=ledger.id)
        found = rows.filter(reference=name).values_list("id", flat=True).first()
        account_id = found or parse_id(name.lower())
        if account_id is None:
            raise self.failure(
                f"Ledger {slug} has no account with the reference {name!r}."
            )
        return ledger.id, account_id

    def _status_change(self, options: dict[str, Any]) -> Callable[..., Any] | None:
        if not (options["freeze"] or options["unfreeze"] or options["close"]):
            return None
        reason = (options["reason"] or "").strip()
        if not 1 <= len(reason) <= MAX_REASON:
            raise self.failure(
                f"Give the reason, up to {MAX_REASON:,} characters: --reason TEXT."
            )
        if options["close"]:
            return partial(account_close, reason=reason, actor=ACTOR, now=now())
        if options["unfreeze"]:
            return partial(account_unfreeze, reason=reason, actor=ACTOR)
        return partial(
            account_freeze,
            outgoing_only=options["freeze"] == "outgoing",
            reason=reason,
            actor=ACTOR,
        )

    def _limit_changes(self, options: dict[str, Any]) -> dict[str, Any]:
        changes: dict[str, Any] = {}
        if options["min_balance"] is not None:
            changes["min_balance"] = self._floor(options["min_balance"])
        if options["limits"] is not None:
            changes["velocity_limits"] = [self._limit(t) for t in options["limits"]]
        return changes

    def _floor(self, text: str) -> int | None:
        if text == NO_FLOOR:
            return None
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdigit() and int(digits) <= MAX_AMOUNT):
            raise self.failure(
                "--min-balance takes an integer of minor units, or none."
            )
        return int(text)

    def _limit(self, text: str) -> Limit:
        try:
            direction, period, measures = text.split(":")
            values = dict(measure.split("=") for measure in measures.split(","))
            limit = Limit(
                LimitDirection(direction),
                LimitPeriod(period),
                _number(values.pop("amount", None)),
                _number(values.pop("count", None)),
            )
            if values:
                raise ValueError(f"unknown measures: {', '.join(values)}")
        except ValueError as error:
            raise self.failure(
                f"{text!r} is no limit: write it as out:day:amount=100000,count=20."
            ) from error
        return limit


def _number(text: str | None) -> int | None:
    """A number from 0 to the largest that JSON carries; anything else is an error."""
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and int(text) <= MAX_AMOUNT):
        raise ValueError(text)
    return int(text)


def _done(outcome: object) -> None:
    if isinstance(outcome, Problem):
        raise ProblemError.of(outcome)
