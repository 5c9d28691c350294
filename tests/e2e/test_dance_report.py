"""Dance Report through the real server, with nets that really find the dots of a drawn body."""

import json
import time

import av
import numpy as np
import pytest
from steadydancer.pose import interchange
from steadydancer.pose.keypoints import empty
from steadydancer.report.report import read_report
from support import dots
from support.video import probe

DETECTOR, POSE_NET = "yolox_report.onnx", "dw-report.onnx"
WIDTH, HEIGHT, FRAMES = 240, 320, 12
NETS = {"detector": DETECTOR, "pose_model": POSE_NET, "runtime": "onnxruntime on the CPU"}


@pytest.fixture(scope="module")
def server(comfy_server):
    """With the nets, a dance of dots with sound, the same where everything leaps from frame 6 on, and its first picture."""
    folder = comfy_server.base_directory / "models" / "detection"
    detector, pose = dots.export(folder / "report", step=4)
    detector.rename(folder / DETECTOR)
    pose.rename(folder / POSE_NET)
    body = dots.person(WIDTH, HEIGHT, box=(0.2, 0.1, 0.6, 0.9))
    for name, leap in (("report_dance.mp4", 0), ("report_leap.mp4", 60)):
        places = [body + [2 * frame + leap * (frame >= 6), 0] for frame in range(FRAMES)]
        write_video(
            comfy_server.base_directory / "input" / name, [dots.picture(at, WIDTH, HEIGHT, 3.5, False) for at in places]
        )
    return comfy_server


