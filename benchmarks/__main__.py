"""`make bench`: run the benchmarks, or those named: `python -m benchmarks [NAME ...] [--list]`.

Each benchmark is a module `bench_NAME` with a function `main()` that prints its table. Figures worth keeping are in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from pathlib import Path

PREFIX = "bench_"


def available() -> list[str]:
    """The names of all benchmarks."""
    modules = pkgutil.iter_modules([str(Path(__file__).parent)])
    return sorted(module.name.removeprefix(PREFIX) for module in modules if module.name.startswith(PREFIX))


def main() -> int:
    """Run the benchmarks that the command line names; exit code 2 for an unknown one."""
    names = available()
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"what to run; all by default: {', '.join(names)}")
    parser.add_argument("--list", action="store_true", help="show the names and end")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(names))
        return 0
    unknown = [name for name in arguments.names if name not in names]
    if unknown:
        parser.error(f"no benchmark named {', '.join(unknown)}; there are {', '.join(names)}")
    for name in arguments.names or names:
        print(f"\n== {name} ==", flush=True)
        importlib.import_module(f"benchmarks.{PREFIX}{name}").main()
    return 0


if __name__ == "__main__":
    sys.exit(main())
