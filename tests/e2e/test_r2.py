"""The R2 nodes in a real server with a strict S3 server behind it: what arrives, what is kept, what never leaks."""

import errno
import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
from types import SimpleNamespace

import av
import pytest
from steadydancer.media import encode
from support import ROOT
from support.client import Client
from support.s3_server import MIB, Fault, StrictS3
from support.video import probe
from support.workflows import load, model_files, with_tiny_text_encoder, with_tiny_values

CANARY = "canary-secret-7f3a9c"
WORKFLOW = {"nodes": [{"id": 7, "type": "SteadyDancerR2SaveVideo"}], "links": [], "version": 0.4}


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    with StrictS3(tmp_path_factory.mktemp("s3"), secret=CANARY).running() as server:
        yield server


@pytest.fixture(autouse=True)
def calm(s3):
    yield
    s3.faults.clear()
    s3.bytes_per_second = 0


@pytest.fixture(scope="module")
def pod(start_comfy, s3):
    """A server whose environment holds the profile, as on a rented machine."""
    return start_comfy(variables=s3.profile)


def graph(prefix="video/clip", color=0x3366CC, frames=8, size=64, **inputs) -> dict:
    """Plain frames with a tone → MP4 → bucket."""
    defaults = {
        "profile": "auto",
        "crf": 19,
        "after_upload": "keep the local file",
        "share_safe": False,
        "key": "{prefix}/{date}/{name}",
        "overwrite": False,
        "link_minutes": 0,
        "day_facts": False,
    }
    empty = {"width": size, "height": size, "batch_size": frames, "color": color}
    return {
        "1": {"class_type": "EmptyImage", "inputs": empty},
        "2": {"class_type": "EmptyAudio", "inputs": {"duration": 0.5, "sample_rate": 44100, "channels": 2}},
        "3": {"class_type": "CreateVideo", "inputs": {"images": ["1", 0], "audio": ["2", 0], "fps": 16.0}},
        "7": {
            "class_type": "SteadyDancerR2SaveVideo",
            "inputs": {"video": ["3", 0], "filename_prefix": prefix, **defaults, **inputs},
            "_meta": {"title": "My save"},
        },
    }


def upload_graph(file: str, **inputs) -> dict:
    defaults = {"profile": "auto", "key": "{prefix}/{date}/{name}", "overwrite": False, "link_minutes": 0}
    return {"1": {"class_type": "SteadyDancerR2Upload", "inputs": {"file": file, **defaults, **inputs}}}


def said(result) -> str:
    return next(output["text"][0] for output in result.outputs.values() if "text" in output)


def key_of(result) -> str:
    return re.search(r"s3://renders/(\S+),", said(result))[1]


def test_a_name_that_another_server_took_meanwhile_stays(comfyui, monkeypatch):
    """The first image is sent and deleted, its name is free again, and another server writes under it."""
    import torch
    from steadydancer.nodes import r2
    from steadydancer.services.r2_sender import Sent, output_folder
    from steadydancer.services.save_name import free_file, hidden

    first, second = (output_folder() / f"race_0000{number}_.png" for number in (1, 2))
    others = []

    def send(self, path, cancelled):
        while path == second and (first.exists() or hidden(first).exists()):
            time.sleep(0.01)
        if path == second:
            others.append(free_file(output_folder(), "race", 1, ".png"))
        return Sent(path, "sent", key=path.name)

    node = r2.SteadyDancerR2SaveImages
    monkeypatch.setattr(node, "hidden", SimpleNamespace(unique_id="1", prompt=None, extra_pnginfo=None), raising=False)
    monkeypatch.setattr(r2.Sender, "send", send)
    node.execute(
        torch.zeros(2, 16, 16, 3), "race", "auto", format="png", quality=90, after_upload=r2.DELETE, share_safe=True,
        key="{name}", overwrite=False, link_minutes=0, day_facts=False,
    )  # fmt: skip
    assert others == [first] and hidden(first).exists(), "the other server's"
    hidden(first).unlink()


