"""Sound of any kind comes out as every writer takes it, or not at all and with a word; the pictures come in any case."""

import io
import math
import subprocess
import sys

import av
import numpy as np
import pytest
from steadydancer.base.cancel import Cancelled
from steadydancer.media.read_video import read_clip
from steadydancer.media.sound import plain_wave
from support import TESTS
from support.odd_video import make, tone

LAYOUTS = {
    "mono": 1, "stereo": 2, "2.1": 3, "quad": 4, "5.0": 5, "5.1": 6, "6.1": 7, "7.1": 8, "7.1.4": 12, "hexadecagonal": 16,
    "3 channels": 3, "9 channels": 9, "11 channels": 11, "16 channels": 16, "33 channels": 33, "64 channels": 64,
    "ambisonic 1": 4, "ambisonic 2": 9,
}  # fmt: skip


def plain(clip, seconds: float = 1.0) -> bool:
    """Whether the sound is as promised: mono or stereo, 44.1 or 48 kHz, finite, as long as the frames."""
    channels, samples = clip.sound.shape
    assert clip.sound.dtype == np.float32 and np.isfinite(clip.sound).all() and np.abs(clip.sound).max() <= 1
    return channels in (1, 2) and clip.sample_rate in (44100, 48000) and samples == round(seconds * clip.sample_rate)


