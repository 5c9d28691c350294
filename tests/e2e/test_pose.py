"""From a dance video to a pose video through the real server, with nets that really find dots, and with real structure."""

import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from support import dots, fixtures
from support.video import probe, turn
from support.workflows import PROMPTS, load, model_files, with_tiny_values

DETECTOR, POSE_NET = "yolox_dots.onnx", "dw-dots.onnx"


def write_video(path: Path, pictures, rate: int = 30, seconds_of_sound: float = 0.0, times: list | None = None) -> None:
    """`times`: when each picture is shown, in milliseconds, for a video without a steady rate."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "4"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv444p"
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        audio = container.add_stream("aac", rate=48000) if seconds_of_sound else None
        for i, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray((picture * 255).astype(np.uint8), format="rgb24")
            if times:
                frame.pts, frame.time_base = times[i], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if audio:
            wave = np.sin(np.arange(int(48000 * seconds_of_sound)) * 0.06).astype(np.float32)
            for at in range(0, len(wave), 1024):
                part = av.AudioFrame.from_ndarray(wave[None, at : at + 1024], format="fltp", layout="mono")
                part.sample_rate, part.pts = 48000, at
                container.mux(audio.encode(part))
            container.mux(audio.encode())


@pytest.fixture(scope="module")
def server(comfy):
    folder = comfy.base_directory / "models" / "detection"
    detector, pose = dots.export(folder / "new", step=4)
    detector.rename(folder / DETECTOR)
    pose.rename(folder / POSE_NET)
    return comfy


def estimator(images: list, **inputs) -> dict:
    defaults = {
        "image": images,
        "max_people": 1,
        "detect_every": 5,
        "person_threshold": 0.5,
        "keypoint_threshold": 0.3,
        "detect_body": "auto",
        "detect_hand": "auto",
        "detect_face": "auto",
        "resolution": 0,
        "flip_test": False,
        "no_person": "empty",
        "missing_frames": "empty",
        "batch_size": 0,
        "detector": DETECTOR,
        "pose_model": POSE_NET,
        "runtime": "onnxruntime on the CPU",
    }
    return {"class_type": "SteadyDancerPoseEstimator", "inputs": defaults | inputs}


def prompt(file: str, frames: int = 81, start: float = 0.0, fps: str = "16 (the model's)", **estimate) -> dict:
    return {
        "dance": {"class_type": "LoadVideo", "inputs": {"file": file}},
        "piece": {
            "class_type": "SteadyDancerDrivingVideo",
            "inputs": {"video": ["dance", 0], "start": start, "frames": frames, "fps": fps, "longest_side": 1280},
        },
        "estimate": estimator(["piece", 0], **estimate),
        "draw": {
            "class_type": "SteadyDancerPoseDraw",
            "inputs": {"keypoints": ["estimate", 0], "style": "SteadyDancer", "threshold": 0.0},
        },
        "video": {
            "class_type": "CreateVideo",
            "inputs": {"images": ["draw", 0], "audio": ["piece", 1], "fps": ["piece", 2]},
        },
        "save": {
            "class_type": "SaveVideo",
            "inputs": {"video": ["video", 0], "filename_prefix": "video/pose", "format": "auto", "codec": "auto"},
        },
    }


def saved(result) -> Path:
    return next(path for path in result.files if path.suffix == ".mp4")


def sound_seconds(path: Path) -> float:
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        return sum(frame.samples for frame in container.decode(stream)) / stream.rate


@pytest.fixture(scope="module")
def dance(server) -> str:
    """Two seconds at 30 frames a second of the dots wandering, with sound."""
    width, height = 240, 320
    pictures = [dots.picture(dots.person(width, height) + [f * 0.5, 0], width, height, 3.5, False) for f in range(60)]
    write_video(server.base_directory / "input" / "dots.mp4", pictures, seconds_of_sound=2.0)
    return "dots.mp4"


def test_a_dance_becomes_a_pose_video_with_its_sound(server, dance):
    with server.events() as events:
        result = server.succeed(prompt(dance, frames=21, start=0.5))
    video = probe(saved(result))
    assert (video.width, video.height, video.frames, video.rate) == (240, 320, 21, 16)
    assert (video.pictures.max((1, 2, 3)) > 80).all()
    assert sound_seconds(saved(result)) == pytest.approx(21 / 16, abs=0.05)
    lines = [line for node, line in events.texts if node == "estimate"]
    assert any(line.startswith("26 of 26") for line in lines), lines  # 5 looks for people, 21 crops
    assert any("somebody in 21 of 21 frames" in line for line in lines)
    assert any(path.suffix == ".png" for path in result.files)  # the contact sheet


def test_one_frame(server, dance):
    assert probe(saved(server.succeed(prompt(dance, frames=1)))).frames == 1


def test_nobody_is_drawn_black_and_cannot_be_aligned(server):
    write_video(server.base_directory / "input" / "black.mp4", [np.zeros((64, 48, 3))] * 20)
    graph = prompt("black.mp4", frames=5)
    assert probe(saved(server.succeed(graph))).pictures.max() < 20
    graph["align"] = {
        "class_type": "SteadyDancerPoseAlign",
        "inputs": {
            "driving": ["estimate", 0],
            "reference": ["estimate", 0],
            "width": 64,
            "height": 96,
            "mode": "robust",
            "measured_frames": 5,
            "seed": 1,
        },
    }
    graph["draw"]["inputs"]["keypoints"] = ["align", 0]
    assert "No person was found in the dance video" in server.run(graph).error


def test_half_body_reference_through_the_nodes(server, dance):
    graph = prompt(dance, frames=5)
    graph["picture"] = {
        "class_type": "ImageFromBatch",
        "inputs": {"image": ["piece", 0], "batch_index": 0, "length": 1},
    }
    graph["half"] = {
        "class_type": "ImageCrop",
        "inputs": {"image": ["picture", 0], "x": 0, "y": 0, "width": 240, "height": 170},
    }
    graph["reference"] = estimator(["half", 0])
    graph["align"] = {
        "class_type": "SteadyDancerPoseAlign",
        "inputs": {
            "driving": ["estimate", 0],
            "reference": ["reference", 0],
            "width": 128,
            "height": 192,
            "mode": "robust",
            "measured_frames": 5,
            "seed": 1,
        },
    }
    for name, output in (("draw", 0), ("draw_negative", 1)):
        graph[name] = {
            "class_type": "SteadyDancerPoseDraw",
            "inputs": {"keypoints": ["align", output], "style": "SteadyDancer", "threshold": 0.0},
        }
    graph["see"] = {"class_type": "PreviewImage", "inputs": {"images": ["draw_negative", 0]}}
    result = server.succeed(graph)
    video = probe(saved(result))
    assert (video.width, video.height) == (128, 192) and video.pictures.std() > 1


def pictures_of(server, graph: dict, node: str) -> np.ndarray:
    """What an IMAGE output of the graph holds, [n, height, width, 3] uint8."""
    graph["see"] = {"class_type": "PreviewImage", "inputs": {"images": [node, 0]}}
    result = server.succeed(graph)
    names = [item["filename"] for item in result.outputs["see"]["images"]]
    return np.stack([np.asarray(Image.open(server.base_directory / "temp" / name).convert("RGB")) for name in names])


def drawn_picture(server, name: str, channels: str | None = None, **inputs) -> np.ndarray:
    graph = {
        "picture": {"class_type": "LoadImage", "inputs": {"image": name}},
        "estimate": estimator(["changed" if channels else "picture", 0], **inputs),
        "draw": {
            "class_type": "SteadyDancerPoseDraw",
            "inputs": {"keypoints": ["estimate", 0], "style": "SteadyDancer", "threshold": 0.0},
        },
    }
    if channels:
        graph["changed"] = {"class_type": "WithChannels", "inputs": {"image": ["picture", 0], "channels": channels}}
    return pictures_of(server, graph, "draw")[0]


def save_dots(server, name: str, width: int, height: int, radius: float) -> np.ndarray:
    truth = dots.person(width, height)
    picture = (dots.picture(truth, width, height, radius, False) * 255).astype(np.uint8)
    Image.fromarray(picture).save(server.base_directory / "input" / name, compress_level=1)
    return truth


def test_grey_and_transparent_pictures(server):
    """One channel is treated as three equal ones; transparency changes nothing."""
    save_dots(server, "dots.png", 240, 320, 3.5)
    plain, alpha, grey, one = (drawn_picture(server, "dots.png", channels) for channels in (None, "4", "grey 3", "1"))
    assert plain.max() > 80 and grey.max() > 80
    np.testing.assert_array_equal(alpha, plain)
    np.testing.assert_array_equal(one, grey)


def test_a_4k_picture(server):
    truth = save_dots(server, "4k.png", 3840, 2160, 30)
    drawn = drawn_picture(server, "4k.png")
    assert drawn.shape == (2160, 3840, 3)
    rows, columns = np.nonzero(drawn.max(-1) > 60)
    low, high = truth.min(0), truth.max(0)
    assert low[0] - 60 < columns.min() and columns.max() < high[0] + 60
    assert low[1] - 60 < rows.min() and rows.max() < high[1] + 60
    assert np.ptp(columns) > 800 and np.ptp(rows) > 800


def test_phone_video_without_a_steady_rate(server):
    """Portrait by the header's matrix alone, and frames that come when they come."""
    times, width, height = [0, 500, 520, 540, 1000, 1500, 1531, 1800], 96, 64
    pictures = [np.full((height, width, 3), 0.1 + 0.1 * i, np.float32) for i in range(len(times))]
    for picture in pictures:
        picture[:16, :24] = 1  # top left; at the top right after a quarter turn clockwise
    path = server.base_directory / "input" / "phone.mp4"
    write_video(path, pictures, times=times)
    turn(path, 90)
    graph = prompt("phone.mp4", frames=25)
    piece = pictures_of(server, {"dance": graph["dance"], "piece": graph["piece"]}, "piece")
    assert piece.shape[1:] == (96, 64, 3)
    assert piece[0, 8, -8].min() > 240 and piece[0, 8, 8].max() < 60
    shown = np.rint((piece[:, 60, 20].mean(-1) / 255 - 0.1) * 10).astype(int)
    assert shown.tolist() == [0] * 8 + [1] + [3] * 7 + [4] * 8 + [5]


