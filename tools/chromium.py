"""Where the browser tests get their Chromium: the machine's, Playwright's, or the system's package manager."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
PLAYWRIGHTS = "from playwright.sync_api import sync_playwright as s\nwith s() as p: print(p.chromium.executable_path)"


def find(python: str = sys.executable) -> str | None:
    """Chromium's path, or None. `python` is one that has Playwright."""
    found = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if found:
        return found
    done = subprocess.run([python, "-c", PLAYWRIGHTS], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    program = done.stdout.strip()
    return program if program and Path(program).exists() else None


def find_or_install(python: str) -> str | None:
    """Chromium's path; what may be installed without a question is installed first."""
    found = find(python)
    if found:
        return found
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    if root and shutil.which("apt-get"):
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        attempt(["apt-get", "update", "--quiet"], quiet)
        attempt(["apt-get", "install", "--quiet", "--yes", "--no-install-recommends", "chromium"], quiet)
    else:
        attempt([python, "-m", "playwright", "install", "chromium"], dict(os.environ))
    return find(python)


def attempt(command: list[str], variables: dict[str, str]) -> None:
    """Runs an installer that may fail: whether it worked is seen by looking for the program."""
    print(f"The browser tests need Chromium: {' '.join(command)}", file=sys.stderr)
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(command, env=variables, stdin=subprocess.DEVNULL, stdout=sys.stderr, timeout=900)


def advice(python: str) -> str:
    """The one command that brings Chromium to this machine."""
    if shutil.which("apt-get"):
        return "sudo apt-get install chromium"
    return f"{python} -m playwright install chromium"
