"""The kernel as a Django app: its migration, its commands, the grants after migrate."""

from django.apps import AppConfig
from django.db.models.signals import post_migrate


class PayFlowConfig(AppConfig):
    """Connects what must happen after every ``migrate``."""

    name = "payflow"

    def ready(self) -> None:
        """Applies the application role's grants after each migration run."""
        from payflow.roles import apply_grants

        post_migrate.connect(apply_grants, sender=self)
