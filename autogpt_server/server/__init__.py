"""The API: REST, server-sent events and WebSocket. One router module per resource; the process is in `server.py`."""
