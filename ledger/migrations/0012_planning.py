from django.db import migrations

from payflow.sql import sql_migration


class Migration(migrations.Migration):
    """Plans that are made on nearly empty tables and kept."""

    dependencies = [("ledger", "0011_hold_tasks")]
    operations = [sql_migration(__file__, "0012_planning")]
