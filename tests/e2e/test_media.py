"""Odd sound, odd files and faults in the last node, through a real server: what was rendered is on the disk, and said."""

import json
import os
import re
import signal
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from steadydancer.base.cancel import Cancelled
from steadydancer.media import encode
from steadydancer.media.read_video import read_clip
from support import ROOT
from support.odd_video import in_film_order, make, tone, which
from support.playlists import asked, playlists
from support.video import probe
from support.workflows import load, model_files, with_tiny_text_encoder, with_tiny_values

TEMPLATE = ROOT / "example_workflows" / "api" / "steadydancer_from_video.json"
SAVE = {
    "filename_prefix": "media/clip", "profile": "auto", "crf": 19, "after_upload": "keep the local file", "share_safe": False,
    "key": "{prefix}/{date}/{name}", "overwrite": False, "link_minutes": 0, "day_facts": False,
}  # fmt: skip


def broken(wave: np.ndarray) -> np.ndarray:
    wave[:, 9000:9010] = np.nan
    return wave


SOUNDS = {
    "2.1": lambda **dance: make(tone(3, 48000, 48000), layout="2.1", **dance),
    "quad": lambda **dance: make(tone(4, 48000, 48000), layout="quad", **dance),
    "5.0": lambda **dance: make(tone(5, 48000, 48000), layout="5.0", **dance),
    "7.1": lambda **dance: make(tone(8, 48128, 48000), layout="7.1", sound_codec="aac", container="mp4", **dance),
    "sixteen channels": lambda **dance: make(tone(16, 48000, 48000), layout="16 channels", **dance),
    "40 kHz": lambda **dance: make(tone(2, 40000, 40000), 40000, **dance),
    "192 kHz": lambda **dance: make(tone(1, 192000, 192000), 192000, "mono", **dance),
    "no numbers": lambda **dance: make(broken(tone(2, 48000, 48000)), **dance),
    "film order": lambda **dance: in_film_order(make(tone(6, 48000, 48000), layout="5.1", **dance)),
}
NO_SOUNDS = {
    "200 MHz": (lambda **dance: make(tone(2, 4096, 48000), 200_000_000, **dance), "its header claims 200,000,000"),
    "zero-length": (lambda **dance: make(np.zeros((2, 0), np.float32), **dance), "without sound"),
}


def put(server, name: str, file) -> str:
    (server.base_directory / "input" / name).write_bytes(file.getvalue())
    return name


def save_node(video: list, **inputs) -> dict:
    return {"class_type": "SteadyDancerR2SaveVideo", "inputs": {"video": video, **SAVE, **inputs}}


def through(file: str) -> dict:
    """The way of a dance's sound: Driving Video → Create Video → our save node, and ComfyUI's own."""
    piece = {"video": ["1", 0], "start": 0.0, "frames": 17, "fps": "16 (the model's)", "longest_side": 1280}
    return {
        "1": {"class_type": "LoadVideo", "inputs": {"file": file}},
        "2": {"class_type": "SteadyDancerDrivingVideo", "inputs": piece},
        "3": {"class_type": "CreateVideo", "inputs": {"images": ["2", 0], "audio": ["2", 1], "fps": ["2", 2]}},
        "4": save_node(["3", 0]),
        "5": {
            "class_type": "SaveVideo",
            "inputs": {"video": ["3", 0], "filename_prefix": "core/clip", "format": "auto", "codec": "auto"},
        },
    }


def frames_with(audio: dict, **sizes) -> dict:
    empty = {"width": 64, "height": 64, "batch_size": 16, "color": 0x3366CC} | sizes
    return {
        "1": {"class_type": "EmptyImage", "inputs": empty},
        "2": audio,
        "3": {"class_type": "CreateVideo", "inputs": {"images": ["1", 0], "audio": ["2", 0], "fps": 16.0}},
        "4": save_node(["3", 0]),
    }


def said(result) -> str:
    return result.outputs["4"]["text"][0]


def saved(result) -> list:
    return [path for path in result.files if path.suffix == ".mp4"]


@pytest.mark.parametrize("name", SOUNDS)
def test_odd_sound_of_a_dance_reaches_the_video(comfy_server, name):
    with comfy_server.events() as events:
        result = comfy_server.succeed(through(put(comfy_server, f"{name}.mov", SOUNDS[name]())))
    assert len(saved(result)) == 2
    for path in saved(result):
        video = probe(path)
        assert (video.frames, video.has_audio) == (16, True)
    assert any("made" in text or "silenced" in text for _, text in events.texts)


