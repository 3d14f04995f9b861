"""What a database needs before the stack serves from it: tables, books, an admin."""

import json
import os
import sys

__all__ = ["ADMIN_NAME", "prepare"]

ADMIN_NAME = "admin"


def prepare() -> int:
    """Migrates, seeds, checks, makes the demo admin; runs as its own process.

    Reads ``PAYFLOW_ADMIN_PASSWORD``. Standard output is one JSON object, with
    ``admin_password_works``: in a database that was there before, an administrator of
    that name keeps the password that it has.
    """
    import django
    from django.conf import settings
    from django.core.management import call_command

    from payflow.celery import app as celery_app

    django.setup()
    database = "owner" if "owner" in settings.DATABASES else "default"
    call_command("migrate", database=database, interactive=False, verbosity=0)
    call_command("seed_accounts", stdout=sys.stderr)
    # What beat repeats every few seconds is done once now: /health is right at once.
    celery_app.loader.import_default_modules()
    celery_app.tasks["ledger.refresh_integrity"].apply(throw=True)
    works = _ensure_admin(os.environ["PAYFLOW_ADMIN_PASSWORD"])
    print(json.dumps({"admin_password_works": works}))
    return 0


def _ensure_admin(password: str) -> bool:
    from django.contrib.auth import get_user_model

    users = get_user_model().objects
    admin = users.filter(username=ADMIN_NAME).first()
    if admin is None:
        users.create_superuser(ADMIN_NAME, password=password)
        return True
    return bool(admin.check_password(password))
