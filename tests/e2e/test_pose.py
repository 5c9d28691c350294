"""From a dance video to a pose video through the real server, with nets that really find dots, and with real structure."""

import errno
import json
import shutil
import time
import uuid
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from steadydancer.pose import interchange
from steadydancer.pose.rtmpose import PoseNet
from support import GOLDEN, dots, fixtures, pose_nets
from support.client import Refused
from support.poses import clip, golden_clip, length, walker
from support.video import probe, turn

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


def with_dots_nets(server):
    folder = server.base_directory / "models" / "detection"
    detector, pose = dots.export(folder / "new", step=4)
    detector.rename(folder / DETECTOR)
    pose.rename(folder / POSE_NET)
    return server


@pytest.fixture(scope="module")
def server(comfy_server):
    return with_dots_nets(comfy_server)


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
    assert ("piece", "21 frames of 240×320, 1.3 s at 16 a second, with sound") in events.texts
    lines = [line for node, line in events.texts if node == "estimate"]
    assert any(line.startswith("Finding people: 5 frames") for line in lines), lines
    assert any(line.startswith("Reading poses: 21 frames") for line in lines), lines
    assert any(line == "1 person; somebody in 21 of 21 frames" for line in lines)
    assert any(path.suffix == ".png" for path in result.files)  # the contact sheet


def shown_poses(server, graph: dict, node: str = "estimate") -> list[dict]:
    """What a POSE_KEYPOINT output of the graph holds, by way of Save Pose."""
    graph["keep"] = {
        "class_type": "SteadyDancerPoseSave",
        "inputs": {"keypoints": [node, 0], "filename_prefix": f"pose/{uuid.uuid4().hex}"},
    }
    before = set((server.base_directory / "output").rglob("*.json"))
    server.succeed(graph)
    (path,) = set((server.base_directory / "output").rglob("*.json")) - before
    return json.loads(path.read_text())


def two_frames(server, dance, **inputs) -> list[dict]:
    graph = prompt(dance, frames=2, **inputs)
    return shown_poses(server, {name: graph[name] for name in ("dance", "piece", "estimate")})


def seen(frame: dict, part: str, person: int = 0) -> int:
    """How many points of a part are shown to everybody."""
    return sum(c > 0 for c in frame["people"][person][f"{part}_keypoints_2d"][2::3])


@pytest.fixture(scope="module")
def all_points(server, dance) -> list[dict]:
    return two_frames(server, dance)


def test_everything_is_seen_at_the_pictures_own_size(all_points):
    for frame in all_points:
        assert (frame["canvas_width"], frame["canvas_height"]) == (240, 320) and len(frame["people"]) == 1
        assert seen(frame, "pose") == 18 and seen(frame, "hand_left") == 21 and seen(frame, "face") >= 68


@pytest.mark.parametrize("part", ["hand", "body", "face"])
def test_parts_that_are_not_asked_for(server, dance, part):
    (frame, _) = two_frames(server, dance, **{f"detect_{part}": "no"})
    counts = {
        "hand": seen(frame, "hand_left") + seen(frame, "hand_right"),
        "body": seen(frame, "pose") + seen(frame, "foot"),
        "face": seen(frame, "face") - 2 * (part != "body"),  # the list ends with the body's eyes
    }
    assert {name for name, count in counts.items() if count == 0} == {part}


def test_auto_follows_the_environment(start_comfy, dance, server):
    variables = {"DWPOSE_DETECT_HAND": "false", "DWPOSE_DETECT_FACE": "0", "DWPOSE_DETECT_BODY": "maybe"}
    other = with_dots_nets(start_comfy(variables=variables | {"DWPOSE_RESOLUTION": "480"}))
    shutil.copy(server.base_directory / "input" / dance, other.base_directory / "input" / dance)
    (frame, _) = two_frames(other, dance, detect_body="yes")
    assert (frame["canvas_width"], frame["canvas_height"]) == (480, 640)
    assert seen(frame, "pose") == 18 and seen(frame, "hand_left") == seen(frame, "hand_right") == 0
    (frame, _) = two_frames(other, dance, detect_body="yes", detect_hand="yes", resolution=120)
    assert frame["canvas_height"] == 160 and seen(frame, "hand_left") == 21
    assert "DWPOSE_DETECT_BODY is 'maybe'" in other.run(prompt(dance, frames=2)).error
    other.stop()


