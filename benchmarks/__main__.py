"""`make bench`: run the benchmarks, or those named: `python -m benchmarks [NAME [PART ...] ...] [--list]`.

Each benchmark is a module `bench_NAME` with a function `main()` that prints its table; one that has parts, as `PARTS` says, has `main(parts)`, and its name may
be followed by some of them: `runs W1 W3`. Figures worth keeping are in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path

PREFIX = "bench_"


def available() -> list[str]:
    """The names of all benchmarks."""
    modules = pkgutil.iter_modules([str(Path(__file__).parent)])
    return sorted(module.name.removeprefix(PREFIX) for module in modules if module.name.startswith(PREFIX))


def chosen(words: Sequence[str], names: Sequence[str]) -> list[tuple[str, list[str]]]:
    """(benchmark, its parts) as the command line names them. Raises `ValueError` for a part without a benchmark before it."""
    choices: list[tuple[str, list[str]]] = []
    for word in words:
        if word in names:
            choices.append((word, []))
        elif choices:
            choices[-1][1].append(word)
        else:
            raise ValueError(f"no benchmark named {word}; there are {', '.join(names)}")
    return choices or [(name, []) for name in names]


def main() -> int:
    """Run the benchmarks that the command line names; exit code 2 for an unknown one."""
    names = available()
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("words", nargs="*", metavar="NAME", help=f"what to run; all by default: {', '.join(names)}")
    parser.add_argument("--list", action="store_true", help="show the names and end")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(names))
        return 0
    try:
        choices = chosen(arguments.words, names)
    except ValueError as error:
        parser.error(str(error))
    for name, parts in choices:
        module = importlib.import_module(f"benchmarks.{PREFIX}{name}")
        unknown = [part for part in parts if part not in getattr(module, "PARTS", ())]
        if unknown:
            parser.error(
                f"{name} has no part {', '.join(unknown)}; there are {', '.join(getattr(module, 'PARTS', ()))}"
            )
        print(f"\n== {name} ==", flush=True)
        module.main(parts) if parts else module.main()
    return 0


if __name__ == "__main__":
    sys.exit(main())
