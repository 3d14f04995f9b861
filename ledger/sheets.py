"""Statements and reports as tables; ``payflow.sheets`` makes files of them."""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from ledger.days import day_start
from ledger.enums import Direction
from ledger.models import Account, Ledger
from ledger.selectors.assets import exponents
from ledger.selectors.reports import (
    BalanceSheet,
    ColumnSums,
    IncomeStatement,
    PeriodScope,
    ReportScope,
    Section,
    TrialBalance,
    account_balances,
)
from ledger.selectors.statements import Statement, StatementLine, statement_all_lines
from payflow.sheets import Amount, Cell, Column, Row, RowStyle, Sheet, local_text

#: The printable page around a sheet.
PAGE_TEMPLATE = "ledger/reports/page.html"

_NEWEST_NOTE = "As the books stood two minutes ago; what is younger is not final yet."

_STATEMENT_COLUMNS = (
    Column("booked_at", "Booked", 20, is_whole=True),
    Column("value_date", "Value date", 20, is_whole=True),
    Column("version", "No.", 8, is_number=True),
    Column("transfer_id", "Transfer", 38, is_printed=False),
    Column("kind", "Kind"),
    Column("reference", "Reference", 24),
    Column("description", "Description", 40),
    Column("counterparty_id", "Counterparty id", 38, is_printed=False),
    Column("counterparty_reference", "Counterparty account", 24),
    Column("counterparty_name", "Counterparty", 28),
    Column("debit", "Debit", 18, is_number=True),
    Column("credit", "Credit", 18, is_number=True),
    Column("balance", "Balance", 18, is_number=True),
    Column("currency", "Currency", 9, is_printed=False),
)


class _Amounts:
    """Makes amounts of a ledger's currencies and assets."""

    def __init__(self, ledger: Ledger) -> None:
        self._exponents = exponents(ledger.id)

    def __call__(self, minor: int, currency: str) -> Amount:
        """Minor units of a currency; one that ISO 4217 withdrew has no decimals."""
        return Amount(minor, currency, self._exponents.get(currency, 0))


def statement_sheet(statement: Statement) -> Sheet:
    """A whole statement; its lines are fetched as they are taken.

    The first row is the opening balance and the last one the closing balance, so that a
    file that was cut off can be told.
    """
    account = statement.account
    zone = ZoneInfo(statement.ledger.time_zone)
    currency = account.currency
    amount = _Amounts(statement.ledger)
    return Sheet(
        title="Account statement",
        facts=(
            ("Ledger", statement.ledger.name),
            ("Account", account.reference or str(account.id)),
            *((("Owner", account.owner_name),) if account.owner_name else ()),
            ("Currency", currency),
            ("Period", _period_text(statement.start, statement.end, zone)),
            ("Opening balance", str(amount(statement.opening_balance, currency))),
            ("Debits", str(amount(statement.total_debits, currency))),
            ("Credits", str(amount(statement.total_credits, currency))),
            ("Closing balance", str(amount(statement.closing_balance, currency))),
            (
                "State",
                "final"
                if statement.is_final
                else f"as recorded at {local_text(statement.as_recorded_at, zone)}",
            ),
        ),
        columns=_STATEMENT_COLUMNS,
        rows=_statement_rows(statement, amount),
        zone=zone,
        row_count=statement.line_count,
    )


def _statement_rows(statement: Statement, amount: _Amounts) -> Iterator[Row]:
    currency = statement.account.currency
    opening = amount(statement.opening_balance, currency)
    closing = amount(statement.closing_balance, currency)
    yield _balance_row(statement.start, "Opening balance", opening)
    for line in statement_all_lines(statement=statement):
        yield Row(_statement_cells(line, currency, amount))
    yield _balance_row(statement.as_recorded_at, "Closing balance", closing)


def _balance_row(at: datetime, label: str, balance: Amount) -> Row:
    cells: dict[str, Cell] = {
        "booked_at": at,
        "description": label,
        "balance": balance,
        "currency": balance.currency,
    }
    return Row(
        tuple(cells.get(column.name) for column in _STATEMENT_COLUMNS), RowStyle.TOTAL
    )