@pytest.mark.parametrize("name", NO_SOUNDS)
def test_sound_that_cannot_be_had_costs_nothing_else(comfy_server, name):
    make_video, why = NO_SOUNDS[name]
    with comfy_server.events() as events:
        result = comfy_server.succeed(through(put(comfy_server, f"{name}.mov", make_video())))
    assert [(probe(path).frames, probe(path).has_audio) for path in saved(result)] == [(16, False)] * 2
    assert any(why in text for _, text in events.texts)


@pytest.fixture(scope="module")
def dancer():
    """The example's dance, 17 frames [height, width, 3] uint8."""
    example = ROOT / "example_workflows" / "inputs" / "steadydancer_example_dance.mp4"
    return (read_clip(str(example), count=17, fps=16, longest_side=320).frames * 255).astype(np.uint8)


def shipped(comfy_server) -> tuple[dict, dict]:
    """The template's prompt at a size for a CPU, and its Driving Video; the weights are there."""
    prompt = with_tiny_values(with_tiny_text_encoder(load(TEMPLATE)))
    comfy_server.provide_models(*model_files(load(TEMPLATE)))
    return prompt, next(node for node in prompt.values() if node["class_type"] == "SteadyDancerDrivingVideo")


@pytest.mark.parametrize("name", ["7.1", "film order"])
def test_the_shipped_template_with_odd_sound(comfy_server, dancer, name):
    """An hour's sampling ends in a video, whatever sound the dance has."""
    prompt, driving = shipped(comfy_server)
    file = SOUNDS[name](frames=17, size=(dancer.shape[2], dancer.shape[1]), pictures=dancer)
    prompt[driving["inputs"]["video"][0]]["inputs"]["file"] = put(comfy_server, f"dance {name}.mov", file)
    (video,) = saved(comfy_server.succeed(prompt, timeout=600))
    assert (probe(video).frames, probe(video).has_audio) == (17, True)


@pytest.mark.parametrize("name", [*SOUNDS, *NO_SOUNDS])
def test_the_end_of_the_shipped_template_with_every_odd_sound(comfy_server, name):
    """Sampled once, with the dance that is shipped; the sound is read from another one, by a Driving Video like the first."""
    prompt, driving = shipped(comfy_server)
    make_video = SOUNDS.get(name) or NO_SOUNDS[name][0]
    prompt["other"] = {
        "class_type": "LoadVideo",
        "inputs": {"file": put(comfy_server, f"other {name}.mov", make_video())},
    }
    prompt["heard"] = driving | {"inputs": driving["inputs"] | {"video": ["other", 0]}}
    (create,) = (node for node in prompt.values() if node["class_type"] == "CreateVideo")
    create["inputs"]["audio"][0] = "heard"
    (video,) = saved(comfy_server.succeed(prompt, timeout=600))
    assert (probe(video).frames, probe(video).has_audio) == (17, name in SOUNDS)


AUDIO_KEPT = {
    "three channels",
    "ten channels",
    "40 kHz",
    "no numbers",
    "huge numbers",
    "three at once",
    "half precision",
    "one row",
}
AUDIO_LOST = {
    "four dimensions": "it does not consist of channels and samples", "a hundred channels": "its header claims 100 channels", "200 MHz": "its header claims 200,000,000 samples", "no rate": "its header claims 0 samples",
    "empty": "it is empty", "none at all": "it could not be read", "a list": "it could not be read",
}  # fmt: skip


@pytest.mark.parametrize("kind", [*AUDIO_KEPT, *AUDIO_LOST])
def test_sound_of_other_nodes_never_costs_the_video(comfy_server, kind):
    result = comfy_server.succeed(frames_with({"class_type": "OddAudio", "inputs": {"kind": kind}}))
    (path,) = saved(result)
    assert (probe(path).frames, probe(path).has_audio) == (16, kind in AUDIO_KEPT)
    assert (
        f"without sound: {AUDIO_LOST[kind]}" in said(result)
        if kind in AUDIO_LOST
        else "without sound" not in said(result)
    )
    assert json.loads(encode.video_tags(path)["prompt"])


