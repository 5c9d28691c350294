"""What is remembered of model folders: names, looked up by pattern, and when they must be read anew."""

import os
import time
from pathlib import PurePath

import pytest
from steadydancer.loaders.download import listing
from steadydancer.loaders.download.listing import Names, names_below, settled
from steadydancer.loaders.download.places import Places


@pytest.fixture
def folder(tmp_path):
    """A folder of models with subfolders, settled for a minute."""
    folder = tmp_path / "diffusion_models"
    for name in ("a", "b", "b/c"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "a" / "x.gguf").touch()
    settle(folder)
    return folder


def settle(folder):
    then = time.time() - 60
    for path in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        os.utime(path, (then, then))


@pytest.fixture
def walked(monkeypatch):
    """walked() → how many folders were walked since the last call."""
    seen, walk = [], os.walk

    def counted(top, *args, **kwargs):
        seen.append(top)
        return walk(top, *args, **kwargs)

    def take():
        count = len(seen)
        seen.clear()
        return count

    monkeypatch.setattr(listing.os, "walk", counted)
    return take


def test_a_folder_is_walked_once(folder, walked):
    for _ in range(5):
        assert names_below(folder).find("*.gguf") == [os.path.join("a", "x.gguf")]
    assert walked() == 1


@pytest.mark.parametrize("where", [".", "a", "b/c", "new", "b/c/new"])
@pytest.mark.parametrize("change", ["came", "went", "was renamed"])
def test_what_changed_is_walked_again(folder, walked, where, change):
    place = folder / where
    place.mkdir(exist_ok=True)
    path = place / "one.gguf"
    if change != "came":
        path.touch()
    settle(folder)
    names_below(folder)
    assert walked() == 1
    if change == "came":
        path.touch()
    elif change == "went":
        path.unlink()
    else:
        path.rename(place / "two.gguf")
    found = {PurePath(name).name for name in names_below(folder).find("*.gguf")}
    assert walked() == 1
    assert found - {"x.gguf"} == {"came": {"one.gguf"}, "went": set(), "was renamed": {"two.gguf"}}[change]


def test_a_folder_that_is_not_there_yet(tmp_path, walked):
    assert names_below(tmp_path / "later").find("*") == []
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "x.gguf").touch()
    assert names_below(tmp_path / "later").find("*.gguf") == ["x.gguf"]


def test_a_file_that_was_just_fetched_is_found(tmp_path):
    """However often was asked before, and within the same moment."""
    from steadydancer.catalog.catalog import catalogue

    file, places = catalogue().files["steadydancer-Q4_K_M"], Places(tmp_path)
    folder = tmp_path / "diffusion_models"
    folder.mkdir()
    for number in range(50):
        path = folder / f"{number}-SteadyDancer-Q4_K_M_.gguf"
        assert places.find(file) is None
        path.touch()
        assert places.find(file) == path
        path.unlink()


def test_changes_within_a_tick_of_the_clock_are_seen(folder):
    """A folder that has just changed may change again without another time."""
    now = time.time_ns()
    path = folder / "one.gguf"
    path.touch()
    os.utime(folder, ns=(now, now))
    assert names_below(folder).find("one.gguf") and not names_below(folder).find("two.gguf")
    path.rename(folder / "two.gguf")
    os.utime(folder, ns=(now, now))
    assert names_below(folder).find("two.gguf") and not names_below(folder).find("one.gguf")


def test_a_clock_that_counts_whole_seconds_is_given_two():
    second = 10**9
    now = 1000 * second + second // 2
    assert settled(now - second // 10, now) and not settled(now - second // 100, now)
    assert not settled(1000 * second, now) and not settled(999 * second, now) and settled(998 * second, now)
    assert not settled(now + 5 * second, now), "a server's clock that is ahead"
    assert settled(None, now)


def test_links_to_folders_are_followed(folder, tmp_path):
    elsewhere = tmp_path / "volume"
    elsewhere.mkdir()
    (elsewhere / "deep.gguf").touch()
    (folder / "linked").symlink_to(elsewhere)
    assert names_below(folder).find("deep.gguf") == [os.path.join("linked", "deep.gguf")]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("x.safetensors", ["a/x.safetensors", "b/c/x.safetensors"]),
        ("c/x.safetensors", ["b/c/x.safetensors"]),
        ("*-Q4_K_M*.gguf", ["b/my-Q4_K_M_fix.gguf"]),
        ("*.gguf", ["a/y.gguf", "b/my-Q4_K_M_fix.gguf"]),
        ("[xy].*", ["a/x.safetensors", "a/y.gguf", "b/c/x.safetensors"]),
        ("c", []),
        ("", []),
    ],
)
def test_names_are_found_as_paths_match(pattern, found):
    paths = ["b/my-Q4_K_M_fix.gguf", "a/x.safetensors", "b/c/x.safetensors", "a/y.gguf"]
    assert sorted(Names(paths).find(pattern)) == found
    assert not pattern or sorted(path for path in paths if PurePath(path).match(pattern)) == found
