"""Reports over a whole ledger: trial balance, balance sheet, income statement.

All three are made of the same thing, the balances of accounts at an instant as recorded
at an instant (``ledger.selectors.as_of`` says what that is). They go by the time of
effect and name their ``as_recorded_at``: asked again with both, they answer the same,
whatever is recorded meanwhile.

Accounts are read in slices, each in short statements that look at so many accounts and
no more, whatever is asked for: a ledger of any size is reported on in bounded memory
and holds up nobody. The slices fit together because everything that is looked at is
final.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import repeat
from typing import NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from ledger.days import TICK, Moment, moment_end
from ledger.enums import AccountKind
from ledger.models import Account, Ledger
from ledger.selectors.as_of import (
    FINAL_AFTER,
    TotalsAsOf,
    clock_read,
    moment_resolve,
    require_past,
    totals_as_of,
)
from ledger.selectors.assets import exponents
from ledger.selectors.finding import FoundPage
from ledger.selectors.statements import period_resolve
from payflow.clock import format_instant
from payflow.errors import ProblemError
from payflow.money import is_iso_code

#: The most accounts that one statement of SQL looks at.
SLICE_ACCOUNTS = 2_000


@dataclass(frozen=True, slots=True)
class ReportScope:
    """What a report is about.

    Attributes:
        ledger: the books.
        at: the instant whose balances they are, inclusive.
        as_recorded_at: what was recorded later is left out; final.
        currency: only accounts of this currency; ``None`` means all.
        is_newest: ``as_recorded_at`` is as far as is final, and was not asked for.
    """

    ledger: Ledger
    at: datetime
    as_recorded_at: datetime
    currency: str | None = None
    is_newest: bool = False


@dataclass(frozen=True, slots=True)
class PeriodScope:
    """What a report on a period is about.

    Attributes:
        ledger, as_recorded_at, currency, is_newest: as in :class:`ReportScope`.
        start, end: the period, ``start`` inclusive, ``end`` exclusive.
    """

    ledger: Ledger
    start: datetime
    end: datetime
    as_recorded_at: datetime
    currency: str | None = None
    is_newest: bool = False


@dataclass(frozen=True, slots=True)
class AccountBalance:
    """What an account's entries come to, in minor units: credits less debits."""

    id: UUID
    reference: str | None
    owner_name: str
    kind: AccountKind
    code: str
    currency: str
    net: int

    @property
    def debit(self) -> int:
        """The balance, if it is a debit balance; else 0."""
        return max(-self.net, 0)

    @property
    def credit(self) -> int:
        """The balance, if it is a credit balance; else 0."""
        return max(self.net, 0)

    @property
    def posted(self) -> int:
        """The posted balance."""
        return -self.net if self.kind.is_debit_normal else self.net


@dataclass(slots=True)
class GroupLine:
    """The accounts of one kind, code and currency; amounts in minor units.

    Each account's balance is in the column of its own side: ``debit`` adds up the debit
    balances, ``credit`` the credit ones.
    """

    kind: AccountKind
    code: str
    currency: str
    account_count: int = 0
    debit: int = 0
    credit: int = 0

    @property
    def posted(self) -> int:
        """The posted balance of all of them together."""
        net = self.credit - self.debit
        return -net if self.kind.is_debit_normal else net


@dataclass(frozen=True, slots=True)
class ColumnTotals:
    """The sums of a currency's debit and credit balances, in minor units."""

    currency: str
    debit: int
    credit: int

    @property
    def is_balanced(self) -> bool:
        """True if they are equal, as double entry makes them."""
        return self.debit == self.credit


class ColumnSums:
    """Adds up the debit and credit columns of lines as they come, by currency."""

    def __init__(self) -> None:
        self._sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])

    def add(self, line: GroupLine | AccountBalance) -> None:
        """Adds a line."""
        sums = self._sums[line.currency]
        sums[0] += line.debit
        sums[1] += line.credit

    def totals(self) -> tuple[ColumnTotals, ...]:
        """The sums so far."""
        return tuple(
            ColumnTotals(currency, debit, credit)
            for currency, (debit, credit) in sorted(self._sums.items())
        )