FILES = {
    "40 kHz": lambda: make(tone(2, 40000, 40000), 40000),
    "no numbers": lambda: make(broken(tone(2, 48000, 48000)), container="matroska"),
    "sixteen channels": lambda: make(tone(16, 48000, 48000), layout="16 channels", codec="mpeg4"),
    "7.1": lambda: make(tone(8, 48128, 48000), layout="7.1", sound_codec="aac", codec="mpeg4"),
    "200 MHz": lambda: make(tone(2, 4096, 48000), 200_000_000),
    "film order": lambda: in_film_order(make(tone(6, 48000, 48000), layout="5.1")),
    "odd size": lambda: make(container="matroska", codec="ffv1", size=(65, 49)),
    "broad pixels": lambda: make(
        container="matroska", size=(64, 48), pixel=Fraction(2), wave=tone(2, 40000, 40000), rate=40000
    ),
}


@pytest.mark.parametrize("memory", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_a_video_file_with_odd_sound_is_saved(comfy_server, name, memory):
    prompt = {
        "1": {"class_type": "LoadVideo", "inputs": {"file": put(comfy_server, f"file {name}.mkv", FILES[name]())}},
        "4": save_node(["1", 0]),
    }
    if memory:
        prompt["2"] = {"class_type": "VideoInMemory", "inputs": {"video": ["1", 0]}}
        prompt["4"] = save_node(["2", 0])
    result = comfy_server.succeed(prompt)
    (path,) = saved(result)
    video = probe(path)
    assert video.frames == 16 and video.has_audio == (name not in ("200 MHz", "odd size"))
    assert "without sound: its header claims" in said(result) if name == "200 MHz" else True
    assert not list(path.parent.glob(".*"))


@pytest.mark.parametrize("trim", [0.0, -1.0])
@pytest.mark.parametrize("memory", [False, True])
def test_a_playlist_makes_the_server_ask_nobody(comfy_server, tmp_path, memory, trim):
    """Through the save node and Driving Video, from a file and from memory, also where ComfyUI would look for its length."""
    with asked() as (address, paths):
        for name, data in playlists(address).items():
            (comfy_server.base_directory / "input" / name).write_bytes(data)
            prompt = through(name)
            del prompt["5"], prompt["3"]
            source = "1"
            if memory or trim:
                prompt["0"] = {
                    "class_type": "VideoInMemory",
                    "inputs": {"video": ["1", 0], "trim": trim, "memory": memory},
                }
                source = "0"
            prompt["2"]["inputs"]["video"] = [source, 0]
            prompt["6"] = {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}}
            prompt["4"] = save_node([source, 0])
            for node in ("6", "4"):
                result = comfy_server.run(
                    {key: value for key, value in prompt.items() if key not in {"6", "4"} - {node}}, timeout=20
                )
                assert "Playlists are not opened" in result.error, (name, node)
        assert not paths


def test_cancel_ends_the_encoding_of_a_file(comfy_server):
    """A still picture in 4K: little to read, and long to encode."""
    still = [np.full((2160, 3840, 3), 90, np.uint8)] * 400
    name = put(
        comfy_server,
        "still.mkv",
        make(container="matroska", frames=400, size=(3840, 2160), pictures=still, options={"preset": "ultrafast"}),
    )
    folder = comfy_server.base_directory / "output" / "still"
    prompt_id = comfy_server.queue(
        {
            "1": {"class_type": "LoadVideo", "inputs": {"file": name}},
            "4": save_node(["1", 0], filename_prefix="still/clip"),
        }
    )
    end = time.monotonic() + 60
    while not list(folder.glob(".clip*")) and time.monotonic() < end:
        time.sleep(0.02)
    comfy_server.interrupt()
    assert comfy_server.wait(prompt_id, timeout=60).interrupted
    assert not list(folder.iterdir())


def test_frames_that_no_encoder_takes_are_there_as_pictures(comfy_server):
    """Higher than H.264 can be, and than ComfyUI's nodes make a picture in one step."""
    graph = frames_with(
        {"class_type": "OddAudio", "inputs": {"kind": "three channels"}}, width=16, height=16384, batch_size=3
    )
    border = {"image": ["1", 0], "left": 0, "top": 0, "right": 0, "bottom": 16, "feathering": 0}
    graph["6"] = {"class_type": "ImagePadForOutpaint", "inputs": border}
    graph["3"]["inputs"]["images"] = ["6", 0]
    result = comfy_server.run(graph)
    assert "could not be encoded" in result.error and "its 3 frames are pictures in media/clip_" in result.error
    folder = comfy_server.base_directory / "output" / "media"
    (pictures,) = folder.glob("*frames")
    assert sorted(path.name for path in pictures.iterdir()) == ["00001.png", "00002.png", "00003.png", "sound.wav"]
    assert encode.image_tags(pictures / "00001.png")["prompt"] and not list(folder.glob(".*"))


