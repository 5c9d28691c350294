"""The command line itself: whoever reads less than there is, and errors that no command expected."""

import os
import subprocess
import sys

import pytest
from steadydancer import cli
from support import ROOT

COMMANDS = [
    ["list"],
    ["plan", "--all-gpus"],
    ["plan", "--gpu", "RTX 4090"],
    ["select", "--all-gpus"],
    ["verify"],
    ["download", "steadydancer", "--dry-run"],
    ["r2", "--help"],
    ["--help"],
]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no broken pipes")
@pytest.mark.parametrize("streams", ["stdout", "both"])
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_reader_that_leaves_is_not_an_error(command, streams, tmp_path):
    """`cli.py plan --all-gpus | head`, and `2>&1 | head`."""
    read, write = os.pipe()
    os.close(read)
    needs_folder = ["--models-dir", str(tmp_path)] if command[0] in ("list", "verify", "download") else []
    errors = tmp_path / "errors"
    with open(errors, "wb") as file, os.fdopen(write, "wb") as pipe:
        done = subprocess.run(
            [sys.executable, str(ROOT / "cli.py"), *command, *needs_folder],
            stdout=pipe,
            stderr=pipe if streams == "both" else file,
            timeout=60,
        )
    assert done.returncode in (0, 141)
    assert errors.read_bytes() == b""


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (PermissionError(13, "Permission denied", "/models/a.gguf"), "/models/a.gguf: permission denied."),
        (OSError(28, "No space left on device"), "The system refused: no space left on device."),
        (KeyError("weight"), "'weight' is missing in test_cli.py, line "),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "'utf-8' codec"),
        (ValueError("bad \x1b[2J name"), "bad \\x1b[2J name."),
        (ModuleNotFoundError("No module named 'boto3'", name="boto3"), "The Python package boto3 is missing"),
    ],
)
def test_what_no_command_expected_is_one_sentence(error, sentence, monkeypatch, capsys):
    from steadydancer.commands import list as command

    def run(args):
        raise error

    monkeypatch.setattr(command, "run", run)
    assert cli.main(["list"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(sentence) and err.endswith(".\n") and err.count("\n") == 1


@pytest.mark.skipif(os.name != "posix", reason="a shell closes them there")
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_closed_output_is_no_error(closed):
    done = subprocess.run(
        f'"{sys.executable}" "{ROOT / "cli.py"}" list {closed}', shell=True, capture_output=True, timeout=60
    )
    assert done.returncode == 0 and done.stderr == b""