@dataclass(frozen=True, slots=True)
class TrialBalance:
    """Every kind and code with the balances of its accounts, and their sums."""

    scope: ReportScope
    lines: tuple[GroupLine, ...]
    totals: tuple[ColumnTotals, ...]

    @property
    def is_balanced(self) -> bool:
        """True if debits equal credits in every currency."""
        return all(total.is_balanced for total in self.totals)


@dataclass(frozen=True, slots=True)
class Section:
    """The lines of one kind in one currency, and their sum in minor units."""

    kind: AccountKind
    lines: tuple[GroupLine, ...]

    @property
    def total(self) -> int:
        """The posted balance of all lines together."""
        return sum(line.posted for line in self.lines)


@dataclass(frozen=True, slots=True)
class CurrencyBalanceSheet:
    """What one currency's accounts own and owe; amounts in minor units.

    ``result`` is income less expenses since the beginning: it belongs to the owners
    like equity, whether or not it was ever moved there.
    """

    currency: str
    assets: Section
    liabilities: Section
    equity: Section
    result: int

    @property
    def total_liabilities_and_equity(self) -> int:
        """Everything that stands against the assets."""
        return self.liabilities.total + self.equity.total + self.result

    @property
    def is_balanced(self) -> bool:
        """True if assets equal liabilities, equity and result."""
        return self.assets.total == self.total_liabilities_and_equity


@dataclass(frozen=True, slots=True)
class BalanceSheet:
    """A balance sheet for each currency."""

    scope: ReportScope
    currencies: tuple[CurrencyBalanceSheet, ...]

    @property
    def is_balanced(self) -> bool:
        """True if every currency's is."""
        return all(sheet.is_balanced for sheet in self.currencies)


@dataclass(frozen=True, slots=True)
class CurrencyIncomeStatement:
    """What one currency's accounts earned and spent; amounts in minor units."""

    currency: str
    income: Section
    expense: Section

    @property
    def net_income(self) -> int:
        """Income less expenses."""
        return self.income.total - self.expense.total


@dataclass(frozen=True, slots=True)
class IncomeStatement:
    """An income statement for each currency."""

    scope: PeriodScope
    currencies: tuple[CurrencyIncomeStatement, ...]


def report_scope(
    *,
    ledger_id: UUID,
    at: Moment | None = None,
    as_recorded_at: Moment | None = None,
    currency: str | None = None,
) -> ReportScope:
    """Makes instants of what was asked for.

    Args:
        ledger_id: the ledger.
        at: of what time the balances are; a day means its end; ``None`` means
            ``as_recorded_at``.
        as_recorded_at: what was recorded later is left out; ``None`` means the newest
            instant that is final.
        currency: only this one.

    Raises:
        ProblemError: ``currency_unknown``; ``instant_in_future``;
            ``as_recorded_at_not_final``.
    """
    _require_currency(ledger_id, currency)
    ledger = Ledger.objects.get(id=ledger_id)
    zone = ZoneInfo(ledger.time_zone)
    now = clock_read()
    recorded, is_newest = _recorded(as_recorded_at, zone=zone, now=now)
    return ReportScope(
        ledger=ledger,
        at=recorded
        if at is None
        else moment_resolve(at, field="at", zone=zone, now=now),
        as_recorded_at=recorded,
        currency=currency,
        is_newest=is_newest,
    )


def period_scope(
    *,
    ledger_id: UUID,
    start: Moment,
    end: Moment | None = None,
    as_recorded_at: Moment | None = None,
    currency: str | None = None,
) -> PeriodScope:
    """Makes instants of the period that was asked for.

    Args:
        ledger_id: the ledger.
        start: the period's first instant or day.
        end: the first instant after the period, or its last day; ``None`` means
            ``as_recorded_at``.
        as_recorded_at, currency: as for :func:`report_scope`.

    Raises:
        ProblemError: ``currency_unknown``; ``instant_in_future`` if the period has not
            begun; ``invalid_request`` as of :func:`period_resolve`;
            ``as_recorded_at_not_final``.
    """
    _require_currency(ledger_id, currency)
    ledger = Ledger.objects.get(id=ledger_id)
    zone = ZoneInfo(ledger.time_zone)
    now = clock_read()
    recorded, is_newest = _recorded(as_recorded_at, zone=zone, now=now)
    require_past(start, field="from", zone=zone, now=now)
    first, last = period_resolve(start, end, zone=zone, until=recorded)
    return PeriodScope(ledger, first, last, recorded, currency, is_newest)


