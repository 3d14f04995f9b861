from django.db import migrations

from payflow.sql import sql_migration


class Migration(migrations.Migration):
    """Why a payout was called back."""

    dependencies = [("ledger", "0014_integrity_cost")]
    operations = [sql_migration(__file__, "0015_recall_reason")]
