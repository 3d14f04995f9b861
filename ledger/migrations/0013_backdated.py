from django.db import migrations

from payflow.sql import sql_migration


class Migration(migrations.Migration):
    """Backdated entries are found by their own index, whatever the planner believes."""

    dependencies = [("ledger", "0012_planning")]
    operations = [sql_migration(__file__, "0013_backdated")]
