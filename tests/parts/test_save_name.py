"""Two ComfyUIs that save into one output folder: none writes over what the other has rendered."""

import subprocess
import sys

from steadydancer.services.save_name import free_file, hidden
from support import TESTS

SAVES = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import support
from steadydancer.services.save_name import free_file, hidden
print("ready", flush=True)
sys.stdin.readline()
for number in range(50):
    path = free_file(Path(sys.argv[2]), "clip", 1, ".mp4")
    hidden(path).write_text(f"{sys.argv[3]} {number}")
    hidden(path).replace(path)
"""


def test_processes_that_save_at_once_take_different_names(tmp_path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    command = [sys.executable, "-c", SAVES, str(TESTS), str(tmp_path)]
    programs = [subprocess.Popen([*command, str(who)], **pipes) for who in range(4)]
    for program in programs:
        assert program.stdout.readline() == b"ready\n"
    for program in programs:
        program.stdin.write(b"\n")
        program.stdin.flush()
    for program in programs:
        program.communicate()
    assert [program.returncode for program in programs] == [0] * 4
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"clip_{n:05}_.mp4" for n in range(1, 201)]
    assert len({path.read_text() for path in tmp_path.iterdir()}) == 200


def test_a_name_that_is_being_written_is_taken(tmp_path):
    first = free_file(tmp_path, "clip", 7, ".mp4")
    assert first.name == "clip_00007_.mp4" and hidden(first).exists() and not first.exists()
    assert free_file(tmp_path, "clip", 7, ".mp4").name == "clip_00008_.mp4"


def test_where_nothing_can_be_made_it_is_the_first_name(tmp_path):
    assert free_file(tmp_path / "none", "clip", 7, ".mp4") == tmp_path / "none" / "clip_00007_.mp4"
