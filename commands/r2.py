"""`cli.py r2 test | upload | sync | ls`: Cloudflare R2 and other S3 buckets, with the nodes' profiles and journal."""

import argparse
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ..base.plain import one_line
from ..base.progress import TerminalLine, size
from ..base.state import state_file
from . import comfyui, user_folder

if TYPE_CHECKING:  # boto3 is imported by what needs it
    from ..bucket.client import Bucket
    from ..bucket.journal import Journal

TEST_OBJECT = "steadydancer-test.json"


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser = subparsers.add_parser("r2", help="save to Cloudflare R2 or another S3 bucket", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--profile", default="auto", help="a profile's name, or name:bucket (default: %(default)s)")
    common.add_argument("--config", type=Path, help="TOML file with profiles (default: ComfyUI's own)")
    common.add_argument("--comfyui", type=Path, help="ComfyUI's folder (default: the one the package is installed in)")

    test = actions.add_parser("test", parents=[common], help="try everything on a small object, and say what it can")
    test.set_defaults(action=_test)

    upload = actions.add_parser("upload", parents=[common], help="send files; the last line is the last one's key")
    upload.add_argument("files", nargs="+", type=Path, metavar="FILE")
    upload.add_argument("--key", help="key template (default: {prefix}/{date}/{name})")
    upload.add_argument("--prefix", help="instead of the profile's prefix")
    upload.add_argument("--overwrite", action="store_true", help="replace an object of the same name")
    upload.set_defaults(action=_upload)

    sync = actions.add_parser("sync", parents=[common], help="send what a folder holds and was not sent yet")
    sync.add_argument("folder", nargs="?", type=Path, help="default: ComfyUI's output folder")
    sync.add_argument("--watch", action="store_true", help="go on until stopped")
    sync.set_defaults(action=_sync)

    listing = actions.add_parser("ls", parents=[common], help="list objects")
    listing.add_argument("--prefix", default="", help="only keys that begin so")
    listing.set_defaults(action=_ls)
    return parser


def run(args: argparse.Namespace) -> int:
    """0 when everything went well, 1 when something did not arrive."""
    return args.action(args, _bucket(args))


def _bucket(args: argparse.Namespace) -> "Bucket":
    from ..bucket import profiles
    from ..bucket.client import Bucket

    config = _config(args)
    if args.config and not os.path.isfile(args.config):
        raise ValueError(f"There is no file {one_line(str(args.config))}. Correct --config.")
    profile = profiles.find(args.profile, config)
    if profile is None:
        raise ValueError(
            "No save profile is set up. Set R2_ENDPOINT, R2_BUCKET, R2_ACCESS_KEY_ID and R2_SECRET_ACCESS_KEY, "
            f"or describe one in {config}."
        )
    return Bucket(profile)


def _config(args: argparse.Namespace) -> Path:
    from ..bucket import profiles

    return args.config or profiles.config_file(state_file(profiles.FILE, user_folder(_comfyui(args))))


def _comfyui(args: argparse.Namespace) -> Path | None:
    """ComfyUI's base folder: asked for, or where the package is installed, or None."""
    return args.comfyui.absolute() if args.comfyui else comfyui()


def _journal(user: Path | None) -> "Journal":
    """The journal in ComfyUI's user folder, which its nodes use too, or without ComfyUI in the home folder."""
    from ..bucket.journal import FILE, Journal

    return Journal(state_file(FILE, user))


def _test(args: argparse.Namespace, bucket: "Bucket") -> int:
    import secrets

    from ..bucket import keys, profiles, service
    from ..bucket.client import StorageError

    profile = bucket.profile
    print(f"profile  {profile.name}")
    print(f"profiles {', '.join(one_line(name) for name in profiles.names(_config(args)))}")
    print(f"endpoint {urlsplit(profile.endpoint).netloc or 'AWS'}{', not encrypted' if bucket.plain_http else ''}")
    print(f"bucket   {bucket.name}")
    # One name for ever: a key that may not delete leaves one small object, and not one more each time.
    key, content = keys.fill("{prefix}/" + TEST_OBJECT, {"prefix": profile.prefix}), {"test": secrets.token_hex(8)}
    steps = {
        "write": lambda: bucket.put_small(key, content),
        "read": lambda: bucket.read_json(key)[0] == content,
        "list": lambda: key in [item["Key"] for item in bucket.list(key)],
    }
    try:
        for name, step in steps.items():
            _timed(name, step)
        can = service.try_out(bucket, key)
    except BaseException:
        with suppress(RuntimeError):  # the first error is the one to tell
            bucket.delete(key)
        raise
    try:
        _timed("delete", lambda: bucket.delete(key))
    except StorageError as err:
        print(f"delete   not possible, and not needed. The small object '{key}' stays. {err}")
    conditions = {
        service.KEPT: "kept: the service itself refuses to overwrite",
        service.IGNORED: "ignored: before each upload it is looked up whether the name is taken",
        service.REFUSED: "refused: before each upload it is looked up whether the name is taken",
    }
    print(f"conditions {conditions[can.conditions]}")
    print(
        f"ETags    {'MD5: uploads are checked by them' if can.md5_etags else 'of another kind: uploads are read back'}"
    )
    print(
        f"parts    {'not possible, so files above 100 MB cannot be sent: ' + can.multipart if can.multipart else 'possible'}"
    )
    _journal(user_folder(_comfyui(args))).note_service(bucket.address, can.conditions == service.KEPT)
    return 0


def _timed(name: str, step: Callable[[], object]) -> None:
    started = time.monotonic()
    if step() is False:
        raise RuntimeError(f"What was written could not be found again at '{name}'. Check the bucket's settings.")
    print(f"{name:8} ok, {1000 * (time.monotonic() - started):.0f} ms")


def _upload(args: argparse.Namespace, bucket: "Bucket") -> int:
    from ..bucket import keys
    from ..bucket.upload import deliver

    missing = [path for path in args.files if not os.path.isfile(path)]
    if missing:
        raise ValueError(f"There is no file {one_line(str(missing[0]))}. Nothing was sent.")
    journal, failed = _journal(user_folder(_comfyui(args))), 0
    prefix = bucket.profile.prefix if args.prefix is None else args.prefix
    for path in (path.resolve() for path in args.files):
        name = one_line(path.name)
        try:
            with bucket.plain_errors(f"read {name}"):
                times = keys.file_times(path.stat().st_mtime)
            key = keys.fill(args.key or keys.TEMPLATE, {"prefix": prefix, **times, **keys.file_names(path.name)})
            with journal.claim(path) as ours:
                if not ours:
                    raise RuntimeError(f"{name} is being sent by ComfyUI or a sync. Wait for it, or try again.")
                print(deliver(bucket, path, key, journal, args.overwrite, TerminalLine(name)).key)
        except (RuntimeError, ValueError) as err:  # the other files can still go
            print(err, file=sys.stderr)
            failed += 1
    return 1 if failed else 0


def _sync(args: argparse.Namespace, bucket: "Bucket") -> int:
    from ..bucket.sync import Sync

    base = _comfyui(args)
    folder = args.folder or (base / "output" if base else None)
    if folder is None or not os.path.isdir(folder):
        raise ValueError(f"There is no folder {one_line(str(folder or 'to send'))}. Name one: cli.py r2 sync FOLDER")
    folder = folder.resolve()
    beside = folder.parent / "user"
    journal = _journal(user_folder(base) or (beside if beside.is_dir() else None))
    journal.adopt(folder / ".steadydancer" / journal.path.name, folder)
    sync = Sync(folder, bucket, journal)

    def sent(path: Path, key: str) -> None:
        print(f"{one_line(path.relative_to(folder).as_posix())} → {key}", flush=True)

    if args.watch:
        sync.run(threading.Event(), sent)
        return 0
    total = count = sync.round(on_sent=sent)
    if sync.unfinished:
        print("Waiting for what is still being written. Ctrl-C ends it.", file=sys.stderr)
    while sync.unfinished:
        time.sleep(0.5)
        count = sync.round(on_sent=sent)
        total += count
    left = sync.waiting - count + len(sync.left_out)
    print(f"{total} sent, {left} left", file=sys.stderr)
    for item in sync.status()["failed"]:
        print(f"{item['file']}: {item['reason']}", file=sys.stderr)
    return 1 if left else 0


def _ls(args: argparse.Namespace, bucket: "Bucket") -> int:

    for item in bucket.list(args.prefix):
        print(f"{item['LastModified']:%Y-%m-%d %H:%M:%S}  {size(item['Size']):>9}  {one_line(item['Key'])}")
    return 0
