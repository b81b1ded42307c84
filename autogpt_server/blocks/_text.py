"""How a JSON value reads as text, where a block needs text and got something else."""

import json
from typing import Any


def as_text(value: Any) -> str:
    """Text as it is, everything else as compact JSON (`true`, `3.5`, `{"a": 1}`)."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