def test_a_file_where_the_folder_should_be(comfy_server, tmp_path):
    (comfy_server.base_directory / "output").mkdir(exist_ok=True)
    (comfy_server.base_directory / "output" / "taken").write_text("a file")
    graph = frames_with({"class_type": "OddAudio", "inputs": {"kind": "one row"}}, batch_size=3)
    graph["4"]["inputs"]["filename_prefix"] = "taken/clip"
    error = comfy_server.run(graph).error
    (folder,) = re.findall(r"its 3 frames are pictures in (\S+)\. Make a video", error)
    assert len(list(Path(folder).glob("*.png"))) == 3


@pytest.mark.parametrize("size", [(65, 64), (64, 65), (33, 33)])
def test_frames_of_an_odd_size_are_made_even(comfy_server, size):
    result = comfy_server.succeed(
        frames_with({"class_type": "OddAudio", "inputs": {"kind": "40 kHz"}}, width=size[0], height=size[1])
    )
    video = probe(saved(result)[0])
    assert (video.width, video.height) == (size[0] + size[0] % 2, size[1] + size[1] % 2)
    assert "made even" in said(result)


@pytest.mark.parametrize(
    "extra", [{"\ud800": 1}, {"a\0b": 1}, {"Workflow": 1, "workflow": 2}, {"": 1}, {"note": "text"}, "text", [1]]
)
def test_odd_metadata_costs_the_metadata_alone(comfy_server, extra):
    graph = frames_with({"class_type": "OddAudio", "inputs": {"kind": "one row"}})
    prompt_id = comfy_server.post("/prompt", {"prompt": graph, "extra_data": {"extra_pnginfo": extra}})["prompt_id"]
    result = comfy_server.wait(prompt_id)
    assert result.succeeded, result.error
    assert json.loads(encode.video_tags(saved(result)[0])["prompt"])


@pytest.fixture
def full_disk():
    """full_disk(bytes): no file may grow beyond that, which the system tells like a disk that is full."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, before)


def noise(frames: int = 12):
    import torch
    from comfy_api.latest import InputImpl, Types

    images = torch.rand(frames, 96, 96, 3, generator=torch.Generator().manual_seed(0))
    audio = {"waveform": torch.rand(1, 2, 48000) - 0.5, "sample_rate": 48000}
    return InputImpl.VideoFromComponents(Types.VideoComponents(images=images, audio=audio, frame_rate=Fraction(16)))


def write(video, path):
    from steadydancer.services.write_video import write_video

    return write_video(video, path, {}, False, 19, lambda unit: lambda done, total: None)


def place(comfyui, name: str):
    folder = comfyui / "output" / name
    folder.mkdir(parents=True)
    return folder, folder / ".clip_00001_.mp4"


@pytest.mark.skipif(os.name != "posix", reason="the system has no limit for a file's size")
@pytest.mark.parametrize("size", [100, 5_000, 60_000])
def test_a_disk_that_is_full_in_the_middle(comfyui, full_disk, size):
    """From the first byte on, in the middle, near the end: frames lie there as pictures, or nothing is half there."""
    folder, path = place(comfyui, f"full {size}")
    full_disk(size)
    with pytest.raises(ValueError, match="the disk is full") as error:
        write(noise(), path)
    there = sorted(folder.rglob("*"))
    if size == 60_000:
        assert "its 12 frames are pictures in" in str(error.value) and "no room for the sound" in str(error.value)
        assert [file.suffix for file in there if file.is_file()] == [".png"] * 12
    else:
        assert not there and "Free some space and press Run again" in str(error.value)
    full_disk(2**30)
    assert write(noise(), path) == [] and probe(path).frames == 12


def test_a_full_output_folder_puts_the_frames_on_another_disk(comfyui, tmp_path, monkeypatch):
    """Its file system takes no more files; the system's folder for temporary files does."""
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder, path = place(comfyui, "blocked")
    folder.rmdir()
    folder.write_text("a file where the folder was")
    with pytest.raises(ValueError, match="12 frames are pictures in") as error:
        write(noise(), path)
    assert str(tmp_path) in str(error.value) and len(list(tmp_path.rglob("*.png"))) == 12
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no such folder"))
    with pytest.raises(ValueError, match="Free some space and press Run again: ComfyUI still has the frames"):
        write(noise(), path)


