#!/bin/sh
# Usage: sh scripts/with_python.sh SCRIPT [ARGUMENT...]
#
# Runs a script of this folder with a Python that can carry this project, and needs nothing but a POSIX shell to find it.
# In this order: $PYTHON if it is set; the project's own .venv; `python3` and `python`; then python3.13 to python3.11.
# A candidate has to start (a pyenv shim may not), be 3.11 to 3.13, and be able to make virtual environments.

root=$(dirname "$0")/..
probe='import sys, venv, ensurepip; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else 3)'
found=''

for candidate in ${PYTHON:-"$root/.venv/bin/python" python3 python python3.13 python3.12 python3.11}; do
    command -v "$candidate" >/dev/null 2>&1 || continue
    "$candidate" -c "$probe" >/dev/null 2>&1 && exec "$candidate" "$@"
    version=$("$candidate" --version 2>&1) || continue
    case $version in
        'Python 3.11.'* | 'Python 3.12.'* | 'Python 3.13.'*) why="it lacks the modules venv and ensurepip (Debian, Ubuntu: apt install python3-venv)" ;;
        *) why="not 3.11, 3.12 or 3.13" ;;
    esac
    found="$found
  $(command -v "$candidate"): $version: $why"
done

cat >&2 <<MESSAGE
autogpt_server needs Python 3.11, 3.12 or 3.13, and none was found.
Looked at:${found:- nothing: there is no ${PYTHON:-python3} on PATH}
What to do: install one of them (Debian, Ubuntu: apt install python3 python3-venv; macOS: brew install python@3.13;
anywhere: pyenv install 3.13), or say where it is: make run PYTHON=/path/to/python3.12
MESSAGE
exit 1
