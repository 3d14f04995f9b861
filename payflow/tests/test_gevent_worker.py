"""What the web worker does beside serving."""

import signal
import socket

import pytest

from payflow.embedded.ports import LOOPBACK
from payflow.gevent_worker import Worker
from payflow.tests.processes import Web

pytest_plugins = ["payflow.tests.fixtures"]

PROBE = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"


def test_that_idle_connections_do_not_hold_up_the_end(committed_db, tmp_path):
    with (
        Web(tmp_path, WEB_WORKERS="1") as web,
        socket.create_connection((LOOPBACK, web.port), timeout=20) as idle,
        socket.create_connection((LOOPBACK, web.port), timeout=20) as silent,
    ):
        idle.sendall(PROBE)
        answer = b""
        while not answer.endswith(b'"alive"}'):
            answer += idle.recv(1)

        web.send(signal.SIGTERM)

        # It says goodbye by closing, to who has spoken and to who never has.
        assert idle.recv(1) == b""
        assert silent.recv(1) == b""
        assert web.wait() == 0
        assert "graceful timeout" not in web.log.read_text()


def test_that_a_connection_is_not_shared_by_greenlets():
    # Here Django is there already: each greenlet would get the same connection.
    with pytest.raises(RuntimeError, match="was imported before"):
        Worker.patch(object.__new__(Worker))
