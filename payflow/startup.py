"""What a process makes sure of before it takes work."""

from collections.abc import Sequence

import structlog
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, connections
from django.utils.module_loading import import_string

from payflow.db import require_sound_database

log = structlog.get_logger(__name__)

#: gunicorn's word for "do not try to start this again".
REFUSE_TO_BOOT = 3


def prepare_web_worker() -> None:
    """Checks the database and runs ``settings.STARTUP_HOOKS``.

    Raises:
        SystemExit: the database must not hold money; gunicorn then stops as a whole.
    """
    require_startable_database(settings.STARTUP_HOOKS)


def require_startable_database(hooks: Sequence[str] = ()) -> None:
    """Checks the database; one that is only away for the moment is let pass.

    Args:
        hooks: dotted paths of functions to call once it has passed.

    Raises:
        SystemExit: the database must not hold money.
    """
    try:
        require_sound_database()
        for path in hooks:
            import_string(path)()
    except ImproperlyConfigured as error:
        log.critical("database_refused", reason=str(error))
        raise SystemExit(REFUSE_TO_BOOT) from error
    except DatabaseError as error:
        log.warning("database_unavailable_at_start", error=type(error).__name__)
    finally:
        connections.close_all()