def _require_currency(ledger_id: UUID, currency: str | None) -> None:
    """Refuses what no account can be kept in, and none could be before.

    A withdrawn currency may be in old books. A misspelt one would make an empty report,
    and an empty report is balanced.
    """
    if currency is None or is_iso_code(currency) or currency in exponents(ledger_id):
        return
    raise ProblemError(
        "currency_unknown",
        f"{currency!r} is neither a code of ISO 4217, current or withdrawn, nor an"
        " asset of this ledger.",
        currency=currency,
    )


def _recorded(
    moment: Moment | None, *, zone: ZoneInfo, now: datetime
) -> tuple[datetime, bool]:
    """The instant, and whether it is the newest that can be told instead of a given."""
    newest = now - FINAL_AFTER
    if moment is None:
        return newest, True
    recorded = moment_resolve(moment, field="as_recorded_at", zone=zone, now=now)
    if recorded <= newest:
        return recorded, False
    if moment_end(moment, zone=zone) > now:
        return newest, True  # Of a day that has not ended: as far as it can be told.
    final_at = format_instant(recorded + FINAL_AFTER)
    raise ProblemError(
        "as_recorded_at_not_final",
        f"Transfers recorded by then may still appear; ask again at {final_at}.",
        final_at=final_at,
    )


def trial_balance(*, scope: ReportScope) -> TrialBalance:
    """The accounts' balances by kind, code and currency, and their sums."""
    lines = _grouped(account_balances(scope=scope))
    sums = ColumnSums()
    for line in lines:
        sums.add(line)
    return TrialBalance(scope, tuple(lines), sums.totals())


def balance_sheet(*, scope: ReportScope) -> BalanceSheet:
    """Assets, liabilities, equity and result at the scope's instant."""
    lines = _grouped(account_balances(scope=scope))
    return BalanceSheet(
        scope,
        tuple(
            CurrencyBalanceSheet(
                currency=currency,
                assets=_section(lines, currency, AccountKind.ASSET),
                liabilities=_section(lines, currency, AccountKind.LIABILITY),
                equity=_section(lines, currency, AccountKind.EQUITY),
                result=_section(lines, currency, AccountKind.INCOME).total
                - _section(lines, currency, AccountKind.EXPENSE).total,
            )
            for currency in _currencies(lines)
        ),
    )


def income_statement(*, scope: PeriodScope) -> IncomeStatement:
    """What became effective on income and expense accounts in the scope's period."""
    lines = _grouped(_changes(scope, (AccountKind.INCOME, AccountKind.EXPENSE)))
    return IncomeStatement(
        scope,
        tuple(
            CurrencyIncomeStatement(
                currency=currency,
                income=_section(lines, currency, AccountKind.INCOME),
                expense=_section(lines, currency, AccountKind.EXPENSE),
            )
            for currency in _currencies(lines)
        ),
    )


def account_balances(
    *, scope: ReportScope, slice_accounts: int = SLICE_ACCOUNTS
) -> Iterator[AccountBalance]:
    """The balances of all accounts that have entries, in ascending id.

    They are fetched in slices as they are taken; no transaction is needed, because what
    a final scope looks at never changes.

    Args:
        scope: the ledger, the two instants and the currency.
        slice_accounts: how many accounts one statement looks at.
    """
    for piece in _slices(scope, sizes=repeat(slice_accounts)):
        yield from _balances(scope, piece)


def account_balances_page(
    *, scope: ReportScope, limit: int, after: UUID | None
) -> FoundPage[AccountBalance]:
    """Up to ``limit`` of :func:`account_balances`, and where the next page begins.

    It looks at ``limit + 1`` accounts, and if too many of them have no entries at
    :data:`SLICE_ACCOUNTS` more. Where nearly all are such, a page may have fewer rows
    than were asked for, even none, and still not be the last.

    Args:
        scope: the ledger, the two instants and the currency.
        limit: the page size.
        after: only accounts with a greater id.
    """
    found: list[AccountBalance] = []
    edge = None
    for piece in _slices(scope, after=after, sizes=(limit + 1, SLICE_ACCOUNTS)):
        found += _balances(scope, piece)
        edge = piece.edge
        if len(found) > limit:
            return FoundPage(found[:limit], after=found[limit - 1].id)
    return FoundPage(found, after=edge)


