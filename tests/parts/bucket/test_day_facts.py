"""metadata.json: what is read off a graph, and several machines writing at once."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from steadydancer.base.cancel import Cancelled
from steadydancer.base.retry import RetryPolicy
from steadydancer.bucket import day_facts
from steadydancer.bucket.client import StorageError


def test_facts_come_from_the_branch_above_the_node():
    prompt = {
        "1": {"class_type": "UNETLoader", "inputs": {"unet_name": "dancer.safetensors"}},
        "2": {"class_type": "KSampler", "inputs": {"model": ["1", 0], "seed": 7, "positive": ["5", 0]}},
        "3": {"class_type": "SteadyDancerR2SaveVideo", "inputs": {"video": ["2", 0], "profile": "work"}},
        "5": {"class_type": "CLIPTextEncode", "inputs": {"text": "a dance", "clip": ["1", 0]}},
        "4": {"class_type": "KSampler", "inputs": {"seed": 99, "variant": "other"}},
    }
    assert day_facts.facts_of_graph(prompt, "3") == {
        "seed": 7,
        "models": ["dancer.safetensors"],
        "prompt": ["a dance"],
    }
    assert day_facts.facts_of_graph({}, "3") == {}


def test_machines_writing_at_once_lose_nothing(s3, connect):
    buckets = [connect() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: day_facts.add(buckets[n], {f"day/{n}.mp4": {"seed": n}}), range(4)))
    assert connect().read_json("day/metadata.json")[0] == {f"{n}.mp4": {"seed": n} for n in range(4)}


def test_a_file_of_somebody_else_is_left_alone(s3, bucket):
    bucket.client.put_object(Bucket="renders", Key="day/metadata.json", Body=b"my own notes")
    with pytest.raises(StorageError, match="not a list of facts"):
        day_facts.add(bucket, {"day/a.mp4": {}})
    assert s3.body("day/metadata.json") == b"my own notes"


def test_cancel_ends_the_waiting_for_other_machines(bucket, monkeypatch):
    """A write that another machine is always faster with is tried again, but not after Cancel."""
    monkeypatch.setattr(day_facts, "RETRIES", RetryPolicy(first=60.0))
    read = bucket.read_json

    def overtaken(key):
        found = read(key)
        bucket.client.put_object(Bucket="renders", Key=key, Body=b'{"theirs": {}}' + b" " * len(pressed))
        pressed.append(key)
        return found

    monkeypatch.setattr(bucket, "read_json", overtaken)
    pressed, started = [], time.monotonic()
    with pytest.raises(Cancelled):
        day_facts.add(bucket, {"day/a.mp4": {}}, lambda: bool(pressed))
    assert len(pressed) == 1 and time.monotonic() - started < 5
    monkeypatch.setattr(day_facts, "RETRIES", RetryPolicy(attempts=2, first=0.01))
    with pytest.raises(
        StorageError, match=r"'day/metadata.json' was not written in 2 attempts: each time another machine"
    ):
        day_facts.add(bucket, {"day/a.mp4": {}})
