from typing import Any

from django.db import migrations

from ledger.migrations._finance_group import GROUP, view_permissions

APPS = ("ledger", "outbox", "idempotency")


def create_group(apps: Any, schema_editor: Any) -> None:
    """Makes the group with every "can view" permission of PayFlow's models."""
    alias = schema_editor.connection.alias
    group, _ = (
        apps.get_model("auth", "Group").objects.using(alias).get_or_create(name=GROUP)
    )
    group.permissions.set(view_permissions(apps, schema_editor, APPS))


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
