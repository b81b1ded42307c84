"""Who may connect: only processes that hold the server's secret, and each side proves it to the other.

The secret itself never travels. The client sends a nonce and a MAC over it and over the name of what it wants to reach;
the other side answers with its own MAC over the same. So a stranger who took over the port of a service that died learns
nothing it could use, and is noticed before the first call is sent. A hello that was seen once is not accepted again.
"""

import hashlib
import hmac
import secrets
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import cast

from autogpt_server.utils.rpc.errors import CallRefused

_NONCE_BYTES = 16
_REMEMBERED = 10_000  # hellos; more connections than a server sees before its next restart


class Handshake:
    """Both sides of the handshake, for one secret."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._lock = threading.Lock()

    def hello(self, target: str) -> dict[str, bytes]:
        """What a client sends to connect to the object `target`."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return {"nonce": nonce, "mac": self._mac(b"client", nonce, target)}

    def answer(self, hello: object, target: str) -> bytes:
        """What the object `target` answers to a hello. Raises `CallRefused` if the client does not know the secret."""
        if not isinstance(hello, Mapping):
            raise CallRefused
        fields = cast("Mapping[object, object]", hello)
        nonce, mac = _bytes(fields.get("nonce")), _bytes(fields.get("mac"))
        if len(nonce) != _NONCE_BYTES or not hmac.compare_digest(mac, self._mac(b"client", nonce, target)):
            raise CallRefused
        with self._lock:
            if nonce in self._seen:
                raise CallRefused
            self._seen[nonce] = None
            if len(self._seen) > _REMEMBERED:
                self._seen.popitem(last=False)
        return self._mac(b"server", nonce, target)

    def check_answer(self, hello: Mapping[str, bytes], answer: object, target: str) -> None:
        """Raise `CallRefused` if the side that answered does not know the secret."""
        expected = self._mac(b"server", hello["nonce"], target)
        if not isinstance(answer, bytes) or not hmac.compare_digest(answer, expected):
            raise CallRefused

    def _mac(self, role: bytes, nonce: bytes, target: str) -> bytes:
        return hmac.digest(self._secret, b"\0".join((role, nonce, target.encode())), hashlib.sha256)


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else b""
