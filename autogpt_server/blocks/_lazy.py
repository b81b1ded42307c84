"""Heavy client libraries, imported when a block first needs them."""

import asyncio
import importlib
import sys


async def load(module: str) -> None:
    """Import a module without holding up the event loop, on which other executions run: some take a second.

    An ordinary `import` of it is then instant.
    """
    if module not in sys.modules:
        await asyncio.to_thread(importlib.import_module, module)
