from django.db import migrations

from payflow.sql import sql_migration


class Migration(migrations.Migration):
    """The function behind every append-only table."""

    initial = True
    dependencies: list[tuple[str, str]] = []
    operations = [sql_migration(__file__, "0001_append_only")]
