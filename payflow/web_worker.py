"""gunicorn's threaded worker, with requests received before a thread takes them.

In gunicorn's own, a thread reads from the socket for as long as the client pleases, so
a few dozen clients that never finish a header or a body occupy every thread and not
even ``/livez`` is answered. Here the main thread, which waits for all sockets at once,
gathers each request; a thread gets one that is complete and never waits for a client.
A request that is not complete after ``REQUEST_SECONDS`` is cut with 408.

How far a request goes is judged here only to know when to begin; gunicorn's parser
decides what it is. Where the two disagree the parser finds no more data and the
connection closes, so nobody smuggles a request past it.

With TLS in gunicorn itself there is nothing to look into: requests go to the threads as
they do in gunicorn's own worker, and only the time for each read is limited.
"""

import errno
import os
import re
import selectors
import socket
import time
from functools import cached_property, partial
from typing import Any, NoReturn

from gunicorn import http, util
from gunicorn.http.unreader import Unreader
from gunicorn.workers.gthread import TConn, ThreadWorker

#: How long a client may take to send one request, or to take in one answer.
REQUEST_SECONDS = float(os.environ.get("WEB_REQUEST_SECONDS", "10"))
#: How long a closing connection may go on sending what nobody reads (RFC 9112, 9.6).
LINGER_SECONDS = 2.0
#: The longest request line and headers, together.
MAX_HEAD_BYTES = 64 * 1024
#: The longest line that names a chunk's size; gunicorn's parser refuses longer ones.
MAX_CHUNK_LINE = 8_190
#: What one worker holds of unfinished requests, all together.
MAX_HELD_BYTES = 64 * 1024 * 1024
_READ_BYTES = 64 * 1024

_LENGTH = re.compile(rb"\r\ncontent-length[ \t]*:[ \t]*([0-9]{1,18})[ \t]*\r\n", re.I)
_CODING = re.compile(rb"\r\ntransfer-encoding[ \t]*:", re.I)
_EXPECT = re.compile(rb"\r\nexpect[ \t]*:[ \t]*100-continue[ \t]*(?=\r\n)", re.I)
_CHUNK_SIZE = re.compile(rb"[0-9a-fA-F]{1,16}")


class IncomingRequest:
    """What has arrived of one request, and whether it is all.

    Args:
        max_body: bodies that announce more bytes are not waited for: the application
            refuses them without reading.
    """

    def __init__(self, *, max_body: int) -> None:
        self.data = bytearray()
        #: The client waits for "100 Continue" before it sends the body.
        self.expects_continue = False
        self._max_body = max_body
        self._body_at: int | None = None
        self._end = 0
        self._is_chunked = False
        self._is_last_chunk = False
        self._looked_at = 0

    def add(self, data: bytes) -> None:
        """Takes the next bytes."""
        self.data += data

    @property
    def is_head_too_long(self) -> bool:
        """The head has not ended and will not be waited for."""
        return self._body_at is None and len(self.data) > MAX_HEAD_BYTES

    def is_complete(self) -> bool:
        """Everything is there that a thread should have before it begins."""
        if self._body_at is None and not self._read_head():
            return False
        if self._is_chunked:
            return self._has_last_chunk()
        return len(self.data) >= self._end

    def _read_head(self) -> bool:
        # One empty line before a request is allowed (RFC 9112, section 2.2).
        start = 2 if self.data.startswith(b"\r\n") else 0
        end = self.data.find(b"\r\n\r\n", max(start, self._looked_at - 3))
        self._looked_at = len(self.data)
        if end < 0:
            return False
        if expectation := _EXPECT.search(self.data, 0, end + 2):
            self.expects_continue = b" HTTP/1.1\r\n" in self.data[: end + 2]
            # Answered here, so gunicorn must not answer it once more.
            del self.data[expectation.start() : expectation.end()]
            end -= expectation.end() - expectation.start()
        self._body_at = self._end = self._looked_at = end + 4
        head = bytes(self.data[: self._body_at])
        self._is_chunked = _CODING.search(head) is not None
        if length := _LENGTH.search(head):
            announced = int(length[1])
            self._end += announced if announced <= self._max_body else 0
        return True

    def _has_last_chunk(self) -> bool:
        assert self._body_at is not None
        if len(self.data) - self._body_at > 2 * self._max_body:
            return True  # Far more than will be read.
        while not self._is_last_chunk:
            end = self.data.find(b"\r\n", self._looked_at)
            if end < 0:
                return len(self.data) - self._looked_at > MAX_CHUNK_LINE
            size = bytes(self.data[self._looked_at : end]).partition(b";")[0].strip()
            if not _CHUNK_SIZE.fullmatch(size):
                return True  # The parser says what is wrong with it.
            self._is_last_chunk = int(size, 16) == 0
            self._looked_at = end if self._is_last_chunk else end + int(size, 16) + 4
        # After the last chunk come trailers, or none, and an empty line.
        return self.data.find(b"\r\n\r\n", self._looked_at) >= 0


class _Received(Unreader):  # type: ignore[misc]  # gunicorn has no types
    """What a thread reads from: the bytes that have arrived, and never the socket."""

    def chunk(self, size_hint: int | None = None) -> NoReturn:
        # gunicorn treats it as a client that went away, and closes the connection.
        raise TimeoutError(errno.ECONNRESET, "the client sent less than it announced")


