"""Logs are one JSON object per line, and hold neither secrets nor money."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from payflow.logging import REDACTED, build_logging, redact

SETUP = """
import logging, structlog
from payflow.logging import build_logging
build_logging(log_format={log_format!r}, level="info")
"""


def logged(code: str, log_format: str = "json", **environment: str) -> str:
    """What a fresh process writes to standard error, and that it is all it writes."""
    result = subprocess.run(
        [sys.executable, "-c", SETUP.format(log_format=log_format) + code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == ""
    return result.stderr


def events(code: str, **environment: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in logged(code, **environment).splitlines()]


def test_an_event_is_one_json_line_with_its_context() -> None:
    [event] = events(
        "structlog.contextvars.bind_contextvars(request_id='r1')\n"
        "structlog.get_logger('ledger').info('transfer_posted', postings=2)",
        SUPERVISOR_PROCESS_NAME="web",
    )

    assert event["event"] == "transfer_posted"
    assert event["logger"] == "ledger"
    assert event["level"] == "info"
    assert event["request_id"] == "r1"
    assert event["process"] == "web"
    assert event["postings"] == 2
    assert event["timestamp"].endswith("Z")


def test_the_standard_library_logs_in_the_same_format() -> None:
    [event] = events(
        "logging.getLogger('django').warning('hello %s', 'you', extra={'amount': 5})"
    )

    assert event["event"] == "hello you"
    assert event["amount"] == REDACTED


def test_an_exception_stays_on_the_line_without_the_row_it_quotes() -> None:
    [event] = events(
        "try:\n"
        "    raise ValueError('refused\\nDETAIL:  Failing row contains (1, 5000)')\n"
        "except ValueError:\n"
        "    structlog.get_logger('x').exception('posting_failed')"
    )

    assert "ValueError: refused" in event["exception"]
    assert "5000" not in event["exception"]


def test_console_lines_are_for_people() -> None:
    line = logged("structlog.get_logger('x').info('it_works', n=1)", "console")

    assert "it_works" in line
    assert "n=1" in line
    assert "\x1b" not in line


def test_sensitive_values_can_be_asked_for() -> None:
    [event] = events("structlog.get_logger('x').info('e', amount=5)", LOG_SENSITIVE="1")

    assert event["amount"] == 5


@pytest.mark.parametrize(
    "name",
    [
        "amount",
        "Authorization",
        "api-key",
        "total_amount",
        "lease_token",
        "available",
        "required",
        "password",
        "owner_name",
    ],
)
def test_no_log_holds_a_value_named(name: str) -> None:
    event = redact(None, "info", {"event": "e", name: 5000, "list": [{name: 5000}]})

    assert event[name] == REDACTED
    assert event["list"] == [{name: REDACTED}]


def test_ids_and_counts_are_logged() -> None:
    event = {"event": "e", "transfer_id": "t", "postings": 3, "status": 201}

    assert redact(None, "info", dict(event)) == event


@pytest.mark.parametrize(("log_format", "level"), [("xml", "INFO"), ("json", "LOUD")])
def test_an_unknown_setting_is_refused(log_format: str, level: str) -> None:
    with pytest.raises(ValueError, match="use"):
        build_logging(log_format=log_format, level=level)


def test_a_name_is_judged_the_same_each_time() -> None:
    for name in ("amount", "Amount", "transfer_id", "amount", "transfer_id"):
        event = redact(None, "info", {"event": "e", name: "x"})

        assert event[name] == (REDACTED if name.lower() == "amount" else "x")


@pytest.mark.parametrize("holder", [dict, lambda d: [d], lambda d: ({"in": d},)])
def test_no_holder_hides_a_value(holder: Any) -> None:
    event = redact(None, "info", {"event": "e", "given": holder({"amount": 5})})

    assert "5" not in str(event)


def test_a_line_for_one_handler_is_whole_for_the_next() -> None:
    lines = events(
        "import sys\n"
        "root = logging.getLogger()\n"
        "root.addHandler(root.handlers[0].__class__(sys.stderr))\n"
        "root.handlers[1].setFormatter(root.handlers[0].formatter)\n"
        "structlog.get_logger('x').info('said_twice', n=1)"
    )

    assert lines[0] == lines[1]
    assert lines[0]["event"] == "said_twice"


def test_a_dictionary_of_another_library_is_a_text() -> None:
    [event] = events("logging.getLogger('x').warning({'n': 1})")

    assert event["event"] == "{'n': 1}"
    assert event["level"] == "warning"