def test_the_canvas_has_the_asked_size(server, dance, all_points):
    (frame, _) = two_frames(server, dance, resolution=480)
    assert (frame["canvas_width"], frame["canvas_height"]) == (480, 640)
    x, wanted = (value["people"][0]["pose_keypoints_2d"][0] for value in (frame, all_points[0]))
    assert wanted > 0 and x == pytest.approx(2 * wanted, abs=1e-3)


def test_less_sure_points_are_hidden(server, dance):
    """The dots nets are sure of all; one with random weights, and little of them in its last layers, is not."""
    net = pose_nets.randomised(PoseNet(0.167, 0.375, 288, 384, two_scales=False))
    for layer in (net.head.cls_x, net.head.cls_y):
        layer.weight.mul_(0.1)
    pose_nets.export(net, (1, 3, 384, 288), server.base_directory / "models" / "detection" / "dw-unsure.onnx")

    def scores_and_shown(threshold):
        (frame, _) = two_frames(server, dance, keypoint_threshold=threshold, pose_model="dw-unsure.onnx")
        person = frame["people"][0]
        scores = np.abs(np.reshape(person[interchange.RAW_KEY], (-1, 3))[:18, 2])
        return scores, np.array(person["pose_keypoints_2d"][2::3]) > 0

    scores, _ = scores_and_shown(0.3)
    middle = float(np.round(np.median(scores), 2))
    assert scores.min() < middle < scores.max()
    again, shown = scores_and_shown(middle)
    np.testing.assert_allclose(again, scores, atol=1e-6)
    np.testing.assert_array_equal(shown, scores >= middle)


def test_given_boxes_flip_test_and_batch(server, dance, all_points):
    box = {"x": 20, "y": 10, "width": 200, "height": 300}
    graph = prompt(dance, frames=2, batch_size=1, detector=DETECTOR)
    graph = {name: graph[name] for name in ("dance", "piece", "estimate")}
    graph["boxes"] = {"class_type": "OneBox", "inputs": box}
    graph["estimate"]["inputs"]["bboxes"] = ["boxes", 0]
    with server.events() as events:
        given = shown_poses(server, graph)
    lines = [line for node, line in events.texts if node == "estimate"]
    assert not any("Finding people" in line for line in lines) and any("2 of 2 frames" in line for line in lines)
    flat = [np.reshape(value[0]["people"][0]["hand_left_keypoints_2d"], (21, 3)) for value in (given, all_points)]
    assert np.abs(flat[0] - flat[1])[:, :2].mean() < 5
    twice = two_frames(server, dance, flip_test=True)  # these nets know no mirror image: other points, the same form
    assert len(twice[0]["people"]) == 1 and twice != all_points


def test_a_foreign_file_for_onnxruntime_is_refused_in_a_sentence(server, dance):
    folder = server.base_directory / "models" / "detection"
    (folder / "dw-other.onnx").write_bytes((folder / DETECTOR).read_bytes())
    error = server.run(prompt(dance, frames=1, pose_model="dw-other.onnx")).error
    assert "dw-other.onnx has other inputs or outputs" in error and "Choose the runtime torch" in error


def test_no_picture_at_all(server):
    graph = {"none": {"class_type": "NoImages", "inputs": {}}, "estimate": estimator(["none", 0])}
    graph["draw"] = prompt("x")["draw"]
    graph["see"] = {"class_type": "PreviewImage", "inputs": {"images": ["draw", 0]}}
    assert "Connect at least one picture" in server.run(graph).error