def write_video(path, pictures) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=16, options={"crf": "4"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv444p"
        sound = container.add_stream("aac", rate=48000)
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray((picture * 255).astype(np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        wave = np.sin(np.arange(48000 * len(pictures) // 16) * 0.06).astype(np.float32)
        for at in range(0, len(wave), 1024):
            part = av.AudioFrame.from_ndarray(wave[None, at : at + 1024], format="fltp", layout="mono")
            part.sample_rate, part.pts = 48000, at
            container.mux(sound.encode(part))
        container.mux(sound.encode())


def piece(file: str, frames: int = FRAMES) -> dict:
    inputs = {"start": 0.0, "frames": frames, "fps": "the video's own", "longest_side": 0}
    return {
        f"{file} file": {"class_type": "LoadVideo", "inputs": {"file": file}},
        file: {"class_type": "SteadyDancerDrivingVideo", "inputs": {"video": [f"{file} file", 0], **inputs}},
    }


def graph(result: str = "report_dance.mp4", frames: int = FRAMES, asked: int = FRAMES, **inputs) -> dict:
    """A result of `frames` frames, reported on against the poses that are read from the dance's first `asked`."""
    settings = {"max_people": 1, "detect_every": 5, "person_threshold": 0.5, "keypoint_threshold": 0.3, "resolution": 0}
    settings |= {"detect_body": "auto", "detect_hand": "auto", "detect_face": "auto", "flip_test": False}
    settings |= {"no_person": "empty", "missing_frames": "empty", "batch_size": 0} | NETS
    dance = {key.replace("report_dance", "asked"): node for key, node in piece("report_dance.mp4", asked).items()}
    dance["asked.mp4"]["inputs"]["video"] = ["asked.mp4 file", 0]
    first = {"image": ["asked.mp4", 0], "batch_index": 0, "length": 1}
    report = {"enabled": True, "images": [result, 0], "picture": ["picture", 0], "keypoints": ["poses", 0]}
    report |= {"audio": ["asked.mp4", 1], "fps": 16.0, "filename_prefix": "report/test"} | NETS
    return {
        **dance,
        **piece(result, frames),
        "poses": {"class_type": "SteadyDancerPoseEstimator", "inputs": {"image": ["asked.mp4", 0], **settings}},
        "picture": {"class_type": "ImageFromBatch", "inputs": first},
        "report": {"class_type": "SteadyDancerDanceReport", "inputs": report | inputs},
    }


def with_video(prompt: dict) -> dict:
    """The side-by-side video is saved, and the sheet and the text are shown."""
    save = {"video": ["report", 3], "filename_prefix": "video/trio", "format": "auto", "codec": "auto"}
    return prompt | {
        "save": {"class_type": "SaveVideo", "inputs": save},
        "see": {"class_type": "PreviewImage", "inputs": {"images": ["report", 2]}},
    }


def saved_report(server, prompt: dict):
    """The report that the prompt has written."""
    result, folder = server.succeed(prompt), server.base_directory / "output" / "report"
    return result, read_report(max(folder.glob("test_*.json")).read_text("utf-8"))


def test_a_result_that_follows_is_good_and_one_that_leaps_is_not(server):
    result, report = saved_report(server, with_video(graph()))
    words = {figure.id: figure.word for figure in report.figures}
    assert set(words.values()) <= {"good", "nothing to see"}, words
    assert {"oks", "pck", "hands", "colour", "ssim", "first_frame", "speed"} <= {
        k for k, v in words.items() if v == "good"
    }
    (shown,) = result.outputs["report"]["text"]
    assert shown.startswith("12 frames of 240×320 at 16 a second: good")
    (path,) = (path for path in result.files if path.suffix == ".mp4")
    video = probe(path)
    assert (video.frames, video.rate, video.width, video.height) == (FRAMES, 16, 3 * WIDTH, HEIGHT)
    assert video.has_audio, "the dance's sound"
    with server.events() as events:
        _, leap = saved_report(server, graph("report_leap.mp4"))
    assert any("Comparing frames: 12 frames" in line for node, line in events.texts if node == "report"), events.texts
    figures = {figure.id: figure for figure in leap.figures}
    assert figures["pck"].frames == figures["oks"].frames == list(range(6, FRAMES))
    assert figures["jump"].frames == [6] and figures["first_frame"].word == "good"


def test_clip_vision_says_how_alike_the_person_stays(server):
    server.provide_models("clip_vision/clip_vision_h.safetensors")
    prompt = graph(clip_vision=["clip", 0])
    prompt["clip"] = {"class_type": "CLIPVisionLoader", "inputs": {"clip_name": "clip_vision_h.safetensors"}}
    _, report = saved_report(server, prompt)
    likeness, drift = (next(one for one in report.figures if one.id == id) for id in ("likeness", "drift"))
    assert np.flatnonzero(np.isfinite(likeness.curve)).tolist() == [0, 4, 8]
    assert likeness.curve[0] == pytest.approx(1, abs=0.02), "the first frame is the picture"
    assert np.isfinite(drift.value)


def test_off_costs_nothing(server):
    """Neither the poses nor the result are read: what is only needed here never runs."""
    prompt = with_video(graph(enabled=False))
    prompt["asked.mp4"]["inputs"]["start"] = 0.01  # nothing of it is in the cache
    with server.events() as events:
        result = server.succeed(prompt)
    named = {event["node"] for event in events.named("executing")}
    assert named & set(prompt) <= {"report", "save", "see"}, "the last two are named and passed over"
    assert not result.files


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"asked": 9}, "The result has 12 frames, the poses have 9."),
        ({"frames": 1}, "The result is one frame."),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_sentence(server, inputs, said):
    assert said in server.run(graph(**inputs)).error


@pytest.mark.parametrize(
    ("poses", "said"), [((FRAMES, 1, 320, 240), "nobody in the poses"), ((FRAMES, 1, 500, 240), "another shape")]
)
def test_poses_of_nobody_and_of_another_shape(server, poses, said):
    clip = empty(*poses)
    if "shape" in said:
        clip.points[:], clip.scores[:] = 100.0, 0.9
        clip.points[..., 0] += np.arange(134)
    (server.base_directory / "input" / "report.json").write_text(json.dumps(interchange.write(clip)), "utf-8")
    prompt = graph()
    prompt["poses"] = {"class_type": "SteadyDancerPoseLoad", "inputs": {"file": "report.json"}}
    assert said in server.run(prompt).error


def test_nobody_in_the_result_is_a_finding(server):
    prompt = graph()
    prompt["black"] = {
        "class_type": "EmptyImage",
        "inputs": {"width": WIDTH, "height": HEIGHT, "batch_size": FRAMES, "color": 0},
    }
    prompt["report"]["inputs"]["images"] = ["black", 0]
    _, report = saved_report(server, prompt)
    assert "Nobody was found in the result." in report.notes and report.word == "broken"


def test_cancel_ends_it(server):
    prompt = graph()
    prompt["many"] = {"class_type": "RepeatImageBatch", "inputs": {"image": ["report_dance.mp4", 0], "amount": 40}}
    clip = empty(40 * FRAMES, 1, WIDTH, HEIGHT)
    clip.points[:], clip.scores[:] = np.arange(1, 135)[:, None], 0.9
    (server.base_directory / "input" / "report_long.json").write_text(json.dumps(interchange.write(clip)), "utf-8")
    prompt["poses"] = {"class_type": "SteadyDancerPoseLoad", "inputs": {"file": "report_long.json"}}
    prompt["report"]["inputs"]["images"] = ["many", 0]
    with server.events() as events:
        prompt_id = server.queue(prompt)
        end = time.monotonic() + 120
        while not any(node == "report" for node, _ in events.texts):
            assert time.monotonic() < end, "no progress line"
            time.sleep(0.02)
        server.interrupt(prompt_id)
        events.wait_for("execution_interrupted")
    assert server.wait(prompt_id).interrupted
    assert not any("Comparing frames" in line for _, line in events.texts), "it looks while it reads poses"
