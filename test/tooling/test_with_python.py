"""scripts/with_python.sh picks a Python that can carry the project, or says what it saw and what to do."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "with_python.sh"
BASE_PYTHON: str = getattr(sys, "_base_executable", sys.executable)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A clone without .venv, and an empty `bin` that is all of PATH but for the few tools that the script calls."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(SCRIPT, tmp_path / "scripts")
    (tmp_path / "bin").mkdir()
    for tool in ("dirname", "cat"):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool) or f"/bin/{tool}")
    (tmp_path / "show.py").write_text("import sys; print(sys.argv[1:])")
    return tmp_path


def run(project: Path, *, python: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": str(project / "bin")} | ({"PYTHON": python} if python else {})
    command = ["/bin/sh", str(project / "scripts" / "with_python.sh"), str(project / "show.py"), "an argument"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def pretend(path: Path, version: str) -> None:
    """A Python that tells its version and fails at everything else."""
    path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "Python {version}"\nexit $(( $# == 1 ? 0 : 1 ))\n')
    path.chmod(0o755)


def test_the_first_fitting_python_runs_the_script(project: Path) -> None:
    pretend(project / "bin" / "python3", "3.9.18")
    (project / "bin" / "python3.12").write_text(f'#!/bin/sh\nexec "{BASE_PYTHON}" "$@"\n')
    (project / "bin" / "python3.12").chmod(0o755)

    result = run(project)

    assert result.returncode == 0, result.stderr
    assert result.stdout == "['an argument']\n"


def test_the_projects_own_environment_comes_first(project: Path) -> None:
    (project / ".venv" / "bin").mkdir(parents=True)
    own = project / ".venv" / "bin" / "python"
    own.write_text(f'#!/bin/sh\necho own\nexec "{BASE_PYTHON}" "$@"\n')
    own.chmod(0o755)

    assert "own" in run(project).stdout


def test_a_broken_environment_is_passed_over(project: Path) -> None:
    (project / ".venv" / "bin").mkdir(parents=True)
    (project / ".venv" / "bin" / "python").symlink_to(project / "uninstalled")
    (project / "bin" / "python3").symlink_to(BASE_PYTHON)

    assert run(project).returncode == 0


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ("3.9.18", "not 3.11, 3.12 or 3.13"),
        ("3.14.0", "not 3.11, 3.12 or 3.13"),
        ("3.12.1", "apt install python3-venv"),
    ],
)
def test_an_unfit_python_is_named_with_the_reason(project: Path, version: str, reason: str) -> None:
    pretend(project / "bin" / "python3", version)

    result = run(project)

    assert result.returncode == 1
    assert f"{project / 'bin' / 'python3'}: Python {version}: " in result.stderr
    assert reason in result.stderr
    assert "What to do" in result.stderr


def test_no_python_at_all(project: Path) -> None:
    result = run(project)

    assert result.returncode == 1
    assert "there is no python3 on PATH" in result.stderr


def test_the_users_choice_is_not_replaced_by_another(project: Path) -> None:
    pretend(project / "bin" / "python3.10", "3.10.13")
    (project / "bin" / "python3").symlink_to(BASE_PYTHON)

    result = run(project, python=str(project / "bin" / "python3.10"))

    assert result.returncode == 1
    assert "Python 3.10.13: not 3.11" in result.stderr
