"""Keys: the default form, every token, and names that mean harm."""

import time
import unicodedata

import pytest
from steadydancer.base.plain import one_line
from steadydancer.bucket import keys

JANUARY = time.mktime((2026, 1, 2, 3, 4, 5, 0, 0, -1))


def values(name="clip_00007_.mp4", **more):
    return {"prefix": "pod", **keys.file_times(JANUARY), **keys.file_names(name, "video/dance"), **more}


def test_the_default_is_prefix_day_name():
    assert keys.fill(keys.TEMPLATE, values()) == "pod/2026-01-02/clip_00007_.mp4"
    assert keys.fill(keys.TEMPLATE, values(prefix="")) == "2026-01-02/clip_00007_.mp4"
    assert keys.fill(keys.FOLDER_TEMPLATE, values()) == "pod/2026-01-02/video/dance/clip_00007_.mp4"


def test_every_token():
    template = "{title}/{time}-{seed}-{prompt_id}-{counter}-{stem}.{ext}"
    made = keys.fill(template, values(prefix="", seed=42, prompt_id="ab-cd", title="My / Node"))
    assert made == "My _ Node/030405-42-ab-cd-00007-clip_00007_.mp4"


def test_an_unknown_token_is_named():
    with pytest.raises(ValueError, match="unknown token '{sede}'"):
        keys.fill("{sede}/{name}", values())


@pytest.mark.parametrize(
    "raw, safe",
    [
        ("../../etc/passwd", "etc/passwd"),
        ("a/../../b.mp4", "a/b.mp4"),
        ("/absolute//path/./x.mp4", "absolute/path/x.mp4"),
        ("C:\\Users\\me\\clip.mp4", "C_/Users/me/clip.mp4"),
        ("..\\..\\up.mp4", "up.mp4"),
        ("bell\a\x00\x1b[31mred\r\n.mp4", "bell[31mred.mp4"),
        ("right\u202eto\u200bleft.mp4", "righttoleft.mp4"),
        ('what<is>"this"|?*.mp4', "what_is__this____.mp4"),
        ("trailing. /dots...", "trailing/dots"),
        ("lone\ud800surrogate.mp4", "lonesurrogate.mp4"),
        ("dancing 💃🏽.mp4", "dancing 💃🏽.mp4"),
        ("e\u0301te\u0301.mp4", "été.mp4"),
        ("two\u2028lines\u2029.mp4", "twolines.mp4"),
        ("never\uffff\ufdd0\U0001fffe.mp4", "never.mp4"),
        ("line\nbreak\r\n/\ttab.mp4", "linebreak/tab.mp4"),
    ],
)
def test_hostile_names_are_confined(raw, safe):
    assert keys.clean(raw) == safe


@pytest.mark.parametrize("raw", ["", "..", "///", "\x00", "a/" * 40])
def test_nothing_left_or_too_deep_is_an_error(raw):
    with pytest.raises(ValueError, match="The key must have 1 to 32 parts"):
        keys.clean(raw)


@pytest.mark.parametrize("letter", ["x", "é", "舞", "💃"])
@pytest.mark.parametrize("depth", [1, 4, 20, 32])
def test_long_names_fit_and_keep_their_ending(letter, depth):
    key = keys.clean("/".join([letter * 300] * (depth - 1) + [letter * 300 + ".mp4"]))
    assert len(key.encode()) <= 1024 and key.endswith(".mp4") and key.count("/") == depth - 1
    assert all(len(segment.encode()) <= 255 for segment in key.split("/"))
    assert unicodedata.is_normalized("NFC", key)


def test_a_value_cannot_add_folders():
    assert keys.fill("{title}/{name}", values(title="../..")) == "pod/.._/clip_00007_.mp4"


@pytest.mark.parametrize(
    "template", ["elsewhere/x.mp4", "../elsewhere/x.mp4", "mine-too/{name}", "{date}/{prefix}/{name}", "mine"]
)
def test_no_template_leaves_the_prefix(template):
    key = keys.fill(template, values(prefix="/mine//"))
    assert (
        key.startswith("mine/") and key == f"mine/{keys.fill(template.replace('{prefix}', 'mine'), values(prefix=''))}"
    )


