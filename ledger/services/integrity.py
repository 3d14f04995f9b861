"""The one number behind ``/health``."""

from dataclasses import dataclass
from datetime import timedelta

from django.db import connection
from django.db.models import BooleanField, DurationField, ExpressionWrapper, F, Q
from django.db.models.functions import Now

from ledger.models import IntegrityStatus

#: Beat refreshes every few seconds; a number older than this says nothing any more.
STALE_AFTER = timedelta(seconds=30)
# Note on cost. The sum reads every account, because it looks for what no trigger has
# seen: nothing that is kept up to date by statements could show it. So where there are
# millions of accounts it takes up to a fiftieth of the time; and if that would make it
# too old, it is computed when it is half as old as it may be.
_RESTS = 50
_IS_LONG = timedelta(milliseconds=100)

# Absolute values by ledger and currency, so that errors cannot cancel; and the
# differences that the last audit found, which no sum over accounts can show.
_REFRESH = """
INSERT INTO ledger_integrity_status (id, integrity_sum, computed_at, took)
SELECT 1,
    coalesce((
        SELECT sum(abs(net)) FROM (
            SELECT sum(credits_posted) - sum(debits_posted) AS net
            FROM ledger_account GROUP BY ledger_id, currency) AS by_currency), 0)
    + coalesce((
        SELECT difference FROM ledger_audit_run ORDER BY id DESC LIMIT 1), 0),
    statement_timestamp(), clock_timestamp() - statement_timestamp()
ON CONFLICT (id) DO UPDATE SET integrity_sum = excluded.integrity_sum,
    computed_at = excluded.computed_at, took = excluded.took
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


def integrity_refresh_if_due() -> None:
    """Computes the number anew, unless that took long and was not long ago."""
    age = ExpressionWrapper(Now() - F("computed_at"), output_field=DurationField())
    row = IntegrityStatus.objects.filter(id=1).values_list("took", age).first()
    if row is not None:
        took, known_for = row
        if took > _IS_LONG and known_for < min(_RESTS * took, STALE_AFTER / 2 - took):
            return
    integrity_refresh()


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
