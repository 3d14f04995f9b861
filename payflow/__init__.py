"""PayFlow's composition root and shared kernel."""

from payflow.celery import app as celery_app

__all__ = ["celery_app"]
