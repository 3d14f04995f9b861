"""gunicorn's gevent worker, which lets idle connections go when it stops.

One process serves many connections, each by a greenlet, so that a slow client, bank or
lock holds up nobody else, and requests that wait at the same time can share a commit
(``ledger.api.coalescing``).
"""

import sys
from types import TracebackType
from typing import Any, Self

import gevent
from gunicorn.workers.ggevent import GeventWorker

#: How long kept-alive connections are still listened to when the end has begun: what a
#: client sent before it could know of it is answered, with ``Connection: close``.
IDLE_GRACE_SECONDS = 2.0


class Worker(GeventWorker):
    """A worker that ends as soon as its last request is answered.

    gunicorn's own waits for kept-alive connections as if they were at work, for up to
    ``graceful_timeout`` seconds in every deploy.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._idle: set[_Listening] = set()
        self._is_ending = False

    def patch(self) -> None:
        """Makes the standard library give way to other greenlets.

        Raises:
            RuntimeError: what Django keeps for each thread, its connections first, was
                made before; then all greenlets would share one.
        """
        if "django.db" in sys.modules:
            raise RuntimeError("django.db was imported before greenlets were prepared")
        super().patch()

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> Any:
        """Answers a request, by one packet if the answer is small."""
        joined = _Joined(sock)
        try:
            return super().handle_request(listener_name, req, joined, addr)
        finally:
            joined.flush()

    def timeout_ctx(self) -> "_Listening":
        """What limits the wait for a connection's next request."""
        return _Listening(self._idle, seconds=self.cfg.keepalive)

    def notify(self) -> None:
        """The heartbeat; once there is no more to come, idle connections go soon."""
        super().notify()
        if not self.alive and not self._is_ending:
            self._is_ending = True
            gevent.spawn_later(IDLE_GRACE_SECONDS, self._let_go)

    def _let_go(self) -> None:
        for listening in list(self._idle):
            listening.end()


class _Joined:
    """A socket that sends the head of an answer together with what follows it."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._head = b""
        self._is_begun = False

    def sendall(self, data: bytes) -> None:
        """Keeps what comes first; sends it with the second."""
        if not self._is_begun:
            self._is_begun, self._head = True, data
            return
        head, self._head = self._head, b""
        self._sock.sendall(head + data if head else data)

    def flush(self) -> None:
        """Sends what is kept, if nothing has followed it."""
        if self._head:
            head, self._head = self._head, b""
            self._sock.sendall(head)

    def __getattr__(self, name: str) -> Any:
        # Whatever else is done with a socket comes after what was to be sent.
        self.flush()
        return getattr(self._sock, name)


class _Listening:
    """A greenlet's wait for the next request, which others can end."""

    def __init__(self, idle: "set[_Listening]", *, seconds: float) -> None:
        self._idle = idle
        self._greenlet = gevent.getcurrent()
        self._timeout = gevent.Timeout(seconds, exception=False)

    def __enter__(self) -> Self:
        self._idle.add(self)
        self._timeout.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        self._idle.discard(self)
        self._timeout.close()
        # Swallowed: without a request the connection is closed.
        return error is self._timeout

    def end(self) -> None:
        """Ends the wait as if its time had come."""
        gevent.get_hub().loop.run_callback(self._end)

    def _end(self) -> None:
        # Its request may have come in the meantime: then it is no longer waiting.
        if self in self._idle:
            self._greenlet.throw(self._timeout)