def test_the_prefix_is_not_repeated():
    assert keys.fill("mine/two/x.mp4", {"prefix": "mine/two"}) == "mine/two/x.mp4"
    assert keys.fill("x.mp4", {"prefix": "/"}) == "x.mp4"


@pytest.mark.parametrize(
    "name, safe",
    [("con", "con_"), ("NUL.txt", "NUL_.txt"), ("a/aux/b.mp4", "a/aux_/b.mp4"), ("com1.mp4", "com1_.mp4")]
    + [
        ("lpt9.tar.gz", "lpt9_.tar.gz"),
        ("COM¹.mp4", "COM¹_.mp4"),
        ("conout$.txt", "conout$_.txt"),
        ("console.mp4", "console.mp4"),
        ("com0.mp4", "com0.mp4"),
        ("prn .x", "prn_ .x"),
    ],
)
def test_names_that_windows_reserves_get_an_underscore(name, safe):
    assert keys.clean(name) == safe


def test_alternatives_count_up_before_the_ending():
    names = keys.alternatives("day/clip.mp4")
    assert [next(names) for _ in range(3)] == ["day/clip.mp4", "day/clip-2.mp4", "day/clip-3.mp4"]
    for name in ("x" * 255, "x" * 251 + ".mp4"):
        names = list(keys.alternatives(name))
        assert len(set(names)) == 999 and max(len(key.encode()) for key in names) <= 255
        assert all(key.endswith(name[251:]) for key in names if name[251] == ".")


@pytest.mark.parametrize(
    "prefix", ["p" * 300, "/".join(["deep"] * 20), "舞" * 300 + "/b", "a\nb", "half\ud800", "con/x"]
)
@pytest.mark.parametrize("template", ["{prefix}/{date}/{name}", "{name}", "/".join(["sub"] * 10) + "/{name}"])
def test_one_prefix_is_one_folder_whatever_the_template(prefix, template):
    folders = set()
    for name in ("a.mp4", "n" * 300 + ".mp4"):
        key = keys.fill(template, values(name, prefix=prefix))
        assert len(key.encode()) <= 1024 and key.endswith(".mp4") and key.isprintable()
        assert keys.lies_below(prefix, key)
        depth = prefix.count("/") + 1
        folders.add("/".join(key.split("/")[:depth]))
    assert folders == {"/".join(keys.fill("x.mp4", {"prefix": prefix}).split("/")[:-1])}


@pytest.mark.parametrize("depth", [1, 10, 20, 31])
def test_alternatives_differ_however_little_room_there_is(depth):
    key = keys.clean("/".join(["d" * 300] * depth + ["n" * 300 + ".mp4"]))
    others = list(keys.alternatives(key))
    assert len(set(others)) == 999 and max(len(other.encode()) for other in others) <= 1024
    assert {other.rpartition("/")[0] for other in others} == {key.rpartition("/")[0]}
    assert all(other.endswith(".mp4") for other in others)


@pytest.mark.parametrize(
    "key", ["", "other/a.png", "pod", "pod/", "pod/../a.png", "/pod/a.png", "pod/a\nb.png", "pod2/a.png"]
)
def test_a_key_that_we_would_not_make_is_not_ours(key):
    assert not keys.lies_below("pod", key)
    assert keys.lies_below("pod", "pod/a.png") and keys.lies_below("", "day/a.png") and not keys.lies_below("", "")


def test_names_are_shown_in_one_line():
    assert one_line("dance 舞 é.mp4") == "dance 舞 é.mp4"
    shown = one_line("a\nb\x1b[31m\u202e\udce9\u2028.mp4")
    assert shown.isprintable() and shown.startswith("a") and shown.endswith(".mp4")
    shown.encode()


@pytest.mark.parametrize("moment", [1e18, -1e18, float("nan"), float("inf")])
def test_a_time_that_no_calendar_has_is_the_first_day(moment):
    assert keys.file_times(moment) == keys.file_times(0)
