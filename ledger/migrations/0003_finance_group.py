from typing import Any

from django.contrib.auth.management import create_permissions
from django.db import migrations

GROUP = "Finance"
APPS = ("ledger", "outbox", "idempotency")


def create_group(apps: Any, schema_editor: Any) -> None:
    """Makes the group with every "can view" permission of PayFlow's models.

    Django creates permissions only after all migrations ran, so they are made here.
    """
    alias = schema_editor.connection.alias
    for label in APPS:
        config = apps.get_app_config(label)
        config.models_module = True
        create_permissions(config, apps=apps, verbosity=0, using=alias)
        config.models_module = None
    group, _ = (
        apps.get_model("auth", "Group").objects.using(alias).get_or_create(name=GROUP)
    )
    group.permissions.set(
        apps.get_model("auth", "Permission")
        .objects.using(alias)
        .filter(content_type__app_label__in=APPS, codename__startswith="view_")
    )


def delete_group(apps: Any, schema_editor: Any) -> None:
    """Deletes the group again."""
    alias = schema_editor.connection.alias
    apps.get_model("auth", "Group").objects.using(alias).filter(name=GROUP).delete()


class Migration(migrations.Migration):
    """The group for finance staff, who see everything and change nothing."""

    dependencies = [
        ("ledger", "0002_invariants"),
        ("outbox", "0001_tasks"),
        ("idempotency", "0001_keys"),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
    ]
    operations = [migrations.RunPython(create_group, delete_group)]