@pytest.mark.parametrize("container", ["mov", "matroska"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_becomes_mono_or_stereo(layout, container):
    channels = LAYOUTS[layout]
    clip = read_clip(make(tone(channels, 48000, 48000), layout=layout, container=container))
    assert plain(clip) and len(clip.sound) == min(channels, 2) and len(clip.frames) == 16
    assert 0.02 < np.abs(clip.sound[:, 1000:]).max() < 0.5  # heard, and not cut off
    assert clip.sound[:, -100:].any()  # to the end
    assert bool(clip.sound_note) == (channels > 2) and "stereo" in clip.sound_note + "stereo" * (channels < 3)


@pytest.mark.parametrize(
    ("codec", "layout", "channels"), [("aac", "7.1", 8), ("aac", "5.1", 6), ("flac", "7.1", 8), ("pcm_s16le", "7.1", 8)]
)
def test_eight_channels_of_other_codecs(codec, layout, channels):
    assert plain(read_clip(make(tone(channels, 48128, 48000), layout=layout, sound_codec=codec, container="matroska")))


def test_channels_in_an_order_of_the_files_own():
    """Where that kills the process, as PyAV 17 and 18 do, it kills none of the tests'. What is in the centre is heard."""
    code = f"""if True:
        import sys; sys.path.insert(0, {str(TESTS)!r})
        import support
        import numpy as np
        from steadydancer.media.read_video import read_clip
        from support.odd_video import in_film_order, make, tone
        for heard in range(6):
            wave = tone(6, 48000, 48000) * (np.arange(6) == heard)[:, None].astype(np.float32)
            clip = read_clip(in_film_order(make(wave, layout="5.1")))
            print(*(np.abs(clip.sound).max(1) > 0.01), clip.sound_note)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    said = " 6 channels, 48,000 Hz made stereo, 48,000 Hz"
    heard = ["True True", "True False", "False True", "True False", "False True", "False False"]
    assert (done.returncode, done.stdout.splitlines()) == (0, [sides + said for sides in heard]), done.stderr


@pytest.mark.parametrize(
    ("rate", "becomes"),
    [(8000, 48000), (11025, 44100), (22050, 44100), (40000, 48000), (44100, 44100), (44056, 48000), (48000, 48000),
     (88200, 44100), (96000, 48000), (192000, 48000), (384000, 48000)],
)  # fmt: skip
def test_every_rate_becomes_one_that_writers_take(rate, becomes):
    clip = read_clip(make(tone(2, rate, rate), rate))
    assert plain(clip) and clip.sample_rate == becomes
    spectrum = np.abs(np.fft.rfft(clip.sound[0]))
    assert abs(int(spectrum.argmax()) - 440) <= 1  # one second, so the index is in Hz
    assert ("made" in clip.sound_note) == (rate != becomes)


@pytest.mark.parametrize("rate", [200_000_000, 2_000_000_000, 999, 1])
def test_a_header_that_cannot_be_true_costs_the_sound_alone(rate):
    clip = read_clip(make(tone(2, 4096, 48000), rate), free_bytes=2**30)
    assert clip.sound is None and len(clip.frames) == 16
    assert f"its header claims {rate:,} samples a second" == clip.sound_note


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize(("layout", "rate"), [("stereo", 48000), ("5.1", 96000)])
def test_samples_that_are_no_numbers(bad, layout, rate):
    wave = tone(LAYOUTS[layout], rate, rate)
    wave[:, rate // 2 : rate // 2 + 10] = bad
    clip = read_clip(make(wave, rate, layout))
    assert plain(clip) and np.abs(clip.sound[:, :20000]).max() > 0.05
    assert ("no numbers" in clip.sound_note) == (not math.isfinite(bad))


def test_loud_surround_sound_is_mixed_and_not_cut_off():
    clip = read_clip(make(tone(6, 48000, 48000, level=0.95), layout="5.1"))
    assert (np.abs(clip.sound) > 0.999).mean() < 0.001


@pytest.mark.parametrize(("begins", "seconds"), [(0.5, 0.5), (0.0, 0.25), (0.25, 0.25)])
def test_sound_that_begins_later_or_ends_sooner(begins, seconds):
    clip = read_clip(make(tone(2, int(48000 * seconds), 48000), sound_begins=begins, container="matroska"))
    assert plain(clip)
    loud = np.flatnonzero(np.abs(clip.sound[0]) > 0.1)
    assert loud[0] == pytest.approx(48000 * begins, abs=150)
    assert loud[-1] == pytest.approx(48000 * (begins + seconds), abs=150)


def test_a_piece_behind_the_sound_has_none():
    clip = read_clip(make(tone(2, 4800, 48000), frames=32), start=1.0)
    assert clip.sound is None and len(clip.frames) == 16 and clip.sound_note == "there is none in this piece"


def test_sound_of_no_length():
    clip = read_clip(make(np.zeros((2, 0), np.float32)))
    assert clip.sound is None and len(clip.frames) == 16


def test_sound_of_an_unknown_kind():
    data = make(tone(2, 48000, 48000), container="matroska", sound_codec="aac").getvalue()
    assert data.count(b"A_AAC") == 1
    clip = read_clip(io.BytesIO(data.replace(b"A_AAC", b"A_XYZ")))
    assert clip.sound is None and len(clip.frames) == 16 and "cannot be decoded" in clip.sound_note


def test_damaged_sound():
    file = make(tone(2, 48000, 48000), container="matroska", sound_codec="flac")
    data, noise = bytearray(file.getvalue()), np.random.default_rng(0)
    with av.open(file) as container:
        for packet in container.demux(audio=0):
            at = bytes(data).find(bytes(packet)) if packet.size else -1
            if at >= 0:
                data[at : at + packet.size] = noise.integers(0, 256, packet.size, dtype=np.uint8).tobytes()
    clip = read_clip(io.BytesIO(bytes(data)))
    assert clip.sound is None and len(clip.frames) == 16 and clip.sound_note


def test_sound_that_changes_its_form_on_the_way():
    mono = make(tone(1, 24000, 48000), layout="mono", container="mpegts", sound_codec="mp2", frames=8).getvalue()
    stereo = make(tone(2, 22050, 44100), 44100, container="mpegts", sound_codec="mp2", frames=8, begins=0.5).getvalue()
    for data, channels in ((stereo + mono, 2), (mono + stereo, 1)):
        clip = read_clip(io.BytesIO(data), count=8)
        assert len(clip.sound) == channels and np.isfinite(clip.sound).all() and clip.sound.any()


def test_sound_that_memory_cannot_hold_is_left_out():
    file = make(tone(2, 4800, 48000), container="matroska", frames=2, size=(16, 16))
    clip = read_clip(file, count=1, fps=1 / 600, free_bytes=2**20)  # one frame stands for ten minutes
    assert clip.sound is None and clip.sound_note == "it needs 0.2 GB of memory"


@pytest.mark.parametrize(
    ("channels", "rate"),
    [(1, 48000), (2, 44100), (2, 16000), (3, 48000), (6, 96000), (8, 48000), (13, 40000), (64, 48000)],
)
def test_sound_of_other_nodes(channels, rate):
    wave, plain_rate, said = plain_wave(tone(channels, rate, rate), rate, 1.0, lambda: False)
    assert wave.shape == (min(channels, 2), plain_rate) and plain_rate in (44100, 48000) and np.isfinite(wave).all()
    assert np.abs(wave).max() > 0.02 and bool(said) == ((channels, rate) != (len(wave), plain_rate))


@pytest.mark.parametrize(
    ("shape", "rate"),
    [((2, 0), 48000), ((0, 100), 48000), ((2, 100), 0), ((2, 100), math.nan), ((2, 100), math.inf), ((2, 100), -48000),
     ((2, 100), 2e8), ((48000, 2), 48000), ((100,), 48000), ((1, 2, 100), 48000)],
)  # fmt: skip
def test_what_is_no_sound_is_said(shape, rate):
    with pytest.raises(ValueError, match=r"^(it is empty|its header claims|it does not consist of)"):
        plain_wave(np.zeros(shape, np.float32), rate, 1.0, lambda: False)


def test_only_what_is_needed_is_mixed_and_cancel_ends_it():
    wave = np.zeros((6, 48000 * 60), np.float32)
    assert plain_wave(wave, 48000, 2.0, lambda: False)[0].shape == (2, 96000)
    with pytest.raises(Cancelled):
        plain_wave(wave, 48000, 60.0, lambda: True)
