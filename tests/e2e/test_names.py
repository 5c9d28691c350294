"""Names that people and scripts give: what breaks a line, a path, a terminal or Windows is taken out where it comes in."""

import json
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from support import ROOT

PREFIXES = [
    "a\nb",
    "a\r\nb/c\x1b[2Jd",
    "a\u2028b\u2029c",
    "half\ud83dbroken",
    "x" * 300,
    "舞" * 120 + "/" + "y" * 400,
    "CON",
    "pose/nul.json",
    "com¹/LPT9.x/aux ",
    "../../out of it",
    "ends in a dot./and a space ",
    'who "?*<>|: knows',
    "",
    "\n",
    "../..",
    "/".join("d" * 40),
]


def checked(path: Path, output: Path) -> None:
    """A file with a name that every system, log and script takes."""
    assert path.is_file() and path.resolve().is_relative_to(output.resolve())
    for part in path.relative_to(output).parts:
        assert len(part.encode()) <= 255 and part == part.strip() and not part.endswith(".")
        assert all(unicodedata.category(letter) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for letter in part)
        assert not set(part) & set('<>:"|?*\\')
        assert part.split(".")[0].strip().lower() not in ("con", "nul", "aux", "prn", "com¹", "lpt9")


def test_every_save_node_of_ours_cleans_the_name_it_is_given(comfy_server):
    person = {"pose_keypoints_2d": [10.0, 10.0, 1.0] * 18}
    pose = [{"canvas_width": 64, "canvas_height": 64, "people": [person]}]
    (comfy_server.base_directory / "input" / "names.json").write_text(json.dumps(pose))
    prompt = {
        "1": {"class_type": "SteadyDancerPoseLoad", "inputs": {"file": "names.json"}},
        "2": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 32, "batch_size": 1, "color": 1}},
    }
    save = {
        "profile": "auto",
        "format": "png",
        "quality": 95,
        "after_upload": "keep the local file",
        "share_safe": False,
    }
    save |= {"key": "{prefix}/{name}", "overwrite": False, "link_minutes": 0, "day_facts": False, "images": ["2", 0]}
    for number, prefix in enumerate(PREFIXES):
        prompt[f"pose{number}"] = {
            "class_type": "SteadyDancerPoseSave",
            "inputs": {"keypoints": ["1", 0], "filename_prefix": prefix},
        }
        prompt[f"image{number}"] = {
            "class_type": "SteadyDancerR2SaveImages",
            "inputs": {**save, "filename_prefix": prefix},
        }
    output = comfy_server.base_directory / "output"
    before, log = set(output.rglob("*.*")), len(comfy_server.log())
    comfy_server.succeed(prompt)
    made = [path for path in set(output.rglob("*.*")) - before if path.is_file()]
    assert len(made) == 2 * len(PREFIXES)
    for path in made:
        checked(path, output)
    assert "\x1b[2J" not in comfy_server.log()[log:]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such names")
def test_queue_tells_cores_names_in_one_line_each(comfy_server, tmp_path):
    """Core saves under any name; a script that reads the lines must not take half a name for a file."""
    prompt = {"1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 32, "batch_size": 2, "color": 7}}}
    for number, prefix in enumerate(("plain", "two\nlines", "a\x1b[2Jb", "a\u2028b")):
        prompt[f"s{number}"] = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": prefix}}
    file = tmp_path / "prompt.json"
    file.write_text(json.dumps(prompt))
    done = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), "queue", str(file), "--server", comfy_server.url],
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode().splitlines()
    assert len(lines) == 8 and b"\x1b" not in done.stdout
    assert sum(Path(line).is_file() for line in lines) == 2
    assert sum("two\\nlines" in line for line in lines) == 2
    assert done.stderr.decode().count("signs that no line can hold") == 6
