"""The group for finance staff, who see everything and change nothing."""

from collections.abc import Iterable
from typing import Any

from django.contrib.auth.management import create_permissions

GROUP = "Finance"


def view_permissions(apps: Any, schema_editor: Any, labels: Iterable[str]) -> Any:
    """The "can view" permissions of the apps' models, as a query.

    Django creates permissions only after all migrations ran, so they are made here.

    Args:
        apps, schema_editor: the migration's.
        labels: of the apps.
    """
    alias = schema_editor.connection.alias
    for label in labels:
        config = apps.get_app_config(label)
        config.models_module = True
        create_permissions(config, apps=apps, verbosity=0, using=alias)
        config.models_module = None
    return (
        apps.get_model("auth", "Permission")
        .objects.using(alias)
        .filter(content_type__app_label__in=labels, codename__startswith="view_")
    )