def test_a_folder_that_is_a_file_is_told_in_words(comfyui, monkeypatch):
    import torch
    from steadydancer.nodes import r2
    from steadydancer.services.r2_sender import output_folder

    (output_folder() / "taken").touch()
    node = r2.SteadyDancerR2SaveImages
    monkeypatch.setattr(node, "hidden", SimpleNamespace(unique_id="1", prompt=None, extra_pnginfo=None), raising=False)
    with pytest.raises(ValueError, match="could not be written"):
        node.execute(
            torch.zeros(1, 16, 16, 3), "taken/clip", "auto", format="png", quality=90, after_upload=r2.KEEP,
            share_safe=True, key="{name}", overwrite=False, link_minutes=0, day_facts=False,
        )  # fmt: skip


def test_video_arrives_with_sound_and_its_graph(pod, s3):
    prompt = graph()
    result = pod.succeed(prompt, workflow=WORKFLOW)
    (path,) = result.files
    assert s3.body(key_of(result)) == path.read_bytes()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d/clip_00001_\.mp4", key_of(result))
    with av.open(str(path)) as video:
        assert [stream.codec_context.name for stream in video.streams] == ["h264", "aac"]
        assert sum(1 for _ in video.decode(video=0)) == 8
    tags = encode.video_tags(path)
    assert json.loads(tags["workflow"]) == WORKFLOW and json.loads(tags["prompt"]) == prompt
    entry = {"key": key_of(result), "url": f"s3://renders/{key_of(result)}", "bytes": path.stat().st_size}
    entry["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    assert result.outputs["7"]["r2"] == [entry], "history, gateways and workers read this"


def test_the_shipped_prompt_runs_as_it_is(pod, s3):
    result = pod.succeed(load(ROOT / "example_workflows" / "api" / "save_to_r2.json"))
    assert s3.body("newest.mp4") == next(path for path in result.files if path.suffix == ".mp4").read_bytes()


def test_the_same_graph_again_is_cached_and_sends_nothing(pod, s3):
    pod.succeed(graph("again"))
    before = len(s3.requests)
    assert "7" in pod.succeed(graph("again")).cached and len(s3.requests) == before


def test_headless_prompts_have_a_prompt_tag_only(pod):
    (path,) = pod.succeed(graph("headless")).files
    tags = encode.video_tags(path)
    assert "workflow" not in tags and "prompt" in tags


def test_share_safe_leaves_no_graph(pod, s3):
    (path,) = pod.succeed(graph("safe", share_safe=True), workflow=WORKFLOW).files
    assert b"SteadyDancerR2SaveVideo" not in path.read_bytes()


def loaded(pod, source, **inputs) -> dict:
    name = pod.upload_image(source)
    prompt = graph("copied", **inputs)
    del prompt["1"], prompt["2"]
    prompt["3"] = {"class_type": "LoadVideo", "inputs": {"file": name}}
    return prompt


def packets(path) -> list[bytes]:
    with av.open(str(path)) as video:
        return [bytes(packet) for packet in video.demux(video=0) if packet.size]


def test_an_h264_mp4_is_copied_and_gets_the_new_graph(pod):
    (source,) = pod.succeed(graph("source", color=0x112233), workflow=WORKFLOW).files
    other = {"nodes": [], "version": 0.4, "other": True}
    (copy,) = pod.succeed(loaded(pod, source), workflow=other).files
    assert packets(copy) == packets(source)
    assert json.loads(encode.video_tags(copy)["workflow"]) == other


@pytest.mark.parametrize("crf", [19, 20])
def test_a_video_in_memory_is_saved_like_a_file(pod, s3, crf):
    (source,) = pod.succeed(graph("source3", color=0x778899), workflow=WORKFLOW).files
    prompt = loaded(pod, source, crf=crf, share_safe=crf == 20)
    prompt["4"] = {"class_type": "VideoInMemory", "inputs": {"video": ["3", 0]}}
    prompt["7"]["inputs"]["video"] = ["4", 0]
    result = pod.succeed(prompt)
    (copy,) = result.files
    assert packets(copy) == packets(source) and s3.body(key_of(result)) == copy.read_bytes()
    assert b'"nodes"' not in copy.read_bytes()


def test_a_copied_video_drops_the_old_graph(pod):
    (source,) = pod.succeed(graph("source2", color=0x445566), workflow=WORKFLOW).files
    (headless,) = pod.succeed(loaded(pod, source, crf=20)).files
    assert not encode.video_tags(headless).get("workflow")
    (safe,) = pod.succeed(loaded(pod, source, share_safe=True), workflow=WORKFLOW).files
    assert b"SteadyDancerR2SaveVideo" not in safe.read_bytes() and packets(safe) == packets(source)


def test_other_codecs_and_trims_are_encoded(pod, tmp_path):
    source = tmp_path / "source.mkv"
    with av.open(str(source), "w") as video:
        stream = video.add_stream("mpeg4", rate=16)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for _ in range(32):
            video.mux(stream.encode(av.VideoFrame(64, 64, "rgb24")))
        video.mux(stream.encode())
    prompt = loaded(pod, source)
    (whole,) = pod.succeed(prompt).files
    with av.open(str(whole)) as video:
        assert video.streams.video[0].codec_context.name == "h264"
        assert sum(1 for _ in video.decode(video=0)) == 32
    trim = {"video": ["3", 0], "start_time": 0.5, "duration": 1.0, "strict_duration": False}
    prompt["4"] = {"class_type": "Video Slice", "inputs": trim}
    prompt["7"]["inputs"]["video"] = ["4", 0]
    (trimmed,) = pod.succeed(prompt).files
    with av.open(str(trimmed)) as video:
        assert sum(1 for _ in video.decode(video=0)) == 16


def test_delete_after_the_check(pod, s3):
    result = pod.succeed(graph("gone", after_upload="delete the local file after the check"))
    assert key_of(result) in s3.objects
    assert not list((pod.base_directory / "output").glob("gone*")) and not result.files
    journal = (pod.base_directory / "user" / "__steadydancer" / "r2_journal.jsonl").read_text("utf-8")
    assert re.search(rf'"key": "{key_of(result)}", "sent": true', journal)


def test_without_a_profile_it_stays_local_and_says_so(comfy_server):
    result = comfy_server.succeed(graph("local", after_upload="delete the local file after the check"))
    assert "no save profile is set up" in said(result) and result.files[0].exists()


def test_images_arrive_in_every_format(pod, s3):
    for format in ("png", "webp", "jpg"):
        prompt = graph(f"images/{format}", frames=12, day_facts=True)
        prompt["7"]["class_type"] = "SteadyDancerR2SaveImages"
        inputs = prompt["7"]["inputs"]
        del inputs["video"], inputs["crf"], prompt["2"], prompt["3"]
        inputs |= {"images": ["1", 0], "format": format, "quality": 90, "key": "i/{name}"}
        result = pod.succeed(prompt, workflow=WORKFLOW)
        assert len(result.files) == 12
        for path in result.files:
            assert s3.body(f"i/{path.name}") == path.read_bytes()
            assert json.loads(encode.image_tags(path)["workflow"]) == WORKFLOW
    assert len(json.loads(s3.body("i/metadata.json"))) == 36


def test_facts_beside_the_object(pod, s3):
    prompt = graph("facts", key="facts/{name}", day_facts=True)
    prompt["1"]["inputs"]["seed"] = 123  # what a sampler above would have
    prompt["2b"] = {"class_type": "SlowImage", "inputs": {"image": ["1", 0], "seconds": 0.5}}
    prompt["3"]["inputs"]["images"] = ["2b", 0]
    started = time.monotonic()
    pod.succeed(prompt)
    took = time.monotonic() - started
    (facts,) = json.loads(s3.body("facts/metadata.json")).values()
    assert facts["seed"] == 123 and (facts["width"], facts["height"]) == (64, 64)
    assert 0.5 <= facts["seconds"] <= took + 1


def test_key_tokens(pod, s3):
    prompt = graph("tokens", key="{title}/{prompt_id}/{counter}.{ext}")
    assert f"My save/{pod.succeed(prompt).prompt_id}/00001.mp4" in s3.objects


@pytest.mark.parametrize(
    "prefix, name",
    [
        ("../../escape", "escape_00001_.mp4"),
        ("C:\\temp\\win", "C_/temp/win_00001_.mp4"),
        ("bell\a\x00\r\nname", "bellname_00001_.mp4"),
        ("L" * 300, "L" * 200 + "_00001_.mp4"),
        ("dance 💃🏽/é", "dance 💃🏽/é_00001_.mp4"),
    ],
)
def test_hostile_names_are_confined(pod, s3, prefix, name):
    (path,) = pod.succeed(graph(prefix)).files
    assert path == pod.base_directory / "output" / name and path.exists()
    assert any(key.endswith("/" + path.name) for key in s3.objects)


def test_a_failed_upload_keeps_the_file_and_the_retry_node_sends_it(pod, s3):
    s3.faults.append(Fault("403", "PutObject", 9))
    failed = pod.run(graph("kept"))
    assert "Object Read & Write" in failed.error
    assert "kept_00001_.mp4" in failed.error and "Upload File to R2" in failed.error
    path = pod.base_directory / "output" / "kept_00001_.mp4"
    assert path.exists()
    s3.faults.clear()
    result = pod.succeed(upload_graph("kept_00001_.mp4"))
    assert s3.body(key_of(result)) == path.read_bytes()


@pytest.mark.parametrize(
    "file", ["../comfyui.log", "", "none.mp4", "/etc/passwd", "a\0b", "x" * 300, "\ud800.mp4", "a\nb"]
)
def test_upload_is_confined_to_the_output_folder(pod, file):
    result = pod.run(upload_graph(file))
    assert "There is no file" in result.error and "output folder" in result.error and result.error.isprintable()


def test_a_workflow_cannot_name_another_endpoint(pod):
    from support.client import Refused

    with pytest.raises(Refused, match="There is no save profile 'https' on this machine. Use auto"):
        pod.queue(upload_graph("x.mp4", profile="https://evil.example/steal"))
    info = pod.object_info()
    for node_id in ("SteadyDancerR2SaveVideo", "SteadyDancerR2SaveImages", "SteadyDancerR2Upload"):
        inputs = {name for group in info[node_id]["input"].values() for name in group}
        assert not inputs & {"endpoint", "bucket", "access_key_id", "secret_access_key", "session_token", "url"}


def cancel(pod, prompt, s3, started: str):
    """Presses Cancel once the server has seen `started`; the result."""
    before = len(s3.requests)
    prompt_id = pod.queue(prompt)
    end = time.monotonic() + 60
    while not any(operation == started for operation, _ in s3.requests[before:]) and time.monotonic() < end:
        time.sleep(0.02)
    pod.interrupt()
    return pod.wait(prompt_id, timeout=60)


def test_cancel_during_a_gigabyte(pod, s3):
    path = pod.base_directory / "output" / "big.mp4"
    with path.open("wb") as file:
        file.truncate(1024 * MIB)
    s3.bytes_per_second = 1e6  # minutes for what is in flight, which is not waited for
    assert cancel(pod, upload_graph("big.mp4"), s3, "UploadPart").interrupted
    end = time.monotonic() + 5
    while s3.uploads and time.monotonic() < end:
        time.sleep(0.05)
    assert not s3.uploads and not any("big.mp4" in key for key in s3.objects)
    assert path.stat().st_size == 1024 * MIB
    s3.bytes_per_second = 0
    assert key_of(pod.succeed(graph("after_cancel"))) in s3.objects
    path.unlink()


def test_cancel_while_encoding_leaves_no_half_file(pod, s3):
    prompt = graph("halfway", frames=400, size=512)
    prompt_id = pod.queue(prompt)
    folder = pod.base_directory / "output"
    end = time.monotonic() + 60
    while not list(folder.glob(".halfway*")) and time.monotonic() < end:
        time.sleep(0.01)
    pod.interrupt()
    assert pod.wait(prompt_id).interrupted, "encoding looks whether Cancel was pressed"
    assert not list(folder.glob("*halfway*"))


def test_the_secret_is_nowhere(pod, s3, tmp_path):
    result = pod.succeed(graph("canary", day_facts=True, link_minutes=5), workflow=WORKFLOW)
    s3.faults.append(Fault("403", "PutObject", 9))
    failed = pod.run(graph("canary_failed"))
    s3.faults.clear()
    places = {
        "log": pod.log(),
        "history": json.dumps(pod.get("/history")),
        "jobs": json.dumps(pod.get("/api/jobs")),
        "object_info": json.dumps(pod.object_info()),
        "settings": json.dumps(pod.get("/settings")),
        "route": json.dumps(pod.get("/steadydancer/r2")),
        "queue": json.dumps(pod.get("/queue")),
        "error": failed.error,
        "headers at the server": json.dumps(s3.headers),
        "object metadata": json.dumps([there["headers"] for there in s3.objects.values()]),
        "userdata": json.dumps(pod.get("/userdata?dir=.&recurse=true")),
    }
    places |= {f"object {key}": s3.body(key).decode("latin-1") for key in s3.objects}
    for path in [*pod.base_directory.rglob("*")]:
        if path.is_file() and not path.is_symlink() and "custom_nodes" not in path.parts:
            places[str(path)] = path.read_bytes().decode("latin-1")
    assert [name for name, text in places.items() if CANARY in text] == []
    # The link that was asked for is shown under the node only.
    assert [name for name, text in places.items() if "X-Amz-Signature" in text] == []
    assert result.succeeded and len(places) > 20


def test_the_link_is_shown_to_the_page_that_asked_for_it_alone(pod, s3):
    with pod.events() as events, Client(pod.url, pod.base_directory).events() as others:
        pod.succeed(graph("linked", link_minutes=5))
        end = time.monotonic() + 5
        while "X-Amz-Signature" not in str(events) and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(0.3)
    assert "X-Amz-Expires=300" in str(events)
    assert "X-Amz-Signature" not in str(others)


def test_no_link_is_shown_where_no_page_asked_for_it(pod, s3):
    """Without a page ComfyUI would tell it to every page that is open."""
    with Client(pod.url, pod.base_directory).events() as others:
        number = pod.post("/prompt", {"prompt": graph("headless_link", link_minutes=5)})["prompt_id"]
        assert pod.wait(number).succeeded
        end = time.monotonic() + 5
        while "No link is shown" not in str(others) and time.monotonic() < end:
            time.sleep(0.05)
    assert "No link is shown" in str(others) and "X-Amz-Signature" not in str(others)


@pytest.fixture(scope="module")
def volume(start_comfy, s3, tmp_path_factory):
    """A server on a volume without file locks, which says so as `volume.refuse(errno)` wants; its profiles are in a file."""
    folder = tmp_path_factory.mktemp("volume")
    profile = folder / "r2.toml"
    keys = f'access_key_id = "{s3.key_id}"\nsecret_access_key = "{s3.secret}"\n'
    tables = [f'[{name}]\nendpoint = "{s3.endpoint}"\n{keys}' for name in ("payroll", "boss")]
    profile.write_text(f'{tables[0]}buckets = ["renders", "cayman"]\n{tables[1]}bucket = "renders"\n')
    profile.chmod(0o600)
    (folder / "errno").write_text(str(errno.ENOLCK))
    variables = {"STEADYDANCER_R2_CONFIG": str(profile), "STEADYDANCER_TEST_LOCKS": str(folder / "errno")}
    server = start_comfy(variables=variables)
    server.refuse = lambda code: (folder / "errno").write_text(str(code))
    return server


CODES = ["ENOLCK", "EOPNOTSUPP", "ENOSYS", "ESTALE", "EIO"]


@pytest.mark.parametrize("code", CODES)
def test_a_volume_without_locks_keeps_what_the_shipped_template_makes(volume, s3, code):
    """One prompt after the other, so that ComfyUI samples once for all of these volumes."""
    volume.refuse(getattr(errno, code))
    shipped = load(ROOT / "example_workflows" / "api" / "steadydancer_from_video.json")
    volume.provide_models(*model_files(shipped))
    prompt = with_tiny_values(with_tiny_text_encoder(shipped))
    (made,) = (key for key, node in prompt.items() if node["class_type"] == "CreateVideo")
    (core,) = (node for node in prompt.values() if node["class_type"] == "SaveVideo")
    core["inputs"]["filename_prefix"] = f"core{code}"
    prompt["save"] = graph(f"ours{code}")["7"]
    prompt["save"]["inputs"]["video"] = [made, 0]
    result = volume.succeed(prompt, timeout=600)
    ours, by_core = sorted(
        (path for path in result.files if path.suffix == ".mp4"), key=lambda path: "core" in path.name
    )
    assert s3.body(key_of(result)) == ours.read_bytes() and probe(ours).frames == probe(by_core).frames == 17
    assert told(volume, code) == 1


@pytest.mark.parametrize("code", CODES)
def test_a_volume_without_locks_saves_and_sends(volume, s3, code):
    volume.refuse(getattr(errno, code))
    for number in range(2):
        result = volume.succeed(graph(f"unlocked{code}", color=number))
        assert s3.body(key_of(result)) == result.files[0].read_bytes()
    assert told(volume, code) == 1


def told(server, code: str) -> int:
    """How often the log says why files cannot be locked."""
    reason = re.escape(os.strerror(getattr(errno, code)))
    return len(re.findall(rf"Files cannot be locked on this volume \({reason}\)", server.log()))


def test_nobody_is_told_where_others_save(volume):
    from support.client import Refused

    told = json.dumps([volume.object_info(), volume.get("/steadydancer/r2")])
    with pytest.raises(Refused) as refused:
        volume.queue(graph("x", profile="nobody"))
    for name in ("payroll", "boss", "cayman"):
        assert name not in told + str(refused.value)


@pytest.mark.parametrize("order", list(itertools.permutations(["node", "command", "sync"])), ids="-".join)
def test_files_of_equal_name_size_and_time_are_objects_of_their_own(pod, s3, order):
    """Whoever sends first, and though each local file is deleted once it was sent."""
    home, contents = pod.base_directory, {}
    for number, door in enumerate(order):
        path = home / "output" / "-".join(order) / door / f"{''.join(order)}.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes([65 + number]) * 5000)
        os.utime(path, ns=(17 * 10**17, 17 * 10**17))
        contents[door] = path.read_bytes()
        if door == "node":
            pod.succeed(upload_graph(path.relative_to(home / "output").as_posix()))
        else:
            what = ["upload", path] if door == "command" else ["sync", path.parent]
            command = [sys.executable, ROOT / "cli.py", "r2", *what, "--comfyui", home]
            subprocess.run(command, env=os.environ | s3.profile, check=True)
        path.unlink()
    stored = [s3.body(key) for key in s3.objects if "".join(order) in key]
    assert sorted(stored) == sorted(contents.values())


def test_system_user_folder_is_not_served(pod):
    pod.succeed(graph("journaled"))
    assert (pod.base_directory / "user" / "__steadydancer" / "r2_journal.jsonl").exists()
    for address in ("/userdata/..%2F__steadydancer%2Fr2_journal.jsonl", "/userdata/__steadydancer%2Fr2_journal.jsonl"):
        with pytest.raises(urllib.error.HTTPError):
            pod.get_bytes(address)


def test_metadata_can_be_disabled(start_comfy, s3):
    server = start_comfy("--disable-metadata", variables=s3.profile)
    try:
        (path,) = server.succeed(graph("bare"), workflow=WORKFLOW).files
        assert not set(encode.video_tags(path)) & set(encode.GRAPH_TAGS)
    finally:
        server.stop()


def test_the_output_folder_is_kept_while_the_server_runs(start_comfy, s3):
    server = start_comfy(variables=s3.profile | {"ENABLE_R2_SYNC": "true"})
    try:
        output = server.base_directory / "output"
        moved = server.base_directory / "Moved.PNG"
        moved.write_bytes(b"a picture")
        os.utime(moved, (time.time() - 99,) * 2)
        moved.rename(output / "Moved.PNG")
        save = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "core"}}
        prompt = graph("both")
        prompt["8"] = save
        server.succeed(prompt)
        end = time.monotonic() + 30
        while server.get("/steadydancer/r2")["sent"] < 9 and time.monotonic() < end:
            time.sleep(0.2)
        time.sleep(3)
        status = server.get("/steadydancer/r2")
        assert status == {"enabled": True, "problem": "", "sent": 9, "waiting": 0, "sending": [], "failed": []}
        names = [key.rpartition("/")[2] for key in s3.objects]
        assert names.count("both_00001_.mp4") == 1  # by the node, not again by the sync
        assert names.count("Moved.PNG") == 1 and sum(name.startswith("core_") for name in names) == 8
        assert CANARY not in json.dumps(status) and CANARY not in server.log()
    finally:
        server.stop()


def test_the_route_of_a_server_without_sync(comfy_server):
    assert comfy_server.get("/steadydancer/r2") == {"enabled": False, "problem": ""}


def test_the_route_does_not_quote_an_endpoint_with_a_key_in_it(start_comfy, s3):
    mistaken = {"R2_ENDPOINT": f"https://KEY:{CANARY}@host", "ENABLE_R2_SYNC": "true"}
    server = start_comfy(variables=s3.profile | mistaken)
    try:
        end = time.monotonic() + 10
        while not (status := server.get("/steadydancer/r2"))["problem"] and time.monotonic() < end:
            time.sleep(0.1)
        assert status == {"enabled": True, "problem": "The save profile is not usable; the log says why."}
        assert "it must look like https://host" in server.log() and CANARY not in server.log()
    finally:
        server.stop()
