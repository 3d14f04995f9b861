from django.db import migrations

from payflow.sql import sql_migration


class Migration(migrations.Migration):
    """Updates of tasks are judged without calling a function for each."""

    dependencies = [("outbox", "0002_hold_tasks")]
    operations = [sql_migration(__file__, "0003_task_updates")]
