"""How often the number behind ``/health`` is computed: less often where it is dear."""

from datetime import timedelta

import pytest
from django.db.models import F
from django.db.models.functions import Now

from ledger.models import IntegrityStatus
from ledger.services.integrity import integrity_refresh, integrity_refresh_if_due

SECOND = timedelta(seconds=1)

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    ("took", "age", "is_due"),
    [
        (0.01 * SECOND, 0 * SECOND, True),
        (0.2 * SECOND, 9 * SECOND, False),
        (0.2 * SECOND, 11 * SECOND, True),
        (5 * SECOND, 9 * SECOND, False),
        (5 * SECOND, 11 * SECOND, True),
        (20 * SECOND, 1 * SECOND, True),
    ],
)
def test_a_sum_that_takes_long_rests_but_is_never_too_old(took, age, is_due):
    integrity_refresh()
    IntegrityStatus.objects.update(took=took, computed_at=Now() - age)
    before = IntegrityStatus.objects.get(id=1)

    integrity_refresh_if_due()

    after = IntegrityStatus.objects.get(id=1)
    assert (after.computed_at > before.computed_at) == is_due
    assert (after.took != took) == is_due


def test_the_first_number_is_due():
    IntegrityStatus.objects.all().delete()

    integrity_refresh_if_due()

    assert IntegrityStatus.objects.filter(id=1, took__gt=F("took") - SECOND).exists()
