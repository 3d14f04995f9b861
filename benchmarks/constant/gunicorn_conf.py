"""PayFlow's own gunicorn settings, less the look at its database."""

from payflow.gunicorn_conf import *  # noqa: F403


def post_worker_init(_worker: object) -> None:  # type: ignore[no-redef]
    """There is no database."""
