from django.db import migrations

from payflow.sql import sql_migration


class Migration(migrations.Migration):
    """The invariants that need several rows: triggers, and the tasks' foreign keys."""

    dependencies = [("ledger", "0001_books"), ("outbox", "0001_tasks")]
    operations = [sql_migration(__file__, "0002_invariants")]
