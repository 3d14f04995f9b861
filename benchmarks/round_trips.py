"""Counts the round trips between the web workers and a server.

A proxy forwards every byte as it comes. A round trip begins when a client sends
something and the server was the last to have sent, so statements in one pipeline are
one, and so is each COMMIT that is sent by itself.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from payflow.embedded.ports import LOOPBACK

_CHUNK_BYTES = 1 << 18


class RoundTripProxy:
    """Forwards connections to a port of this machine.

    Attributes:
        port: where clients connect, once it runs.
        count: round trips so far, of all connections.
    """

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self.port = self.count = 0

    @contextmanager
    def running(self) -> Iterator["RoundTripProxy"]:
        """Runs it in a thread of its own; at the end all its connections close."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        try:
            start = asyncio.start_server(self._forward, LOOPBACK, 0)
            server = asyncio.run_coroutine_threadsafe(start, loop).result()
            self.port = server.sockets[0].getsockname()[1]
            yield self
            asyncio.run_coroutine_threadsafe(_closed(server), loop).result()
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    async def _forward(
        self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter
    ) -> None:
        server, to_server = await asyncio.open_connection(LOOPBACK, self._server_port)
        is_answered = True

        def client_sent() -> None:
            nonlocal is_answered
            self.count += is_answered
            is_answered = False

        def server_sent() -> None:
            nonlocal is_answered
            is_answered = True

        async with asyncio.TaskGroup() as both:
            both.create_task(_pump(client, to_server, client_sent))
            both.create_task(_pump(server, to_client, server_sent))


async def _pump(
    source: asyncio.StreamReader,
    target: asyncio.StreamWriter,
    noted: Callable[[], None],
) -> None:
    try:
        while chunk := await source.read(_CHUNK_BYTES):
            noted()
            target.write(chunk)
            await target.drain()
    except ConnectionError:
        pass  # the other side has gone, as an end does that sends no farewell
    finally:
        target.close()


async def _closed(server: asyncio.Server) -> None:
    server.close()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