def test_poses_are_kept_and_taken_up_again(server, dance, all_points):
    path = server.base_directory / "output" / "pose" / "kept.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(all_points))
    load = {"class_type": "SteadyDancerPoseLoad", "inputs": {"file": "pose/kept.json [output]"}}
    listed = server.object_info("SteadyDancerPoseLoad")["SteadyDancerPoseLoad"]["input"]["required"]["file"]
    assert "pose/kept.json [output]" in listed[1]["options"]
    assert shown_poses(server, {"load": load}, "load") == all_points
    path.write_text("{")
    error = server.run({"load": load, **drawn_and_seen("load")}).error
    assert "not valid JSON" in error
    path.unlink()
    with pytest.raises(Refused, match="is not there any more"):
        server.run({"load": load, **drawn_and_seen("load")})


def drawn_and_seen(node: str, output: int = 0) -> dict:
    return {
        "draw": {
            "class_type": "SteadyDancerPoseDraw",
            "inputs": {"keypoints": [node, output], "style": "SteadyDancer", "threshold": 0.0},
        },
        "see": {"class_type": "PreviewImage", "inputs": {"images": ["draw", 0]}},
    }


def save_pose(server, name, poses):
    path = server.base_directory / "input" / f"{name}.json"
    path.write_text(json.dumps(interchange.write(poses)), "utf-8")


def test_the_authors_alignment_and_drawing_through_the_nodes(server):
    """What the two nodes draw of the golden dance is the authors' canvas, averaged to half its size."""
    golden = np.load(GOLDEN / "pose_align.npz")
    width, height = (int(v) // 2 for v in golden["size.canvas_wh"])
    graph = {}
    for name, size in (("drive", "size.video_wh"), ("ref", "size.ref_wh")):
        save_pose(server, name, golden_clip(golden, name, size))
        graph[name] = {"class_type": "SteadyDancerPoseLoad", "inputs": {"file": f"{name}.json"}}
    graph["align"] = {
        "class_type": "SteadyDancerPoseAlign",
        "inputs": {"driving": ["drive", 0], "reference": ["ref", 0], "mode": "official", "seed": 1}
        | {"width": width, "height": height, "measured_frames": 5},
    }
    graph["draw"] = drawn_and_seen("align")["draw"]
    ours = pictures_of(server, graph, "draw")
    for picture, canvas in zip(ours, golden["canvas.saved"], strict=False):
        theirs = canvas.reshape(height, 2, width, 2, 3).mean((1, 3))
        drawn = picture.any(-1) | (theirs > 0).any(-1)
        assert (np.abs(picture - theirs) <= 1).all(-1)[drawn].mean() >= 0.95


def test_a_video_that_ends_too_early_says_so(server, dance):
    with server.events() as events:
        graph = prompt(dance, frames=81)
        assert len(pictures_of(server, {name: graph[name] for name in ("dance", "piece")}, "piece")) == 32
    assert any(
        line.endswith("the video ends here, 81 were asked for") for node, line in events.texts if node == "piece"
    )


def test_two_people_who_cross_keep_their_bodies(server):
    """From a file without ids, people in changing order: tracked, then each on the body of one in the picture."""
    dance = clip(walker(40, x=150, speed=12), walker(40, height=420, x=650, speed=-12, phase=1))
    order = [[0, 1] if frame % 3 else [1, 0] for frame in range(40)]
    rows = np.arange(40)[:, None]
    shuffled = replace(dance, points=dance.points[rows, order], scores=dance.scores[rows, order])
    reference = clip(walker(1, height=500, x=250), walker(1, height=500, x=600, **{"lower arm": 0.25}))
    for name, poses in (("crossing", shuffled), ("pair", reference)):
        save_pose(server, name, poses)
    graph = {
        "dance": {"class_type": "SteadyDancerPoseLoad", "inputs": {"file": "crossing.json"}},
        "pair": {"class_type": "SteadyDancerPoseLoad", "inputs": {"file": "pair.json"}},
        "track": {
            "class_type": "SteadyDancerPoseTrack",
            "inputs": {"keypoints": ["dance", 0], "max_people": 2, "fill_gaps": 5, "smoothing": 0},
        },
        "align": {
            "class_type": "SteadyDancerPoseAlign",
            "inputs": {"driving": ["track", 0], "reference": ["pair", 0], "width": 800, "height": 1008}
            | {"mode": "robust", "measured_frames": 5, "seed": 1},
        },
    }
    poses = interchange.read(shown_poses(server, graph, "align"))
    assert poses.points.shape[:2] == (40, 2) and np.isfinite(poses.points).all()
    for person, x in ((0, 250), (1, 600)):
        (wanted,) = length(reference.resized(800, 1008), 3, 4, person)
        who = int(np.argmin(np.abs(poses.points[0, :, 1, 0] - x)))
        np.testing.assert_allclose(length(poses, 3, 4, who), wanted, rtol=0.03)
        step = np.linalg.norm(np.diff(poses.points[:, who, 1], axis=0), axis=-1)
        assert step.max() < 30  # nobody jumps to the other's place


def test_one_frame(server, dance):
    assert probe(saved(server.succeed(prompt(dance, frames=1)))).frames == 1


def test_nobody_is_drawn_black_and_cannot_be_aligned(server):
    write_video(server.base_directory / "input" / "black.mp4", [np.zeros((64, 48, 3))] * 20)
    graph = prompt("black.mp4", frames=5)
    with server.events() as events:
        assert probe(saved(server.succeed(graph))).pictures.max() < 20
    assert "There is nobody in these poses: the pictures are black." in str(events)
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
    said = server.run(graph).error
    assert "No person was found in the dance video" in said and "person_threshold" in said


@pytest.mark.parametrize("mode", ["robust", "official"])
def test_half_body_reference_through_the_nodes(server, dance, mode):
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
            "mode": mode,
            "measured_frames": 5,
            "seed": 1,
        },
    }
    for name, output in (("draw", 0), ("draw_negative", 1)):
        graph[name] = {
            "class_type": "SteadyDancerPoseDraw",
            "inputs": {"keypoints": ["align", output], "style": "SteadyDancer", "threshold": 0.0},
        }
    graph["align"]["inputs"]["image"] = ["picture", 0]
    graph["see"] = {"class_type": "PreviewImage", "inputs": {"images": ["draw_negative", 0]}}
    with server.events() as events:
        result = server.succeed(graph)
    video = probe(saved(result))
    assert (video.width, video.height) == (128, 192) and video.pictures.std() > 1
    assert dict(events.texts)["align"] == "5 frames fit the picture"
    (sheet,) = result.outputs["align"]["images"]
    shown = np.asarray(Image.open(server.base_directory / "temp" / sheet["filename"]))
    assert shown.shape[:2] == (320, 4 * 240) and (shown.reshape(-1, 3).max(0) > 100).all(), "poses over the picture"


