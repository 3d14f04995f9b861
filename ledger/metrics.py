"""What ``/metrics`` says of the books."""

from collections.abc import Iterator

from django.db.models import F
from django.db.models.functions import Now

from ledger.models import IntegrityStatus
from payflow.metrics import Reading


def integrity_readings() -> Iterator[Reading]:
    """The number behind ``/health`` and its age; nothing where it was never computed.

    Raises:
        DatabaseError, InterfaceError: PostgreSQL does not answer.
    """
    row = (
        IntegrityStatus.objects.filter(id=1)
        .annotate(age=Now() - F("computed_at"))
        .values_list("integrity_sum", "age")
        .first()
    )
    if row is not None:
        yield Reading("payflow_integrity_sum", float(row[0]))
        yield Reading("payflow_integrity_age_seconds", row[1].total_seconds())
