"""Logs: one structured event per line, with secrets and money left out.

Every logger of the process (structlog's, Django's, gunicorn's, Celery's) ends in the
one handler built here. It writes to standard error, so that standard output belongs
to what a command prints: ``audit_ledger --json | jq`` works whatever is logged.
"""

import json
import logging
import os
import re
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

__all__ = ["build_logging"]

REDACTED = "[redacted]"

#: Names whose values never reach a log; also as the last word of a longer name, such
#: as ``lease_token`` or ``total_amount``.
SENSITIVE_NAMES = frozenset(
    {
        *("authorization", "cookie", "password", "secret", "token", "api_key"),
        *("amount", "balance", "balances", "available", "required"),
        *("posted", "pending", "pending_in", "pending_out", "min_balance"),
        *("owner_name", "metadata", "payout_destination"),
    }
)

#: PostgreSQL quotes whole rows in these lines of an error message.
ROW_DETAIL = re.compile(r"^(DETAIL|CONTEXT):.*$", re.MULTILINE)

#: Loggers that report each message they pass on. What matters in a task, a request
#: or a call to a bank is logged by the code that does it, once.
QUIET_LOGGERS = (
    "celery.app.trace",
    "celery.beat",
    "celery.worker.strategy",
    "django.request",
    "httpx2",
    "httpcore2",
)


def build_logging(*, log_format: str, level: str) -> None:
    """Sends every log of this process to standard error in one format.

    ``LOG_SENSITIVE=1`` in the environment keeps amounts and secrets, for a debugging
    session on made-up data.

    Args:
        log_format: ``json``, ``console``, or ``auto``: console on a terminal, JSON
            lines elsewhere.
        level: the lowest level that is logged, such as ``INFO``.

    Raises:
        ValueError: ``log_format`` or ``level`` is none of the known ones.
    """
    if log_format not in {"auto", "json", "console"}:
        raise ValueError(f"LOG_FORMAT is {log_format!r}: use auto, json or console.")
    if level.upper() not in logging.getLevelNamesMapping():
        raise ValueError(f"LOG_LEVEL is {level!r}: use DEBUG, INFO, WARNING or ERROR.")
    on_terminal = sys.stderr.isatty()
    readable = log_format == "console" or (log_format == "auto" and on_terminal)

    # Both for events of structlog and for records of the standard library.
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _process_name_adder(),
        structlog.processors.format_exc_info,
    ]
    if os.environ.get("LOG_SENSITIVE") != "1":
        shared.append(redact)

    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        LineFormatter(
            renderer=_console_renderer(on_terminal) if readable else render_json,
            foreign_pre_chain=shared,
        )
    )
    # Of no use in a line, and not free: a greenlet's thread is made up to be named.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    # Django answers and logs 4xx by itself; `request_finished` has said it already.
    logging.getLogger("django.request").setLevel(logging.ERROR)
    logging.captureWarnings(True)


class LineFormatter(structlog.stdlib.ProcessorFormatter):
    """Makes a line of an event of structlog's, and of any other record.

    Args:
        renderer: from an event to its line.
        foreign_pre_chain: what has happened to structlog's own events already.
    """

    def __init__(
        self, *, renderer: Processor, foreign_pre_chain: list[Processor]
    ) -> None:
        super().__init__(
            foreign_pre_chain=foreign_pre_chain,
            processors=[self.remove_processors_meta, renderer],
        )
        self._renderer = renderer

    def format(self, record: logging.LogRecord) -> str:
        """The record's line."""
        if hasattr(record, "_logger") and isinstance(record.msg, dict):
            # A renderer may take from what it is handed; other handlers see it too.
            return str(self._renderer(None, record.levelname, record.msg.copy()))
        return super().format(record)


def redact(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Replaces the values of ``SENSITIVE_NAMES``, at any depth, and quoted rows."""
    for name, value in event.items():
        if _is_sensitive(name):
            event[name] = REDACTED
        elif type(value) not in _PLAIN:
            event[name] = _redact_within(value)
    for name in ("event", "exception"):
        text = event.get(name)
        if isinstance(text, str) and ("DETAIL:" in text or "CONTEXT:" in text):
            event[name] = ROW_DETAIL.sub(rf"\1: {REDACTED}", text)
    return event


#: Values that hold no others.
_PLAIN = frozenset({str, int, float, bool, type(None)})


def _process_name_adder() -> Processor:
    """Says which program of the stack speaks: web, worker, beat."""
    process = os.environ.get("SUPERVISOR_PROCESS_NAME")

    def add_process_name(
        logger: WrappedLogger, method: str, event: EventDict
    ) -> EventDict:
        if process:
            event["process"] = process
        return event

    return add_process_name


@lru_cache(maxsize=1_024)
def _is_sensitive(name: object) -> bool:
    if not isinstance(name, str):
        return False
    words = name.lower().replace("-", "_")
    return words in SENSITIVE_NAMES or words.rpartition("_")[2] in SENSITIVE_NAMES


def _redact_within(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            name: REDACTED if _is_sensitive(name) else _redact_within(inner)
            for name, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [_redact_within(inner) for inner in value]
    return value


_JSON = json.JSONEncoder(default=str, ensure_ascii=False)


def render_json(logger: WrappedLogger, method: str, event: EventDict) -> str:
    """The event as one line of JSON."""
    return _JSON.encode(event)


def _console_renderer(on_terminal: bool) -> Processor:
    # The stack relays its programs through a pipe to its own terminal, and says so.
    colors = on_terminal or "FORCE_COLOR" in os.environ
    return structlog.dev.ConsoleRenderer(
        colors=colors and "NO_COLOR" not in os.environ,
        exception_formatter=structlog.dev.plain_traceback,
        pad_event_to=24,
        pad_level=False,
    )