class _Connection(TConn):  # type: ignore[misc]
    """One client's connection, and the request that is arriving on it."""

    def __init__(self, worker: "BufferingWorker", *args: Any) -> None:
        super().__init__(worker.cfg, *args)
        self._worker = worker
        self.incoming = IncomingRequest(max_body=0)
        self.held = 0
        self.deadline = 0.0

    def init(self) -> None:
        """Called in the thread, before it reads and writes."""
        super().init()
        self.sock.settimeout(REQUEST_SECONDS)

    def close(self, graceful: bool = False) -> None:
        """Closes; ``graceful`` lets the client take in the answer first."""
        if graceful and not self.cfg.is_ssl:
            # gunicorn's own way waits up to two seconds in the main thread.
            self._worker.linger(self)
        else:
            super().close(graceful)


class BufferingWorker(ThreadWorker):  # type: ignore[misc]
    """Threads that answer complete requests; all methods here run in the main one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._receiving: dict[_Connection, None] = {}
        self._lingering: dict[_Connection, None] = {}
        self._held = 0

    @cached_property
    def _max_body(self) -> int:
        from django.conf import settings  # They are there once the worker runs.

        return settings.DATA_UPLOAD_MAX_MEMORY_SIZE or 0

    def accept(self, listener: socket.socket) -> None:
        """Takes a new connection."""
        try:
            client, address = listener.accept()
        except OSError as error:
            if error.errno not in {
                errno.EAGAIN,
                errno.ECONNABORTED,
                errno.EWOULDBLOCK,
            }:
                raise
            return
        self.nr_conns += 1
        self.enqueue_req(_Connection(self, client, address, listener.getsockname()))

    def enqueue_req(self, conn: _Connection) -> None:
        """Begins to receive the next request of a connection."""
        if self.cfg.is_ssl:
            super().enqueue_req(conn)
            return
        conn.incoming = IncomingRequest(max_body=self._max_body)
        conn.deadline = time.monotonic() + REQUEST_SECONDS
        conn.sock.setblocking(False)
        # What a client sent right behind its last request has been read already.
        early = conn.parser.unreader.take_buffered() if conn.parser else b""
        if early:
            self._take(conn, early)
        else:
            self._receive(conn)

    def _receive(self, conn: _Connection, _sock: Any = None) -> None:
        try:
            data = conn.sock.recv(_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            self._watch(conn)
        except OSError:
            self._end(conn)
        else:
            if data:
                self._take(conn, data)
            else:
                self._end(conn)

    def _take(self, conn: _Connection, data: bytes) -> None:
        conn.incoming.add(data)
        conn.held += len(data)
        self._held += len(data)
        if conn.incoming.is_complete():
            self._submit(conn)
        elif conn.incoming.is_head_too_long:
            self._refuse(conn, "431 Request Header Fields Too Large")
        elif self._held > MAX_HELD_BYTES:
            self._refuse(conn, "503 Service Unavailable")
        else:
            if conn.incoming.expects_continue:
                conn.incoming.expects_continue = False
                self._try_to_send(conn, "HTTP/1.1 100 Continue\r\n\r\n")
            self._watch(conn)

    def _submit(self, conn: _Connection) -> None:
        self._unwatch(conn)
        if conn.parser is None:
            conn.parser = http.get_parser(self.cfg, conn.sock, conn.client)
            conn.parser.unreader = _Received()
        conn.parser.unreader.unread(bytes(conn.incoming.data))
        conn.incoming = IncomingRequest(max_body=0)
        conn.data_ready = True
        super().enqueue_req(conn)

    def _watch(self, conn: _Connection) -> None:
        if conn not in self._receiving:
            self._receiving[conn] = None
            self.poller.register(
                conn.sock, selectors.EVENT_READ, partial(self._receive, conn)
            )

    def _unwatch(self, conn: _Connection) -> None:
        self._held -= conn.held
        conn.held = 0
        if conn in self._receiving:
            del self._receiving[conn]
            self.poller.unregister(conn.sock)

    def _end(self, conn: _Connection) -> None:
        self._unwatch(conn)
        self.nr_conns -= 1
        conn.close()

    def _refuse(self, conn: _Connection, status: str) -> None:
        self._try_to_send(
            conn,
            f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        )
        self._unwatch(conn)
        self.nr_conns -= 1
        conn.close(graceful=True)

    def _try_to_send(self, conn: _Connection, text: str) -> None:
        try:
            conn.sock.send(text.encode())
        except OSError:
            return  # It is told as a courtesy, and is not there to hear it.

    def linger(self, conn: _Connection) -> None:
        """Closes a connection once the client has, or after ``LINGER_SECONDS``.

        Closing at once, while it still sends, would cost it the answer.
        """
        try:
            conn.sock.shutdown(socket.SHUT_WR)
            conn.sock.setblocking(False)
        except OSError:
            util.close(conn.sock)
            return
        conn.deadline = time.monotonic() + LINGER_SECONDS
        self._lingering[conn] = None
        self.poller.register(
            conn.sock, selectors.EVENT_READ, partial(self._discard, conn)
        )

    def _discard(self, conn: _Connection, _sock: Any) -> None:
        try:
            is_open = bool(conn.sock.recv(_READ_BYTES))
        except (BlockingIOError, InterruptedError):
            is_open = True
        except OSError:
            is_open = False
        if not is_open:
            self._end_linger(conn)

    def _end_linger(self, conn: _Connection) -> None:
        del self._lingering[conn]
        self.poller.unregister(conn.sock)
        util.close(conn.sock)

    def murder_pending(self) -> None:
        """Every second: cuts those whose time is over."""
        super().murder_pending()
        now = time.monotonic()
        for conn in [c for c in self._receiving if c.deadline <= now]:
            if conn.held:
                self._refuse(conn, "408 Request Timeout")
            else:
                self._end(conn)
        for conn in [c for c in self._lingering if c.deadline <= now]:
            self._end_linger(conn)
