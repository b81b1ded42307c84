"""`docs/durability.md` says nothing that no test shows: the tests that it names are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "durability.md").read_text(encoding="utf-8")
TESTS = {path: path.read_text(encoding="utf-8") for path in (ROOT / "test").rglob("test_*.py")}


def defines(name: str, file: str | None) -> bool:
    found = [text for path, text in TESTS.items() if file is None or path.name == file]
    return any(re.search(rf"^ *(async )?def {name}\(", text, re.MULTILINE) for text in found)


def named() -> list[tuple[str | None, str]]:
    """(file or None, test) as the page names them: a test without a file follows one that has it."""
    return [
        (file or None, test) for file, test in re.findall(r"`(?:[\w/]*/)?(test_\w+\.py)?(?:::)?(test_[a-z_]+)`", PAGE)
    ]


@pytest.mark.parametrize(("file", "test"), named())
def test_a_test_that_the_page_names_is_there(file: str | None, test: str) -> None:
    assert defines(test, file)


def test_files_and_mutants_that_the_page_names_are_there() -> None:
    files = set(re.findall(r"`(?:[\w/]*/)?(test_\w+\.py)", PAGE))
    assert files
    assert not files - {path.name for path in TESTS}
    words = {
        word
        for group in re.findall(r"[Mm]utants?\s+((?:`\w+`(?:,\s+)?)+)", PAGE)
        for word in re.findall(r"`(\w+)`", group)
    }
    mutations = next(text for path, text in TESTS.items() if path.name == "test_mutations.py")
    tried = set(re.findall(r"^        \((\w+), \"", mutations, re.MULTILINE))
    assert words == tried, "each mutant is named, and each that is named is tried"


def test_every_part_of_the_page_that_promises_names_a_test() -> None:
    parts = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
    silent = [part.splitlines()[0] for part in parts if "test_" not in part and "Simulation" not in part]
    assert silent == ["Words", "What is not promised"]
