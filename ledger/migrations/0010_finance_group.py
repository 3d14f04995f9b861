from typing import Any

from django.db import migrations

from ledger.migrations._finance_group import GROUP, view_permissions

MODELS = (
    "asset",
    "hold",
    "holdevent",
    "holdposting",
    "reversaltotal",
    "scheduledtransfer",
    "usage",
    "velocitylimit",
)


def _group_and_views(apps: Any, schema_editor: Any) -> tuple[Any, Any]:
    """The group, if nobody has deleted it, and the new models' permissions."""
    groups = apps.get_model("auth", "Group").objects
    group = groups.using(schema_editor.connection.alias).filter(name=GROUP).first()
    views = view_permissions(apps, schema_editor, ["ledger"])
    return group, views.filter(codename__in=[f"view_{model}" for model in MODELS])


def add_views(apps: Any, schema_editor: Any) -> None:
    """Lets the group see the new models; what else it may is not touched."""
    group, views = _group_and_views(apps, schema_editor)
    if group is not None:
        group.permissions.add(*views)


def remove_views(apps: Any, schema_editor: Any) -> None:
    """Takes the permissions from the group again."""
    group, views = _group_and_views(apps, schema_editor)
    if group is not None:
        group.permissions.remove(*views)


class Migration(migrations.Migration):
    """Finance staff see holds, limits, scheduled transfers and assets too."""

    dependencies = [("ledger", "0009_finding")]
    operations = [migrations.RunPython(add_views, remove_views)]
