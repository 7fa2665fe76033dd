"""Runs a command of the command line in this process, as a user would type it."""

from __future__ import annotations

import sys

from maxact import cli


def maxact(*args, code=0, capsys):
    """Its stdout and stderr; its exit code must be `code`."""
    argv, sys.argv = sys.argv, ["maxact", *map(str, args)]
    try:
        cli.main()
        exit_code = 0
    except SystemExit as end:
        exit_code = end.code or 0
    finally:
        sys.argv = argv
    out, err = capsys.readouterr()
    assert exit_code == code, (exit_code, out, err)
    return out, err
