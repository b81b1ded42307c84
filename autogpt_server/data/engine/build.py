"""Make the query compiler ready to run: ``python -m autogpt_server.data.engine.build --node-modules DIR``.

The compiler's WebAssembly comes out of the locked npm package ``@prisma/client`` and is compiled to machine code, once,
into ``_build/`` beside this file. At run time there is no Node and no network; if the machine code belongs to another
wasmtime or CPU it is made again (1 s), by whichever process notices first.
"""

import argparse
import base64
import json
import logging
import platform
import re
import shutil
import sys
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Final

import wasmtime

from autogpt_server.data.engine.errors import EngineNotBuiltError
from autogpt_server.data.engine.files import (
    PLANS_FOLDER,
    QUERY_COMPILER_VERSION,
    default_build_dir,
    wasm_path,
    write_atomically,
)

log = logging.getLogger(__name__)

_PACKAGED_WASM: Final = "runtime/query_compiler_small_bg.sqlite.wasm-base64.mjs"
"""Inside ``@prisma/client``: a module that exports the WebAssembly as one base64 string, ``const wasm = "..."``."""


def extract(node_modules: Path, build_dir: Path | None = None) -> Path:
    """Unpack the compiler of the npm packages in ``node_modules``; returns the path of the ``.wasm`` file.

    Raises:
        EngineNotBuiltError: the package is missing, or is another version than this engine was written for.
    """
    package = node_modules / "@prisma" / "client"
    try:
        found = json.loads((package / "package.json").read_text(encoding="utf-8"))["version"]
        source = (package / _PACKAGED_WASM).read_text(encoding="ascii")
    except FileNotFoundError as error:
        raise EngineNotBuiltError(f"{error.filename} is missing: install the locked npm packages first") from error
    if found != QUERY_COMPILER_VERSION:
        raise EngineNotBuiltError(
            f"{package} is version {found}; this engine needs {QUERY_COMPILER_VERSION}: install the locked packages"
        )
    encoded = re.search(r'wasm\s*=\s*"([A-Za-z0-9+/=]+)"', source)
    wasm = base64.b64decode(encoded[1]) if encoded else b""
    if not wasm.startswith(b"\0asm"):
        raise EngineNotBuiltError(f"{package / _PACKAGED_WASM} holds no WebAssembly")
    path = wasm_path(build_dir)
    write_atomically(path, wasm)
    return path


def module_path(build_dir: Path | None = None) -> Path:
    """The compiler's machine code for this wasmtime and this CPU."""
    name = f"query-compiler-{QUERY_COMPILER_VERSION}-wasmtime-{version('wasmtime')}-{_cpu_key()}.cwasm"
    return (build_dir or default_build_dir()) / name


def load_module(build_dir: Path | None = None) -> tuple[wasmtime.Engine, wasmtime.Module]:
    """The compiler's module: mapped from its machine code (5 ms), which is made first if it is missing or stale (1 s).

    Raises:
        EngineNotBuiltError: there is no WebAssembly to make it from.
    """
    config = wasmtime.Config()
    config.wasm_reference_types = True
    engine = wasmtime.Engine(config)
    cached = module_path(build_dir)
    if cached.exists():
        try:
            return engine, wasmtime.Module.deserialize_file(engine, str(cached))
        except wasmtime.WasmtimeError as error:
            log.warning("engine.module_cache_refused path=%s reason=%s", cached, str(error).splitlines()[0])
    wasm = wasm_path(build_dir)
    try:
        module = wasmtime.Module(engine, wasm.read_bytes())
    except FileNotFoundError as error:
        raise EngineNotBuiltError(f"the query compiler is missing ({wasm}): run `make generate`") from error
    except wasmtime.WasmtimeError as error:
        raise EngineNotBuiltError(f"the query compiler is damaged ({wasm}): run `make generate`") from error
    try:
        write_atomically(cached, bytes(module.serialize()))
    except OSError as error:  # a read-only installation works too, it only starts more slowly
        log.warning("engine.module_cache_unwritable path=%s reason=%s", cached, error)
    return engine, module


def _cpu_key() -> str:
    """Differs between CPUs for which wasmtime may emit different code (it uses what the machine at hand offers)."""
    features = ""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:  # not Linux
        features = platform.processor()
    return f"{sys.platform}-{platform.machine()}-{sha256(features.encode()).hexdigest()[:12]}"


def _remove_stale(build_dir: Path) -> None:
    """Machine code of other versions, and plans of schemas that are no more."""
    for stale in build_dir.glob("query-compiler-*.cwasm"):
        if stale != module_path(build_dir):
            stale.unlink(missing_ok=True)
    shutil.rmtree(build_dir / PLANS_FOLDER, ignore_errors=True)


def main(argv: list[str] | None = None) -> int:
    """Command line: unpack and precompile. Exit code 1 says that the npm packages are missing or wrong."""
    parser = argparse.ArgumentParser(prog="python -m autogpt_server.data.engine.build", description=main.__doc__)
    parser.add_argument("--node-modules", type=Path, required=True, help="folder that holds @prisma/client")
    parser.add_argument("--build-dir", type=Path, default=default_build_dir(), help="where the results go")
    args = parser.parse_args(argv)
    build_dir: Path = args.build_dir
    try:
        wasm = extract(args.node_modules, build_dir)
        _remove_stale(build_dir)
        load_module(build_dir)
    except EngineNotBuiltError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(f"query compiler {QUERY_COMPILER_VERSION}: {wasm}, {module_path(build_dir)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