def _statement_cells(
    line: StatementLine, currency: str, amount: _Amounts
) -> tuple[Cell, ...]:
    moved = amount(line.amount, currency)
    is_debit = line.direction is Direction.DEBIT
    return (
        line.booked_at,
        line.effective_at,
        line.version,
        str(line.transfer_id),
        line.transfer_kind,
        line.transfer_reference,
        line.transfer_description,
        str(line.counterparty_id),
        line.counterparty_reference,
        line.counterparty_name,
        moved if is_debit else None,
        None if is_debit else moved,
        amount(line.balance, currency),
        currency,
    )


def trial_balance_sheet(report: TrialBalance) -> Sheet:
    """A trial balance by kind and code, with the sums of each currency."""
    return Sheet(
        title="Trial balance",
        facts=(*_scope_facts(report.scope), _check_fact(report.is_balanced)),
        columns=(
            Column("currency", "Currency", 9),
            Column("kind", "Kind"),
            Column("code", "Code"),
            Column("account_count", "Accounts", 10, is_number=True),
            Column("debit", "Debit", 20, is_number=True),
            Column("credit", "Credit", 20, is_number=True),
        ),
        rows=_trial_balance_rows(report),
        zone=ZoneInfo(report.scope.ledger.time_zone),
        row_count=len(report.lines),
        note=_note(report.scope),
    )


def _trial_balance_rows(report: TrialBalance) -> Iterator[Row]:
    amount = _Amounts(report.scope.ledger)
    for total in report.totals:
        currency = total.currency
        for line in report.lines:
            if line.currency == currency:
                columns = amount(line.debit, currency), amount(line.credit, currency)
                count = line.account_count
                yield Row((currency, line.kind.value, line.code, count, *columns))
        columns = amount(total.debit, currency), amount(total.credit, currency)
        yield Row((currency, "total", None, None, *columns), RowStyle.TOTAL)


def trial_balance_accounts_sheet(scope: ReportScope) -> Sheet:
    """A trial balance of single accounts, which are fetched as they are taken."""
    return Sheet(
        title="Trial balance by account",
        facts=_scope_facts(scope),
        columns=(
            Column("account_id", "Account id", 38),
            Column("reference", "Reference", 28),
            Column("owner_name", "Owner", 28),
            Column("kind", "Kind"),
            Column("code", "Code"),
            Column("currency", "Currency", 9),
            Column("debit", "Debit", 20, is_number=True),
            Column("credit", "Credit", 20, is_number=True),
        ),
        rows=_account_rows(scope),
        zone=ZoneInfo(scope.ledger.time_zone),
        note=_note(scope),
    )


def _account_rows(scope: ReportScope) -> Iterator[Row]:
    amount = _Amounts(scope.ledger)
    sums = ColumnSums()
    for balance in account_balances(scope=scope):
        sums.add(balance)
        yield Row(
            (
                str(balance.id),
                balance.reference,
                balance.owner_name,
                balance.kind.value,
                balance.code,
                balance.currency,
                amount(balance.debit, balance.currency),
                amount(balance.credit, balance.currency),
            )
        )
    for total in sums.totals():
        currency = total.currency
        columns = amount(total.debit, currency), amount(total.credit, currency)
        yield Row((None, "total", None, None, None, currency, *columns), RowStyle.TOTAL)


_SECTION_COLUMNS = (
    Column("currency", "Currency", 9, is_printed=False),
    Column("section", "Section", 22, is_printed=False),
    Column("code", "Code", 34),
    Column("account_count", "Accounts", 10, is_number=True),
    Column("balance", "Balance", 20, is_number=True),
)


