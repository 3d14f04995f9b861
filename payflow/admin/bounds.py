"""The most that a page of the back office reads and shows."""

from typing import Any

from django.db.models import QuerySet

#: Rows of one list page. Even, so that a page never splits a posting's two entries.
PER_PAGE = 50
#: Where counting stops: "1,000+".
MAX_COUNT = 1_000
#: Rows that one page of a filtered list looks through.
WINDOW_ROWS = 20_000
#: Rows that one search finds.
MAX_MATCHES = 1_000
#: Ledgers that the filter offers; others are reached from the list of ledgers.
MAX_LEDGER_CHOICES = 100
#: Rows that a table inside another object's page shows.
MAX_TABLE_ROWS = 50
#: Characters of a JSON document or stored body that a page shows.
MAX_TEXT_CHARACTERS = 20_000


def bounded_count(rows: QuerySet[Any]) -> int:
    """How many rows there are, counted up to ``MAX_COUNT + 1``."""
    return rows.values("pk")[: MAX_COUNT + 1].count()


def count_label(count: int) -> str:
    """``"12"``, or ``"1,000+"`` where counting stopped."""
    return f"{MAX_COUNT:,}+" if count > MAX_COUNT else f"{count:,}"
