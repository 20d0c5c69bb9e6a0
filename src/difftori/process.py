"""How a command ends: its exit codes, and errors, Ctrl-C and a closed pipe without a traceback.

Nothing but Python's own is imported here: doctor.py runs where packages are missing.
"""

import argparse
import io
import os
import sys
from collections.abc import Callable
from typing import NoReturn

FAILED_EXIT_CODE = 1
USAGE_EXIT_CODE = 2
RESUME_EXIT_CODE = 75
"""EX_TEMPFAIL: the run stopped on request, saved, and goes on with the same command"""
INTERRUPTED_EXIT_CODE = 130
BROKEN_PIPE_EXIT_CODE = 141
"""128 and the signal's number, as a shell says it"""


def fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(USAGE_EXIT_CODE)


def quietly_interruptible(main: Callable[[], object]) -> None:
    """Call ``main``; Ctrl-C ends it with one word and code 130, also while it is importing.

    So does a reader of the output that has read enough, as ``head``, without a word. Letters that
    the output's encoding lacks are spelled out.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None where it is closed
            stream.reconfigure(errors="backslashreplace")
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:
        # what is still to be written, at exit, must not fail again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(BROKEN_PIPE_EXIT_CODE)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED_EXIT_CODE)


class Parser(argparse.ArgumentParser):
    """For the commands without a config; their errors are one line too."""

    def error(self, message: str) -> NoReturn:
        fail(f"{message}; --help lists the options")
