from django.db import migrations

from payflow.sql import sql_migration


class Migration(migrations.Migration):
    """Indexes for searches by metadata."""

    dependencies = [("ledger", "0008_assets")]
    operations = [sql_migration(__file__, "0009_finding")]