def test_one_node_does_what_the_four_do(server, dance):
    graph = prompt(dance, frames=5)
    batch = {"image": ["piece", 0], "batch_index": 0, "length": 1}
    graph["picture"] = {"class_type": "ImageFromBatch", "inputs": batch}
    graph["estimate"] = estimator(["piece", 0], missing_frames="interpolate")
    graph["reference"] = estimator(["picture", 0], missing_frames="interpolate")
    graph["track"] = {
        "class_type": "SteadyDancerPoseTrack",
        "inputs": {"keypoints": ["estimate", 0], "max_people": 1, "fill_gaps": 5, "smoothing": 0},
    }
    align = {"driving": ["track", 0], "reference": ["reference", 0], "width": 240, "height": 320, "mode": "robust"}
    graph["align"] = {"class_type": "SteadyDancerPoseAlign", "inputs": {**align, "measured_frames": 5, "seed": 3}}
    whole = {"dance": ["piece", 0], "image": ["picture", 0], "max_people": 1, "seed": 3, "smoothing": 0}
    nets = {name: graph["estimate"]["inputs"][name] for name in ("detector", "pose_model", "runtime")}
    graph["one"] = {"class_type": "SteadyDancerDancePoses", "inputs": whole | nets}
    del graph["video"], graph["save"]
    for name, kept in (("draw", ["align", 0]), ("changed", ["align", 1])):
        inputs = {"keypoints": kept, "style": "SteadyDancer", "threshold": 0.0}
        graph[name] = {"class_type": "SteadyDancerPoseDraw", "inputs": inputs}
    four = [pictures_of(server, graph, name) for name in ("draw", "changed")]
    one = [pictures_of(server, graph, "one", output) for output in (0, 1)]
    for these, those in zip(four, one, strict=True):
        assert these.max() > 100 and np.array_equal(these, those)


