"""metadata.json beside a day's objects: for each of them how it was made, so that a bucket explains itself."""

import threading
from collections.abc import Mapping
from typing import Any

from ..base.cancel import IsCancelled, pause
from ..base.retry import RetryPolicy, TransientError
from .client import Bucket, KeyTaken, StorageError

NAME = "metadata.json"
RETRIES = RetryPolicy(first=1.0, limit=1.0)  # R2 takes one write a second to the same key
_one_at_a_time = threading.Lock()


def facts_of_graph(prompt: Mapping[str, Mapping], node_id: str) -> dict[str, object]:
    """What can be read off an API prompt above one node: seed, variant, models and prompt texts, by input name.

    Linked inputs are followed, so another branch's seed is not taken.
    """
    facts: dict[str, Any] = {}
    models, texts, todo, seen = [], [], [node_id], set()
    while todo:
        current = todo.pop(0)
        if current in seen or current not in prompt:
            continue
        seen.add(current)
        for name, value in prompt[current].get("inputs", {}).items():
            if isinstance(value, list) and len(value) == 2:
                todo.append(str(value[0]))
            elif name in ("seed", "noise_seed"):
                facts.setdefault("seed", value)
            elif name == "variant":
                facts.setdefault("variant", value)
            elif name in ("unet_name", "ckpt_name", "model_name", "lora_name", "model") and isinstance(value, str):
                models.append(value)
            elif name == "text" and isinstance(value, str):
                texts.append(value)
    return facts | {name: found for name, found in (("models", models), ("prompt", texts)) if found}


def add(bucket: Bucket, facts: Mapping[str, Mapping[str, object]], cancelled: IsCancelled = lambda: False) -> None:
    """Adds the facts of objects, by key, to the metadata.json of their folder.

    Several machines may write at once: each write is refused if the file changed since it was read, and is tried again.
    Where the service keeps no conditions, what two machines write in the same moment may lose one of them. Raises
    StorageError, Cancelled.
    """
    folders: dict[str, dict] = {}
    for key, values in facts.items():
        folder, slash, name = key.rpartition("/")
        folders.setdefault(folder + slash + NAME, {})[name] = dict(values)
    with _one_at_a_time:
        for beside, fresh in folders.items():
            _add_to(bucket, beside, fresh, cancelled)


def _add_to(bucket: Bucket, beside: str, fresh: dict[str, dict], cancelled: IsCancelled) -> None:
    def write() -> None:
        day, etag = bucket.read_json(beside)
        try:
            bucket.write_json(beside, day | fresh, etag)
        except KeyTaken as err:
            raise TransientError("another machine wrote it in between") from err
        if not (bucket.keeps_conditions and etag != "") and not fresh.keys() <= bucket.read_json(beside)[0].keys():
            raise TransientError("another machine wrote over it")

    RETRIES.run(
        write,
        lambda err, tries, _: StorageError(f"'{beside}' was not written in {tries} attempts: each time {err}."),
        lambda seconds, _: pause(seconds, cancelled),
    )