@pytest.mark.parametrize("runtime", ["onnxruntime on the CPU", "torch"])
def test_cancel_within_a_second(server, runtime):
    width, height = 240, 320
    pictures = [dots.picture(dots.person(width, height), width, height, 3.5, False)] * 400
    write_video(server.base_directory / "input" / "long.mp4", pictures, rate=16)
    nets = {"runtime": runtime}
    if runtime == "torch":
        server.provide_models("detection/yolox_l.onnx", "detection/dw-ll_ucoco_384.onnx")
        nets |= {"detector": "auto", "pose_model": "auto"}
    with server.events() as events:
        prompt_id = server.queue(prompt("long.mp4", frames=400, **nets))
        wait_for_text(events, "estimate")
        start = time.monotonic()
        server.interrupt(prompt_id)
        events.wait_for("execution_interrupted")
    took = next(at for at, name, _ in events if name == "execution_interrupted") - start
    print(f"{runtime}: {took:.2f} s from the interrupt to the event")
    assert server.wait(prompt_id).interrupted and took <= 1


def wait_for_text(events, node: str, timeout: float = 120) -> None:
    end = time.monotonic() + timeout
    while not any(n == node for n, _ in events.texts):
        assert time.monotonic() < end, "no progress line"
        time.sleep(0.02)


