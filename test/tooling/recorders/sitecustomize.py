"""Imported by every Python on whose PYTHONPATH this folder is: writes each connection and lookup to $NETWORK_RECORD."""

import os
import sys
from pathlib import Path

WATCHED = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"}


def record(event: str, arguments: tuple[object, ...]) -> None:
    if event in WATCHED:
        with Path(os.environ["NETWORK_RECORD"]).open("a", encoding="utf-8") as file:
            file.write(f"python {event} {arguments[-1] if event == 'socket.connect' else arguments}\n")


sys.addaudithook(record)
