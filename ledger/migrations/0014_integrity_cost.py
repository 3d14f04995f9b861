import datetime

from django.db import migrations, models

from payflow.sql import sql_migration


class Migration(migrations.Migration):
    """What the number behind ``/health`` cost."""

    dependencies = [("ledger", "0013_backdated")]
    operations = [
        sql_migration(
            __file__,
            "0014_integrity_cost",
            state_operations=[
                migrations.AddField(
                    model_name="integritystatus",
                    name="took",
                    field=models.DurationField(default=datetime.timedelta),
                ),
            ],
        )
    ]
