"""The one number behind ``/health``."""

from dataclasses import dataclass
from datetime import timedelta

from django.db import connection
from django.db.models import BooleanField, ExpressionWrapper, Q
from django.db.models.functions import Now

from ledger.models import IntegrityStatus

#: Beat refreshes every few seconds; a number older than this says nothing any more.
STALE_AFTER = timedelta(seconds=30)

# Absolute values by ledger and currency, so that errors cannot cancel; and the
# differences that the last audit found, which no sum over accounts can show.
_REFRESH = """
INSERT INTO ledger_integrity_status (id, integrity_sum, computed_at)
SELECT 1,
    coalesce((
        SELECT sum(abs(net)) FROM (
            SELECT sum(credits_posted) - sum(debits_posted) AS net
            FROM ledger_account GROUP BY ledger_id, currency) AS by_currency), 0)
    + coalesce((
        SELECT difference FROM ledger_audit_run ORDER BY id DESC LIMIT 1), 0),
    clock_timestamp()
ON CONFLICT (id) DO UPDATE SET integrity_sum = excluded.integrity_sum,
    computed_at = excluded.computed_at
"""


@dataclass(frozen=True, slots=True)
class Integrity:
    """What ``/health`` says; ``integrity_sum`` is in minor units, 0 if all is well."""

    integrity_sum: int
    is_healthy: bool


def integrity_refresh() -> None:
    """Computes the number anew and stores it in its one row."""
    with connection.cursor() as cursor:
        cursor.execute(_REFRESH)


def integrity_get() -> Integrity:
    """The stored number; unhealthy if it is not zero, missing or stale.

    PostgreSQL's clock wrote the number's time and tells its age: another host's may
    be minutes off.
    """
    is_fresh = ExpressionWrapper(
        Q(computed_at__gt=Now() - STALE_AFTER), output_field=BooleanField()
    )
    row = (
        IntegrityStatus.objects.filter(id=1)
        .values_list("integrity_sum", is_fresh)
        .first()
    )
    if row is None:
        return Integrity(0, is_healthy=False)
    total = int(row[0])
    return Integrity(total, is_healthy=bool(row[1]) and total == 0)


def integrity_refresh_if_stale() -> None:
    """At start-up: computes the number if nobody has lately, by PostgreSQL's clock."""
    fresh = IntegrityStatus.objects.filter(
        id=1, computed_at__gt=Now() - STALE_AFTER / 2
    )
    if not fresh.exists():
        integrity_refresh()