def balance_sheet_sheet(report: BalanceSheet) -> Sheet:
    """A balance sheet: sections with their sums, and the check."""
    amount = _Amounts(report.scope.ledger)
    rows: list[Row] = []
    for sheet in report.currencies:
        name = sheet.currency
        result = amount(sheet.result, name)
        other_side = amount(sheet.total_liabilities_and_equity, name)
        rows += _section_rows(name, "Assets", sheet.assets, amount)
        rows += _section_rows(name, "Liabilities", sheet.liabilities, amount)
        rows += _section_rows(name, "Equity", sheet.equity, amount)
        rows.append(_sum_row("Result", "Income less expenses", result))
        rows.append(_sum_row("Total", "Liabilities, equity and result", other_side))
    return Sheet(
        title="Balance sheet",
        facts=(*_scope_facts(report.scope), _check_fact(report.is_balanced)),
        columns=_SECTION_COLUMNS,
        rows=rows,
        zone=ZoneInfo(report.scope.ledger.time_zone),
        row_count=len(rows),
        note=_note(report.scope),
    )


def income_statement_sheet(report: IncomeStatement) -> Sheet:
    """An income statement: sections with their sums, and what is left."""
    scope = report.scope
    zone = ZoneInfo(scope.ledger.time_zone)
    amount = _Amounts(scope.ledger)
    rows: list[Row] = []
    for sheet in report.currencies:
        name = sheet.currency
        rows += _section_rows(name, "Income", sheet.income, amount)
        rows += _section_rows(name, "Expenses", sheet.expense, amount)
        rows.append(_sum_row("Result", "Net income", amount(sheet.net_income, name)))
    return Sheet(
        title="Income statement",
        facts=(
            ("Ledger", scope.ledger.name),
            ("Period", _period_text(scope.start, scope.end, zone)),
            ("As recorded at", local_text(scope.as_recorded_at, zone)),
        ),
        columns=_SECTION_COLUMNS,
        rows=rows,
        zone=zone,
        row_count=len(rows),
        note=_note(scope),
    )


def _section_rows(
    currency: str, name: str, section: Section, amount: _Amounts
) -> Iterable[Row]:
    heading = f"{name} ({currency})"
    yield Row((currency, name, heading, None, None), RowStyle.HEADING)
    for line in section.lines:
        code, balance = line.code or "(no code)", amount(line.posted, currency)
        yield Row((currency, name, code, line.account_count, balance))
    yield _sum_row(name, f"Total {name.lower()}", amount(section.total, currency))


def _sum_row(section: str, label: str, total: Amount) -> Row:
    return Row((total.currency, section, label, None, total), RowStyle.TOTAL)


def _scope_facts(scope: ReportScope) -> tuple[tuple[str, str], ...]:
    zone = ZoneInfo(scope.ledger.time_zone)
    return (
        ("Ledger", scope.ledger.name),
        ("At", local_text(scope.at, zone)),
        ("As recorded at", local_text(scope.as_recorded_at, zone)),
        *((("Currency", scope.currency),) if scope.currency else ()),
    )


def _note(scope: ReportScope | PeriodScope) -> str:
    return _NEWEST_NOTE if scope.is_newest else ""


def _check_fact(is_balanced: bool) -> tuple[str, str]:
    return ("Check", "balanced" if is_balanced else "NOT BALANCED")


def _period_text(start: datetime, end: datetime, zone: ZoneInfo) -> str:
    """Whole days as days, the last one inclusive; anything else as instants."""
    first, after = start.astimezone(zone).date(), end.astimezone(zone).date()
    if first < after and (start, end) == (
        day_start(first, zone=zone),
        day_start(after, zone=zone),
    ):
        return f"{first} to {after - timedelta(days=1)}"
    return f"{local_text(start, zone)} to {local_text(end, zone)}"


def file_name_of(*, report: str, name: str, at: datetime, zone: ZoneInfo) -> str:
    """How a download is called: ``statement-user-ada-2026-11-30``; ASCII."""
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in name)
    return f"{report}-{plain[:60]}-{at.astimezone(zone):%Y-%m-%d}"


def account_name(account: Account) -> str:
    """What an account is called in the name of a file."""
    return account.reference or str(account.id)