def test_more_than_memory_holds_is_refused_in_a_sentence(server):
    """A minute of 1080p at 60 frames a second, all of it: 90 GB as images."""
    path = server.base_directory / "input" / "minute.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=60, options={"preset": "ultrafast", "g": "600"})
        stream.width, stream.height, stream.pix_fmt = 1920, 1080, "yuv420p"
        frame = av.VideoFrame(1920, 1080, "yuv420p")
        for i in range(3600):
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    graph = prompt("minute.mp4", frames=0, fps="the video's own")
    graph["piece"]["inputs"]["longest_side"] = 0
    error = server.run(graph).error
    assert "3600 frames of 1920×1080 need 89.6 GB of memory" in error and "Take at most" in error


def test_a_corrupt_file_is_refused_in_a_sentence(server):
    (server.base_directory / "input" / "broken.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(5000))
    error = server.run(prompt("broken.mp4")).error
    assert "cannot be opened" in error and "Traceback" not in error


def test_published_structure_in_torch(server, dance):
    server.provide_models("detection/yolox_l.onnx", "detection/dw-ll_ucoco_384.onnx")
    result = server.succeed(prompt(dance, frames=6, detector="auto", pose_model="auto", runtime="torch"))
    assert probe(saved(result)).frames == 6


def test_the_shipped_extraction(server):
    shipped = load(next(file for file in PROMPTS if file.stem == "dwpose_extract"))
    server.provide_models(*model_files(shipped))
    video = probe(saved(server.succeed(with_tiny_values(shipped), timeout=600)))
    assert (video.frames, video.rate, video.width, video.height) == (17, 16, 576, 1024)


@pytest.mark.skipif(fixtures() is None, reason="the example pair of the authors is not here")
def test_the_authors_dance(server):
    source = fixtures() / "dance01" / "driving_video.mp4"
    (server.base_directory / "input" / "authors.mp4").write_bytes(source.read_bytes())
    server.provide_models("detection/yolox_l.onnx", "detection/dw-ll_ucoco_384.onnx")
    inputs = {"detector": "auto", "pose_model": "auto"}  # onnxruntime, for time
    with server.events() as events:
        result = server.succeed(prompt("authors.mp4", **inputs), timeout=900)
    video = probe(saved(result))
    assert (video.frames, video.rate, video.width, video.height) == (81, 16, 720, 1280)
    assert sound_seconds(saved(result)) == pytest.approx(81 / 16, abs=0.05)
    assert any(line.startswith("98 of 98") for node, line in events.texts if node == "estimate")  # 17 looks, 81 crops
