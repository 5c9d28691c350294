"""Reading pieces of real files, written here: rates, rotation, sound, memory, damage."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest
from steadydancer.base.cancel import Cancelled
from steadydancer.media.read_video import read_clip
from support.video import turn


def grey(frame: int) -> int:
    """Each frame's own brightness, so that a test can tell which one it got."""
    return 20 + 5 * (frame % 40)


def write(path, frames=60, rate=30, width=64, height=48, times=None, sound=False, pix_fmt="yuv420p"):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "5"})
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.time_base = base = Fraction(1, 1000 if times else rate)
        audio = container.add_stream("aac", rate=48000) if sound else None
        for i in range(frames):
            picture = np.full((height, width, 3), grey(i), np.uint8)
            picture[: height // 4, : width // 4] = 255
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = times[i] if times else i, base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if audio:
            seconds = frames / rate
            time = np.arange(int(48000 * seconds)) / 48000
            wave = (np.sin(2 * np.pi * 440 * time) * (time >= seconds / 2)).astype(np.float32)  # silent, then a tone
            for at in range(0, len(wave), 1024):
                part = av.AudioFrame.from_ndarray(wave[None, at : at + 1024], format="fltp", layout="mono")
                part.sample_rate, part.pts = 48000, at
                container.mux(audio.encode(part))
            container.mux(audio.encode())
    return str(path)


def shown(clip) -> list[int]:
    """Which source frames these are."""
    levels = np.rint(clip.frames[:, -5:, -5:].mean((1, 2, 3)) * 255)
    return [int(np.argmin(np.abs(np.array([grey(i) for i in range(40)]) - level))) for level in levels]


def test_every_frame_at_the_files_own_rate(tmp_path):
    clip = read_clip(write(tmp_path / "a.mp4", frames=40))
    assert clip.fps == 30 and clip.frames.shape == (40, 48, 64, 3) and clip.frames.dtype == np.float32
    assert shown(clip) == list(range(40)) and clip.sound is None


def test_sixteen_frames_a_second_keep_the_time(tmp_path):
    clip = read_clip(write(tmp_path / "a.mp4", frames=39), fps=16)
    assert len(clip.frames) == 20  # 1.3 s
    assert np.abs(np.array(shown(clip)) - np.arange(20) * 30 / 16).max() <= 1


def test_a_piece_with_exactly_its_sound(tmp_path):
    path = write(tmp_path / "a.mp4", frames=120, sound=True)
    clip = read_clip(path, start=1.0, count=32, fps=16)
    assert len(clip.frames) == 32 and clip.sample_rate == 48000
    assert clip.sound.shape[1] == 2 * 48000
    loud = np.abs(clip.sound[0]) > 0.3
    assert not loud[:46000].any() and loud[50000:].mean() > 0.5  # the tone begins at 2 s of the file
    assert abs(shown(clip)[0] - 30) <= 1


def test_a_file_in_memory_and_a_piece_at_the_end(tmp_path):
    data = io.BytesIO(open(write(tmp_path / "a.mp4", frames=30), "rb").read())
    clip = read_clip(data, start=0.9, count=81)
    assert shown(clip) == [27, 28, 29]
    with pytest.raises(ValueError, match="nothing is left after 5.0 s"):
        read_clip(data, start=5)


def test_uneven_times_come_out_even(tmp_path):
    times = [0, 500, 520, 540, 1000, 1500]
    clip = read_clip(write(tmp_path / "v.mkv", frames=6, times=times), count=16, fps=10)
    assert shown(clip)[:15] == [0] * 5 + [1] + [3] * 4 + [4] * 5


def test_scaled_down_and_one_frame(tmp_path):
    clip = read_clip(write(tmp_path / "a.mp4", frames=1, width=640, height=360), longest_side=160)
    assert clip.frames.shape == (1, 90, 160, 3)


@pytest.mark.parametrize("pix_fmt", ["gray", "yuv444p", "yuv420p10le"])
def test_other_pixel_formats(tmp_path, pix_fmt):
    assert read_clip(write(tmp_path / "a.mkv", frames=3, pix_fmt=pix_fmt)).frames.shape == (3, 48, 64, 3)


def test_transparency_is_dropped(tmp_path):
    with av.open(str(tmp_path / "a.mov"), "w") as container:
        stream = container.add_stream("png", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "rgba"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((32, 32, 4), 128, np.uint8), format="rgba")))
        container.mux(stream.encode())
    assert read_clip(str(tmp_path / "a.mov")).frames.shape == (1, 32, 32, 3)


@pytest.mark.parametrize(("degrees", "corner"), [(90, (0, -1)), (180, (-1, -1)), (270, (-1, 0))])
def test_phone_video_is_turned_upright(tmp_path, degrees, corner):
    path = write(tmp_path / "a.mp4", frames=2)
    turn(path, degrees)
    clip = read_clip(path)
    assert clip.frames.shape == ((2, 48, 64, 3) if degrees == 180 else (2, 64, 48, 3))
    bright = [(row, column) for row in (0, -1) for column in (0, -1) if clip.frames[0, row, column].mean() > 0.9]
    assert bright == [corner]  # the white one, top left before the turn


def test_too_much_for_memory_is_refused_before_decoding(tmp_path):
    path, decoded = write(tmp_path / "a.mp4", frames=60), []
    with pytest.raises(ValueError, match=r"60 frames of 64×48 need .* Take at most 21 frames"):
        read_clip(path, free_bytes=1_000_000, progress=lambda *step: decoded.append(step))
    assert not decoded


def test_cancel(tmp_path):
    with pytest.raises(Cancelled):
        read_clip(write(tmp_path / "a.mp4"), cancelled=lambda: True)


@pytest.mark.parametrize("kind", ["text", "cut", "sound only"])
def test_what_cannot_be_read_is_said(tmp_path, kind):
    path = tmp_path / "a.mp4"
    if kind == "text":
        path.write_text("no video")
    elif kind == "cut":
        path.write_bytes(open(write(tmp_path / "b.mp4"), "rb").read()[:900])
    else:
        with av.open(str(path), "w") as container:
            stream = container.add_stream("aac", rate=48000)
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 48000
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
    with pytest.raises(ValueError, match=r"(Try another file|Choose a video)\."):
        read_clip(str(path))


def test_a_damaged_middle_is_skipped(tmp_path):
    data = bytearray(open(write(tmp_path / "a.ts", frames=60), "rb").read())
    middle = len(data) // 2
    data[middle : middle + 300] = bytes(300)
    clip = read_clip(io.BytesIO(bytes(data)), fps=30)
    assert len(clip.frames) > 20
