"""`cli.py report` on files, with nets of the published structure whose points are sure and mean nothing."""

import json
import subprocess
import sys
from dataclasses import replace

import av
import numpy as np
import pytest
from PIL import Image
from steadydancer import cli
from steadydancer.media.read_video import read_clip
from steadydancer.pose import interchange
from steadydancer.report.report import read_report
from steadydancer.tools import draw_dancer
from support import ROOT, pose_nets
from support.video import probe

FRAMES, WIDTH, HEIGHT = 6, 320, 320


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with result.mp4, picture.png, poses.json, and models/detection."""
    folder = tmp_path_factory.mktemp("report")
    poses = draw_dancer.dance(FRAMES, width_px=WIDTH, height_px=HEIGHT)
    pictures = [np.asarray(draw_dancer.person(poses, frame)) for frame in range(FRAMES)]
    with av.open(str(folder / "result.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=16)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        sound = container.add_stream("aac", rate=48000, layout="stereo")
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
        for start in range(0, 48000 * FRAMES // 16, 1024):
            wave = np.sin(np.arange(start, start + 1024) * 0.06).astype(np.float32)
            block = av.AudioFrame.from_ndarray(np.stack([wave, wave]), format="fltp", layout="stereo")
            block.sample_rate, block.pts = 48000, start
            container.mux(sound.encode(block))
        container.mux(sound.encode())
    first = (read_clip(str(folder / "result.mp4"), count=1).frames[0] * 255).round().astype(np.uint8)
    Image.fromarray(first).save(folder / "picture.png")
    (folder / "poses.json").write_text(json.dumps(interchange.write(poses)), "utf-8")
    pose_nets.write_detector(folder / "models" / "detection" / "yolox_l.onnx")
    pose_nets.write_pose_net(folder / "models" / "detection" / "dw-ll_ucoco_384.onnx")
    return folder


def report(folder, *arguments) -> int:
    command = ["report", folder / "result.mp4", "--picture", folder / "picture.png"]
    return cli.main([str(part) for part in (*command, "--models-dir", folder / "models", *arguments)])


def test_a_result_is_measured_and_shown(files, capsys):
    outputs = ["--json", files / "a.json", "--sheet", files / "a.png", "--video", files / "a.mp4"]
    assert report(files, "--poses", files / "poses.json", *outputs) == 3, "points that mean nothing follow no pose"
    shown = capsys.readouterr().out
    assert f"{FRAMES} frames of {WIDTH}×{HEIGHT} at 16 a second: broken" in shown
    made = read_report((files / "a.json").read_text("utf-8"))
    words = {figure.id: figure.word for figure in made.figures}
    assert words["first_frame"] == words["ssim"] == "good" and words["people_lost"] != "nothing to see"
    assert Image.open(files / "a.png").width == 1200
    video = probe(files / "a.mp4")
    assert (video.frames, video.rate, video.width, video.height) == (FRAMES, 16, 3 * WIDTH, HEIGHT)
    assert video.has_audio and video.pictures[:, :, : WIDTH // 2].std() > 5


def test_the_poses_may_be_those_of_a_dance(files, capsys):
    assert report(files, "--dance", files / "result.mp4", "--json", files / "b.json") in (0, 3)
    assert cli.main(["report", str(files / "b.json"), str(files / "b.json")]) == 0
    table = capsys.readouterr().out
    assert "first frame against the picture" in table and "*" not in table.splitlines()[-1]


def test_what_is_missing_is_said(files, capsys, tmp_path):
    assert report(files) == 1 and "--poses or --dance" in capsys.readouterr().err
    (tmp_path / "models").mkdir()
    arguments = ["report", files / "result.mp4", "--picture", files / "picture.png", "--poses", files / "poses.json"]
    assert cli.main([str(part) for part in (*arguments, "--models-dir", tmp_path / "models")]) == 1
    assert "Run: python cli.py download dwpose" in capsys.readouterr().err
    (tmp_path / "other.json").write_text("{}", "utf-8")
    assert cli.main(["report", str(tmp_path / "other.json")]) == 1
    assert "no Dance Report" in capsys.readouterr().err


def test_shorter_poses_are_refused(files, capsys, tmp_path):
    poses = draw_dancer.dance(3, width_px=WIDTH, height_px=HEIGHT)
    (tmp_path / "short.json").write_text(json.dumps(interchange.write(replace(poses, tracked=False))), "utf-8")
    assert report(files, "--poses", tmp_path / "short.json") == 1
    assert f"The result has {FRAMES} frames, the poses have 3." in capsys.readouterr().err


def test_bare_python_says_what_it_lacks(files):
    command = [sys.executable, "-I", "-S", ROOT / "cli.py", "report"]
    for arguments in ([files / "poses.json"], [files / "result.mp4", "--picture", "p.png", "--poses", "p.json"]):
        done = subprocess.run([*command, *arguments], capture_output=True, text=True)
        assert done.returncode == 1 and "The Python package numpy is missing" in done.stderr, done.stderr