def pictures_of(server, graph: dict, node: str, output: int = 0) -> np.ndarray:
    """What an IMAGE output of the graph holds, [n, height, width, 3] uint8."""
    graph["see"] = {"class_type": "PreviewImage", "inputs": {"images": [node, output]}}
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


def test_a_piece_of_a_trimmed_video_stays_inside(server, dance):
    graph = prompt(dance, frames=0, start=0.25)
    graph["trim"] = {"class_type": "Video Slice", "inputs": {"video": ["dance", 0], "start_time": 0.5}}
    graph["trim"]["inputs"] |= {"duration": 1.0, "strict_duration": False}
    graph["piece"]["inputs"]["video"] = ["trim", 0]
    graph = {name: graph[name] for name in ("dance", "trim", "piece")}
    with server.events() as events:
        assert len(pictures_of(server, graph, "piece")) == 12
    assert any("12 frames of 240×320" in line for node, line in events.texts if node == "piece")
    graph["piece"]["inputs"]["start"] = 1.0  # the file goes on, the piece does not
    error = server.run(graph | {"see": {"class_type": "PreviewImage", "inputs": {"images": ["piece", 0]}}}).error
    assert "1.0 s long, so nothing is left after 1.0 s" in error


def test_a_video_made_of_pictures(server, dance):
    """Core's Create Video gives no file, but frames in memory."""
    graph = prompt(dance, frames=8)
    graph["made"] = {"class_type": "CreateVideo", "inputs": {"images": ["piece", 0], "fps": 16.0}}
    graph["again"] = {"class_type": "SteadyDancerDrivingVideo", "inputs": graph["piece"]["inputs"] | {"frames": 0}}
    graph["again"]["inputs"] |= {"video": ["made", 0]}
    graph = {name: graph[name] for name in ("dance", "piece", "made", "again")}
    assert pictures_of(server, graph, "again").shape == (8, 320, 240, 3)


@pytest.mark.parametrize("runtime", ["onnxruntime on the CPU", "torch"])
def test_cancel_ends_it_in_the_middle(server, runtime):
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
        server.interrupt(prompt_id)
        events.wait_for("execution_interrupted")
    assert server.wait(prompt_id).interrupted
    assert not any("Reading poses: 400 frames" in line for _, line in events.texts), "it looks while it works"


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
    lines = [line for node, line in events.texts if node == "estimate"]
    assert any(line.startswith("Finding people: 17 frames in ") for line in lines), lines
    assert any(line.startswith("Reading poses: 81 frames in ") for line in lines), lines


def test_a_file_that_is_being_written_is_no_choice(comfyui):
    import folder_paths
    from steadydancer.nodes import pose_file
    from steadydancer.services.save_name import free_file, hidden

    folder = Path(folder_paths.get_output_directory(), pose_file.FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    written = free_file(folder, "half", 1, ".json")
    assert not [name for name in pose_file._files() if "half" in name]
    hidden(written).replace(written)
    assert [name for name in pose_file._files() if "half" in name]
    written.unlink()


def test_a_full_disk_leaves_no_half_file_of_poses(comfyui, monkeypatch):
    import folder_paths
    from steadydancer.nodes.pose_file import SteadyDancerPoseSave

    def half(path, text, encoding):
        with open(path, "w", encoding=encoding) as file:
            file.write(text[: len(text) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(ValueError, match="No space left on device"):
        SteadyDancerPoseSave.execute(interchange.write(clip(walker(2))), "poses/full")
    assert not list(Path(folder_paths.get_output_directory(), "poses").glob("*full*"))