def from_file(data, **trim):
    from comfy_api.latest import InputImpl

    return InputImpl.VideoFromFile(data, **trim)


@pytest.mark.parametrize("container", ["matroska", "mpegts", "mp4"])
def test_a_piece_of_a_file_whose_clock_begins_later(comfyui, container):
    """ComfyUI's own writer would cut from the clock's 0."""
    _, path = place(comfyui, f"clock {container}")
    file = make(
        begins=100.0, container=container, frames=32, size=(64, 48), wave=tone(2, 96000, 48000), sound_codec="aac"
    )
    assert write(from_file(file, start_time=1.0), path) == []
    clip = read_clip(str(path))
    assert which(clip.frames) == list(range(16, 32)) and clip.sound is not None


@pytest.mark.parametrize(
    ("pixel", "shape"), [(Fraction(2), (48, 128)), (Fraction(1, 2), (96, 64)), (Fraction(1), (48, 64))]
)
def test_a_file_whose_pixels_are_not_square_keeps_its_shape(comfyui, pixel, shape):
    _, path = place(comfyui, f"pixels {pixel.numerator} by {pixel.denominator}")
    write(from_file(make(container="matroska", size=(64, 48), pixel=pixel)), path)
    assert read_clip(str(path)).frames.shape[1:3] == shape


def test_memory_is_asked_for_where_pictures_are_decoded_and_not_where_they_are_copied(comfyui, monkeypatch):
    """What is in memory only and cannot be encoded is on the disk as it came."""
    from steadydancer.services import write_video as module

    monkeypatch.setattr(module, "free_ram", lambda: 2**18)
    folder, path = place(comfyui, "memory")
    assert write(from_file(make(container="mp4")), path) == [] and probe(path).frames == 16
    path.unlink()
    file = make(container="matroska")
    with pytest.raises(ValueError, match=r"decoding them needs .* GB of memory.* Nothing is lost: it is, as it came"):
        write(from_file(file), path)
    assert [path.read_bytes() for path in folder.rglob("*.mkv")] == [file.getvalue()]


def test_a_sound_encoder_that_fails_costs_the_sound_alone(comfyui, monkeypatch):
    """Whatever the reason: here AAC is asked for more than it can do, behind everything that was looked at before."""
    import torch
    from steadydancer.services import write_video as module

    _, path = place(comfyui, "no sound")
    plain = module.plain_wave
    monkeypatch.setattr(module, "plain_wave", lambda wave, rate, *rest: (plain(wave, rate, *rest)[0], 40_000, ""))
    assert write(noise(), path) == ["without its sound, which could not be written"]
    assert (probe(path).frames, probe(path).has_audio) == (12, False) and torch.is_tensor(
        noise().get_components().images
    )


@pytest.mark.parametrize("after", [0, 5])
def test_cancel_leaves_nothing(comfyui, monkeypatch, after):
    from steadydancer.services import write_video as module

    folder, path = place(comfyui, f"cancelled {after}")
    asked_for = iter(range(1000))
    monkeypatch.setattr(module, "cancelled", lambda: next(asked_for) >= after)
    with pytest.raises(Cancelled):
        write(noise(), path)
    assert not list(folder.iterdir())


def test_the_video_is_there_before_anything_is_asked_of_a_claim(start_comfy, tmp_path):
    """No lock, no journal, no profile: a file stands where the package's own folder would be."""
    server = start_comfy(variables={"STEADYDANCER_TEST": "no journal"})
    folder = server.base_directory / "user" / "__steadydancer"
    try:
        if folder.is_dir():
            folder.rename(tmp_path / "aside")
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.write_text("in the way")
        result = server.run(frames_with({"class_type": "OddAudio", "inputs": {"kind": "one row"}}))
        (path,) = (server.base_directory / "output" / "media").glob("clip*.mp4")
        assert probe(path).frames == 16, result.error
        images = frames_with({"class_type": "OddAudio", "inputs": {"kind": "one row"}}, batch_size=3)
        images["4"] = {
            "class_type": "SteadyDancerR2SaveImages",
            "inputs": {name: value for name, value in SAVE.items() if name != "crf"}
            | {"images": ["1", 0], "format": "png", "quality": 95, "filename_prefix": "media/picture"},
        }
        server.run(images)
        assert list((server.base_directory / "output" / "media").glob("picture*.png"))
    finally:
        server.stop()
