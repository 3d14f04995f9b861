"""The kernel as a Django app: its migration, its commands, what it tells Django."""

from django.apps import AppConfig
from django.core.signals import request_started
from django.db import close_old_connections, reset_queries
from django.db.models.signals import post_migrate


class PayFlowConfig(AppConfig):
    """Connects what must happen after ``migrate``, and disconnects what need not."""

    name = "payflow"

    def ready(self) -> None:
        """Applies the application role's grants after each migration run."""
        from payflow.roles import apply_grants

        post_migrate.connect(apply_grants, sender=self)
        # At the end of a request its connections are looked after already, and no
        # queries are kept: both would be paid for by each request once more.
        request_started.disconnect(close_old_connections)
        request_started.disconnect(reset_queries)