class _Account(NamedTuple):
    """A row of an account: model instances would cost more than all the rest."""

    id: UUID
    reference: str | None
    owner_name: str
    kind: str
    code: str
    currency: str

    def balance(self, net: int) -> AccountBalance:
        """The account with credits less debits."""
        return AccountBalance(
            id=self.id,
            reference=self.reference,
            owner_name=self.owner_name,
            kind=AccountKind(self.kind),
            code=self.code,
            currency=self.currency,
            net=net,
        )


class _Slice(NamedTuple):
    """The accounts that match among those looked at, and the last one looked at.

    ``edge`` is ``None`` in the last slice.
    """

    accounts: list[_Account]
    edge: UUID | None


def _slices(
    scope: ReportScope | PeriodScope,
    *,
    sizes: Iterable[int],
    kinds: Iterable[AccountKind] = tuple(AccountKind),
    after: UUID | None = None,
) -> Iterator[_Slice]:
    """The ledger's accounts by id, those of the scope's currency and of some kinds.

    A slice ends after so many accounts of the ledger, and not of those that match:
    looking for a rare currency would take one statement through all accounts.
    """
    ledger_id = scope.ledger.id
    for size in sizes:
        rest = Account.objects.filter(ledger_id=ledger_id).order_by("id")
        if after is not None:
            rest = rest.filter(id__gt=after)
        after = rest.values_list("id", flat=True)[size - 1 : size].first()
        matching = rest.filter(kind__in=list(kinds))
        if scope.currency is not None:
            matching = matching.filter(currency=scope.currency)
        if after is not None:
            matching = matching.filter(id__lte=after)
        yield _Slice(
            [_Account(*row) for row in matching.values_list(*_Account._fields)], after
        )
        if after is None:
            return


def _balances(scope: ReportScope, piece: _Slice) -> Iterator[AccountBalance]:
    """The balances of a slice's accounts that have entries."""
    totals = _totals(scope, piece, at=scope.at)
    for account in piece.accounts:
        has = totals[account.id]
        if has.version or has.backdated_entry_count:
            yield account.balance(has.credits - has.debits)


def _changes(
    scope: PeriodScope, kinds: Iterable[AccountKind]
) -> Iterator[AccountBalance]:
    """What became of the accounts in between, of those whose balance is another."""
    for piece in _slices(scope, kinds=kinds, sizes=repeat(SLICE_ACCOUNTS)):
        before = _totals(scope, piece, at=scope.start - TICK)
        through = _totals(scope, piece, at=scope.end - TICK)
        for account in piece.accounts:
            first, last = before[account.id], through[account.id]
            net = last.credits - last.debits - (first.credits - first.debits)
            if net:
                yield account.balance(net)


def _totals(
    scope: ReportScope | PeriodScope, piece: _Slice, *, at: datetime
) -> dict[UUID, TotalsAsOf]:
    if not piece.accounts:
        return {}
    return totals_as_of(
        ledger_id=scope.ledger.id,
        account_ids=[account.id for account in piece.accounts],
        at=at,
        as_recorded_at=scope.as_recorded_at,
    )


def _grouped(balances: Iterable[AccountBalance]) -> list[GroupLine]:
    """One line for each kind, code and currency, in the order of a balance sheet."""
    groups: dict[tuple[str, AccountKind, str], GroupLine] = {}
    for balance in balances:
        key = (balance.currency, balance.kind, balance.code)
        line = groups.get(key)
        if line is None:
            line = groups[key] = GroupLine(balance.kind, balance.code, balance.currency)
        line.account_count += 1
        line.debit += balance.debit
        line.credit += balance.credit
    return sorted(groups.values(), key=_position)


_KINDS = list(AccountKind)


def _position(line: GroupLine) -> tuple[str, int, str]:
    return line.currency, _KINDS.index(line.kind), line.code


def _section(lines: Iterable[GroupLine], currency: str, kind: AccountKind) -> Section:
    return Section(
        kind,
        tuple(
            line for line in lines if line.currency == currency and line.kind == kind
        ),
    )


def _currencies(lines: Iterable[GroupLine]) -> list[str]:
    return sorted({line.currency for line in lines})
