"""Files that `make generate` and the engine make for themselves."""

import os
import tempfile
from pathlib import Path
from typing import Final

QUERY_COMPILER_VERSION: Final = "7.10.0"
"""The version of ``@prisma/client`` whose compiler this engine speaks to: import names and plan nodes belong to it."""

PLANS_FOLDER: Final = "plans"
"""In the build folder: compiled plans, one folder for each schema and version of the compiler."""


def default_build_dir() -> Path:
    """Where the compiler, its machine code and compiled plans are kept; ignored by git."""
    return Path(__file__).parent / "_build"


def wasm_path(build_dir: Path | None = None) -> Path:
    """The compiler's WebAssembly."""
    return (build_dir or default_build_dir()) / f"query-compiler-{QUERY_COMPILER_VERSION}.wasm"


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``path`` so that whoever reads it sees all of the data or none.

    Several processes may do this at once: each writes a file of its own, and the last rename wins.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        Path(temporary).chmod(0o644)  # whoever installs it may be another user than who runs it
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
