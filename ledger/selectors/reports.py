"""Reports over a whole ledger: trial balance, balance sheet, income statement.

All three are made of the same thing, the balances of accounts at an instant as recorded
at an instant (``ledger.selectors.as_of`` says what that is). They go by the time of
effect and name their ``as_recorded_at``: asked again with both, they answer the same,
whatever is recorded meanwhile.

Accounts are read in slices, each a short statement, so that a ledger of any size is
reported on in bounded memory and holds up nobody; the slices fit together because
everything that is looked at is final.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from uuid import UUID
from zoneinfo import ZoneInfo

from ledger.days import TICK, Moment, moment_end, moment_start
from ledger.enums import AccountKind
from ledger.models import Account, Ledger
from ledger.selectors.as_of import (
    FINAL_AFTER,
    clock_read,
    moment_resolve,
    require_past,
    totals_as_of,
)
from ledger.selectors.statements import require_order
from payflow.clock import format_instant
from payflow.errors import ProblemError

#: Accounts that one statement of SQL looks at.
SLICE_ACCOUNTS = 2_000


@dataclass(frozen=True, slots=True)
class ReportScope:
    """What a report is about.

    Attributes:
        ledger: the books.
        at: the instant whose balances they are, inclusive.
        as_recorded_at: what was recorded later is left out; final.
        currency: only accounts of this currency; ``None`` means all.
    """

    ledger: Ledger
    at: datetime
    as_recorded_at: datetime
    currency: str | None = None


@dataclass(frozen=True, slots=True)
class PeriodScope:
    """What a report on a period is about.

    Attributes:
        ledger, as_recorded_at, currency: as in :class:`ReportScope`.
        start, end: the period, ``start`` inclusive, ``end`` exclusive.
    """

    ledger: Ledger
    start: datetime
    end: datetime
    as_recorded_at: datetime
    currency: str | None = None


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
        ProblemError: ``instant_in_future``; ``as_recorded_at_not_final``.
    """
    ledger = Ledger.objects.get(id=ledger_id)
    zone = ZoneInfo(ledger.time_zone)
    now = clock_read()
    recorded = _recorded(as_recorded_at, zone=zone, now=now)
    return ReportScope(
        ledger=ledger,
        at=recorded
        if at is None
        else moment_resolve(at, field="at", zone=zone, now=now),
        as_recorded_at=recorded,
        currency=currency,
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
        ProblemError: ``instant_in_future`` if the period has not begun;
            ``invalid_request`` if it ends before it begins;
            ``as_recorded_at_not_final``.
    """
    ledger = Ledger.objects.get(id=ledger_id)
    zone = ZoneInfo(ledger.time_zone)
    now = clock_read()
    recorded = _recorded(as_recorded_at, zone=zone, now=now)
    require_past(start, field="from", zone=zone, now=now)
    first = moment_start(start, zone=zone)
    last = recorded if end is None else moment_end(end, zone=zone)
    require_order(first, last)
    return PeriodScope(ledger, first, last, recorded, currency)


def _recorded(moment: Moment | None, *, zone: ZoneInfo, now: datetime) -> datetime:
    newest = now - FINAL_AFTER
    if moment is None:
        return newest
    recorded = moment_resolve(moment, field="as_recorded_at", zone=zone, now=now)
    if recorded <= newest:
        return recorded
    if moment_end(moment, zone=zone) > now:
        return newest  # Of a day that has not ended: as far as it can be told.
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
    before, through = (
        account_balances(
            scope=ReportScope(
                scope.ledger, instant - TICK, scope.as_recorded_at, scope.currency
            ),
            kinds=(AccountKind.INCOME, AccountKind.EXPENSE),
        )
        for instant in (scope.start, scope.end)
    )
    lines = _grouped(_changes(before, through))
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
    *,
    scope: ReportScope,
    kinds: Iterable[AccountKind] = tuple(AccountKind),
    after: UUID | None = None,
    slice_accounts: int = SLICE_ACCOUNTS,
) -> Iterator[AccountBalance]:
    """The balances of all accounts that have entries, in ascending id.

    They are fetched in slices as they are taken; no transaction is needed, because what
    a final scope looks at never changes.

    Args:
        scope: the ledger, the two instants and the currency.
        kinds: only accounts of these.
        after: only accounts with a greater id.
        slice_accounts: how many accounts one statement looks at.
    """
    accounts = Account.objects.filter(
        ledger_id=scope.ledger.id, kind__in=list(kinds)
    ).order_by("id")
    if scope.currency is not None:
        accounts = accounts.filter(currency=scope.currency)
    # Plain rows: making model instances would cost more than all the rest.
    columns = accounts.values_list(
        "id", "reference", "owner_name", "kind", "code", "currency"
    )
    while True:
        rows = columns if after is None else columns.filter(id__gt=after)
        found = list(rows[:slice_accounts])
        if not found:
            return
        totals = totals_as_of(
            ledger_id=scope.ledger.id,
            account_ids=[row[0] for row in found],
            at=scope.at,
            as_recorded_at=scope.as_recorded_at,
        )
        for id_, reference, owner_name, kind, code, currency in found:
            has = totals[id_]
            if has.version or has.backdated_entry_count:
                yield AccountBalance(
                    id=id_,
                    reference=reference,
                    owner_name=owner_name,
                    kind=AccountKind(kind),
                    code=code,
                    currency=currency,
                    net=has.credits - has.debits,
                )
        after = found[-1][0]


def account_balances_page(
    *, scope: ReportScope, limit: int, after: UUID | None
) -> list[AccountBalance]:
    """The first ``limit + 1`` of :func:`account_balances`, so that one sees the end."""
    balances = account_balances(scope=scope, after=after, slice_accounts=limit + 1)
    return list(islice(balances, limit + 1))


def _changes(
    before: Iterable[AccountBalance], through: Iterable[AccountBalance]
) -> Iterator[AccountBalance]:
    """What became of the accounts in between, of those whose balance is another."""
    earlier = {balance.id: balance.net for balance in before}
    for balance in through:
        net = balance.net - earlier.get(balance.id, 0)
        if net:
            yield replace(balance, net=net)


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
