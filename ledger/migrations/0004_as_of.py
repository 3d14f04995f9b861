from django.db import migrations

from payflow.sql import sql_migration


class Migration(migrations.Migration):
    """Reading as of an instant: the function and the index that it needs."""

    dependencies = [("ledger", "0003_finance_group")]
    operations = [sql_migration(__file__, "0004_as_of")]
