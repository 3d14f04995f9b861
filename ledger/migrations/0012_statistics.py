from django.db import migrations

from payflow.sql import sql_migration


class Migration(migrations.Migration):
    """What the planner must know of ledgers, and cannot learn from small tables."""

    dependencies = [("ledger", "0011_hold_tasks")]
    operations = [sql_migration(__file__, "0012_statistics")]
