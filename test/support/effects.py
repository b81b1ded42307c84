"""A loopback HTTP server that stands for the outside world: it counts what is done to it, and holds requests until it is told to go on."""

import contextlib
import threading
from collections import Counter
from collections.abc import Generator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from support.running import eventually

_HELD_AT_MOST_S = 120.0


class World:
    """What the blocks under test have done, by key."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._held: dict[str, threading.Event] = {}

    def hold(self, key: str) -> None:
        """Answer requests for `key` only after `let_go`."""
        self._held[key] = threading.Event()

    def let_go(self, key: str | None = None) -> None:
        """Answer what is held, for one key or for all, and hold it no more."""
        for held in [key] if key is not None else list(self._held):
            self._held.pop(held).set()

    def wait_for(self, key: str, count: int = 1) -> None:
        """Wait until `key` has been done so often."""
        eventually(lambda: self.counts[key] >= count, 60)

    def note(self, key: str) -> None:
        """A request has arrived."""
        with self._lock:
            self.counts[key] += 1
        held = self._held.get(key)
        if held is not None:
            held.wait(_HELD_AT_MOST_S)


@contextlib.contextmanager
def outside_world() -> Generator[World]:
    """Serve until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            world.note(self.path.removeprefix("/"))
            with contextlib.suppress(OSError):  # who asked was killed meanwhile
                self.send_response(204)
                self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    world = World(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield world
    finally:
        world.let_go()
        server.shutdown()
        server.server_close()
        thread.join()


def act(url: str, key: str) -> None:
    """Do something to the outside world. Blocks until it has answered."""
    host, _, port = url.removeprefix("http://").partition(":")
    connection = HTTPConnection(host, int(port))
    try:
        connection.request("POST", f"/{key}")
        response = connection.getresponse()
        response.read()
        assert response.status == 204
    finally:
        connection.close()
