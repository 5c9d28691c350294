#!/usr/bin/env python3
"""The operator's door: what a pod needs without a browser. `python cli.py --help` lists it; ComfyUI is not needed."""

import argparse
import importlib
import importlib.util
import io
import os
import sys
from pathlib import Path
from types import ModuleType

COMMANDS = ("queue", "download", "list", "verify", "convert", "select", "plan", "report", "r2", "env", "doctor")
ROOT = Path(__file__).resolve().parent


def load_package() -> ModuleType:
    """Loads this folder as the package `steadydancer`, whatever the folder is called.

    The folder itself must not be on sys.path: its `nodes/` would hide ComfyUI's nodes.py.
    """
    if "steadydancer" not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            "steadydancer", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
        )
        assert spec and spec.loader, "a path to a file gives both"
        module = importlib.util.module_from_spec(spec)
        sys.modules["steadydancer"] = module
        spec.loader.exec_module(module)
    return sys.modules["steadydancer"]


def main(argv: list[str] | None = None) -> int:
    """Runs one subcommand and returns its exit code: 0 done, 1 failed with a sentence on stderr, 2 wrong usage."""
    load_package()
    reason = importlib.import_module("steadydancer.base.reason").reason
    try:
        try:
            return command(argv)
        finally:
            if sys.stdout:
                sys.stdout.flush()
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever reads our output has enough of it: head, less
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):  # what they still hold is written at the exit
            os.dup2(nowhere, stream.fileno())
        return 141  # as the system's own programs end then
    except (OSError, ValueError, RuntimeError, LookupError, ImportError) as err:
        print(reason(err), file=sys.stderr)
        return 1


def command(argv: list[str] | None) -> int:
    """Parses the arguments and runs the subcommand; its own exit code. argparse itself leaves with 2."""
    parser = argparse.ArgumentParser(prog="cli.py", description=__doc__)
    subparsers = parser.add_subparsers(dest="command", required=True)
    for name in COMMANDS:
        module = importlib.import_module(f"steadydancer.commands.{name}")
        module.add_parser(subparsers).set_defaults(run=module.run)
    args = parser.parse_args(argv)
    return args.run(args)


if __name__ == "__main__":
    sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a cp1252 console cannot print every file name
    sys.exit(main())
