"""Unpacking and precompiling the compiler: from the locked package, safely by several processes, again when stale."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from autogpt_server.data.engine import EngineNotBuiltError, build, compiler, files
from autogpt_server.data.engine.schema import parse_datamodel
from data.engine.conftest import ROOT

pytestmark = pytest.mark.timeout(180)  # compiling takes a second of each core, and many where others keep them busy

NODE_MODULES = ROOT / "node_modules"
SCHEMA = 'datasource db {\n  provider = "sqlite"\n}\nmodel A {\n  id Int @id\n}\n'


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    assert build.main(["--node-modules", str(NODE_MODULES), "--build-dir", str(folder)]) == 0
    return folder


@pytest.fixture
def build_dir(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "build"))


def works(folder: Path) -> bool:
    query_compiler = compiler.QueryCompiler(parse_datamodel(SCHEMA), build_dir=folder)
    request = {"modelName": "A", "action": "findMany", "query": {"arguments": {}, "selection": {"id": True}}}
    return "SELECT" in json.dumps(query_compiler.compile(json.dumps(request)))


def test_build(build_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sorted(file.suffix for file in build_dir.iterdir()) == [".cwasm", ".wasm"]
    assert works(build_dir)
    old = build_dir / "query-compiler-1.0.0-wasmtime-1-linux-x86_64-0.cwasm"
    old.touch()
    before = build.module_path(build_dir).stat()
    assert build.main(["--node-modules", str(NODE_MODULES), "--build-dir", str(build_dir)]) == 0
    assert not old.exists()
    assert build.module_path(build_dir).stat().st_mtime_ns == before.st_mtime_ns, "not compiled again"
    assert "7.10.0" in capsys.readouterr().out


def test_packages_that_are_missing_or_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(EngineNotBuiltError, match="install the locked npm packages"):
        build.extract(tmp_path, tmp_path)
    package = tmp_path / "@prisma" / "client"
    (package / "runtime").mkdir(parents=True)
    (package / "package.json").write_text('{"version": "7.9.0"}')
    source = package / "runtime" / "query_compiler_small_bg.sqlite.wasm-base64.mjs"
    source.write_text('const wasm = "AAAA";')
    with pytest.raises(EngineNotBuiltError, match=r"7\.9\.0; this engine needs 7\.10\.0"):
        build.extract(tmp_path, tmp_path)
    (package / "package.json").write_text('{"version": "7.10.0"}')
    with pytest.raises(EngineNotBuiltError, match="holds no WebAssembly"):
        build.extract(tmp_path, tmp_path)
    source.write_text("export {}")
    assert build.main(["--node-modules", str(tmp_path), "--build-dir", str(tmp_path)]) == 1
    assert "error:" in capsys.readouterr().err


def test_nothing_built(tmp_path: Path) -> None:
    with pytest.raises(EngineNotBuiltError, match="run `make generate`"):
        build.load_module(tmp_path)
    files.wasm_path(tmp_path).write_bytes(b"\0asm but damaged")
    with pytest.raises(EngineNotBuiltError, match="damaged"):
        build.load_module(tmp_path)


def test_stale_machine_code_is_made_again(build_dir: Path) -> None:
    machine_code = build.module_path(build_dir)
    good = machine_code.read_bytes()
    machine_code.write_bytes(good[:1000])
    assert works(build_dir)
    assert len(machine_code.read_bytes()) == len(good)


def test_machine_code_is_of_one_wasmtime_and_cpu(build_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build.module_path(build_dir)
    monkeypatch.setattr(build, "_cpu_key", lambda: "linux-another-cpu")
    assert build.module_path(build_dir) != first
    monkeypatch.setattr(build, "version", str.upper)
    assert "wasmtime-WASMTIME-linux-another-cpu" in build.module_path(build_dir).name


def test_a_folder_that_cannot_be_written_works_too(build_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build.module_path(build_dir).unlink()

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(build, "write_atomically", refuse)
    assert works(build_dir)


def test_several_processes_at_once(built: Path, tmp_path: Path) -> None:
    shutil.copy(files.wasm_path(built), files.wasm_path(tmp_path))
    program = f"from pathlib import Path; from autogpt_server.data.engine.build import load_module; load_module(Path({str(tmp_path)!r}))"
    processes = [
        subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(
        [files.wasm_path(tmp_path).name, build.module_path(tmp_path).name]
    ), "no temporary files are left"
    assert works(tmp_path)


def test_unknown_imports_are_named(build_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = dict(compiler.IMPORTS)
    missing = known.popitem()[0]
    monkeypatch.setattr(compiler, "IMPORTS", known)
    with pytest.raises(EngineNotBuiltError, match=f"unknown function '{missing}'.*make generate"):
        compiler.QueryCompiler(parse_datamodel(SCHEMA), build_dir=build_dir)
