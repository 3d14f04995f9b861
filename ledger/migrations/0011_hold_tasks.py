from django.db import migrations

from payflow.sql import sql_migration


class Migration(migrations.Migration):
    """Each event of a hold has its one task in the outbox."""

    dependencies = [("ledger", "0010_finance_group"), ("outbox", "0002_hold_tasks")]
    operations = [sql_migration(__file__, "0011_hold_tasks")]
