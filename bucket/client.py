"""The connection to a bucket, and its errors in plain words. boto3 is imported on the first connection only."""

import hashlib
import json
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from ..base.cancel import Cancelled, IsCancelled, stop_if
from .profiles import R2_HOST, Profile

REQUESTS = 8  # at once, over all uploads of a bucket
MIB = 1024 * 1024
SINGLE_PUT = 100 * MIB  # up to this size one request; above it multipart
PART = 50 * MIB  # every part but the last, as R2 demands
LARGEST_JSON = 16 * MIB  # of a metadata.json that we read; a day of ten thousand pictures has three
LOCAL = ("localhost", "127.0.0.1", "::1")
# Their documentation promises that an upload can be made to fail where the name is taken. Others are asked by `r2 test`.
KEEP_CONDITIONS = (f".{R2_HOST}", ".amazonaws.com", ".amazonaws.com.cn")
# At their most talkative these write signatures, session tokens and signed links into a log that ComfyUI serves.
TALKATIVE = ("boto3", "botocore", "s3transfer", "urllib3")

log = logging.getLogger(__name__)


class StorageError(RuntimeError):
    """What went wrong at the bucket, why, and what to do next; safe to show: it holds no key and no signature."""

    why = ""  # the part that is the same for every file


class KeyTaken(StorageError):
    """An object of that name exists, and overwriting was not asked for."""


class NotOffered(StorageError):
    """The service does not know what was asked of it, or not in this form."""


class UploadGone(StorageError):
    """The multipart upload does not exist any more."""


class FileChanged(Exception):
    """The file on this machine is not any more what it was when the upload began."""


class Bucket:
    """The bucket of a profile. Cheap to make; connects on first use; safe to use from several threads."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.name = profile.bucket
        address = urlsplit(profile.endpoint)
        self.address = f"{address.netloc or 'aws'}/{self.name}"  # names alone are not unique
        host = address.hostname or "s3.amazonaws.com"
        # Whether an upload that must not overwrite is refused by the service itself. None: nobody asked it yet.
        self.keeps_conditions = True if host.endswith(KEEP_CONDITIONS) else None
        self.plain_http = address.scheme == "http" and host not in LOCAL
        self._lock = threading.RLock()

    @property
    def client(self) -> Any:
        """boto3's S3 client, made on first use."""
        with self._lock:  # making a client is not thread-safe, using one is
            return self._client

    @cached_property
    def _client(self) -> Any:
        from botocore.config import Config

        inside = [name for name in logging.root.manager.loggerDict if name.partition(".")[0] in TALKATIVE]
        for logger in map(logging.getLogger, {*TALKATIVE, *inside}):  # those inside may have levels of their own
            logger.setLevel(max(logging.WARNING, logger.getEffectiveLevel()))
        if self.plain_http:
            log.warning(
                "The endpoint of profile '%s' begins with http://: what is sent can be read and changed on the way. "
                "Use https:// if the service has it.",
                self.profile.name,
            )
        profile = self.profile
        config = Config(
            # boto3's own default, a CRC trailer in a chunked body, is refused by R2 as "Unauthorized".
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            retries={"mode": "standard", "max_attempts": 6},
            s3={"addressing_style": "path" if profile.endpoint else "auto"},
            connect_timeout=10,
            read_timeout=60,
            max_pool_connections=2 * REQUESTS,
            user_agent_extra="steadydancer",
            # A proxy knows nothing of this machine's own addresses.
            proxies={} if urlsplit(profile.endpoint).hostname in LOCAL else None,
        )
        with self.plain_errors("connect"):
            session = _session(profile)
            region = profile.region if profile.endpoint or profile.region != "auto" else session.region_name
            return session.client(
                "s3",
                endpoint_url=profile.endpoint or None,
                region_name=region,
                config=config,
                verify=profile.ca_bundle or (True if profile.is_complete else None),
            )

    @property
    def transfers(self) -> Any:
        """The one transfer manager of this bucket; it reads parts from disk as they are sent."""
        with self._lock:  # a second one would send REQUESTS more at once
            return self._transfers

    @cached_property
    def _transfers(self) -> Any:
        from s3transfer.manager import TransferConfig, TransferManager
        from s3transfer.utils import OSUtils, ReadFileChunk

        class Files(OSUtils):
            def open_file_chunk_reader_from_fileobj(
                self, fileobj: Any, chunk_size: int, full_file_size: int, callbacks: Any, close_callbacks: Any
            ) -> "Whole":
                # The library would wait a minute for the server, and the server for bytes that are not there any more.
                return Whole(fileobj, chunk_size, full_file_size, callbacks, False, close_callbacks)

        class Whole(ReadFileChunk):
            def read(self, amount: int | None = None) -> bytes:
                data = super().read(amount)
                if not data and amount != 0 and self.tell() < len(self):
                    raise FileChanged("The file became shorter while it was sent.")
                return data

        class Transfers(TransferManager):
            # The library hands these to PutObject untouched but does not list the condition yet.
            ALLOWED_UPLOAD_ARGS = [*TransferManager.ALLOWED_UPLOAD_ARGS, "IfNoneMatch"]

        config = TransferConfig(
            multipart_threshold=SINGLE_PUT + 1, multipart_chunksize=PART, max_request_concurrency=REQUESTS
        )
        return Transfers(self.client, config, Files())

    def head(self, key: str) -> dict | None:
        """The object's facts (ContentLength, ETag, Metadata …; not every service tells all), or None when there is no such object."""
        from botocore.exceptions import ClientError

        with self.plain_errors(f"look for '{key}'"):
            try:
                return self.client.head_object(Bucket=self.name, Key=key)
            except ClientError as err:
                # A HEAD has no body, so a missing bucket is a bare 404 too: the next request names it.
                if _status(err) == 404:
                    return None
                # For the same reason a wrong secret, a wrong clock and a missing right all look alike: a GET names it.
                try:
                    self.client.get_object(Bucket=self.name, Key=key, Range="bytes=0-0")["Body"].close()
                except ClientError as named:
                    if _status(named) not in (404, 416):
                        raise
                raise

    def list(self, prefix: str = "") -> Iterator[dict]:
        """The objects below a prefix: Key, Size in bytes, LastModified."""
        with self.plain_errors("list the bucket"):
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
            for page in pages:
                yield from page.get("Contents", ())

    def read_json(self, key: str) -> tuple[dict, str | None]:
        """A small JSON object and its ETag ("" where the service tells none); an empty one and None when it does not exist.

        Raises StorageError when the object is something else: it is not ours to overwrite.
        """
        there = self.head(key)
        if there is None:
            return {}, None
        something_else = StorageError(f"'{key}' exists and is not a list of facts. Move it away or leave facts off.")
        if there.get("ContentLength", 0) > LARGEST_JSON:
            raise something_else
        with self.plain_errors(f"read '{key}'"):
            reply = self.client.get_object(Bucket=self.name, Key=key)
            try:
                return dict(json.loads(reply["Body"].read(LARGEST_JSON))), reply.get("ETag", "")
            except (ValueError, TypeError, RecursionError) as err:
                raise something_else from err

    def write_json(self, key: str, value: dict, etag: str | None) -> None:
        """Writes a small JSON object if it is still as read; raises KeyTaken when somebody else was faster.

        A service without conditions or ETags writes it in any case: read it again to know.
        """
        condition = {"IfNoneMatch": "*"} if etag is None else {"IfMatch": etag} if etag else {}
        try:
            self.put_small(key, value, **({} if self.keeps_conditions is False else condition))
        except NotOffered:
            if self.keeps_conditions is not None:
                raise
            self.put_small(key, value)
            self.keeps_conditions = False

    def put_small(self, key: str, value: dict, **condition: str) -> str:
        """Writes a small JSON object, if the condition holds. Returns the ETag that the service gave it."""
        body = json.dumps(value, indent=1, ensure_ascii=False).encode(errors="replace")
        kind = "application/json; charset=utf-8"
        with self.plain_errors(f"write '{key}'"):
            return self.client.put_object(Bucket=self.name, Key=key, Body=body, ContentType=kind, **condition).get(
                "ETag", ""
            )

    def sha256(self, key: str, cancelled: IsCancelled) -> str:
        """The hash of what the bucket holds, all of it fetched for that. Raises Cancelled between two blocks."""
        digest = hashlib.sha256()
        with self.plain_errors(f"read '{key}' back"):
            body = self.client.get_object(Bucket=self.name, Key=key)["Body"]
            try:
                while block := body.read(MIB):
                    stop_if(cancelled)
                    digest.update(block)
            finally:
                body.close()
        return digest.hexdigest()

    def delete(self, key: str) -> None:
        """Removes an object; one that is not there is no error. Raises StorageError."""
        with self.plain_errors(f"delete '{key}'"):
            self.client.delete_object(Bucket=self.name, Key=key)

    def abort_unfinished(self, key: str) -> None:
        """Removes every unfinished multipart upload to exactly this key.

        That is what a killed process left there, but also what another machine is sending to the same key just now: its
        upload then fails and is tried again. Give each machine a prefix of its own.
        """
        with self.plain_errors(f"tidy up '{key}'"):
            reply = self.client.list_multipart_uploads(Bucket=self.name, Prefix=key)
            for upload in reply.get("Uploads", ()):
                if upload["Key"] == key:
                    self.client.abort_multipart_upload(Bucket=self.name, Key=key, UploadId=upload["UploadId"])

    def link(self, key: str, seconds: int) -> str:
        """A link that anyone can open for that long. Whoever has it can read the object: never store it."""
        with self.plain_errors(f"make a link to '{key}'"):
            return self.client.generate_presigned_url(
                "get_object", Params={"Bucket": self.name, "Key": key}, ExpiresIn=seconds
            )

    @contextmanager
    def plain_errors(self, what: str) -> Iterator[None]:
        """Turns the library's errors into StorageError. `what` completes "Could not …"."""
        try:
            yield
        except (StorageError, Cancelled, FileChanged):
            raise
        except Exception as err:
            failure, reason = explain(err, self.profile)
            error = failure(f"Could not {what}: {reason}")
            error.why = reason
            raise error from err


def _session(profile: Profile) -> Any:
    """A session that takes from the machine's AWS variables and files what the profile leaves to them, and no more."""
    import boto3
    import botocore.session
    from botocore.configprovider import ConstantProvider

    if not profile.is_complete:
        return boto3.Session(profile_name=profile.aws_profile or None)
    variables = {
        name: (None, None, default, convert)  # neither a setting of a file nor a variable, only the library's default
        for name, (_, _, default, convert) in botocore.session.Session.SESSION_VARIABLES.items()
    }
    for name in ("config_file", "credentials_file"):
        variables[name] = (None, None, os.devnull, None)
    session = botocore.session.Session(session_vars=variables)
    session.get_component("config_store").set_config_provider("s3", ConstantProvider(None))  # has variables of its own
    return boto3.Session(
        aws_access_key_id=profile.access_key_id,
        aws_secret_access_key=profile.secret_access_key,
        aws_session_token=profile.session_token or None,
        botocore_session=session,
    )


def explain(err: Exception, profile: Profile) -> tuple[type[StorageError], str]:
    """The reason and the next step for an error of boto3, in the user's words, without ids or addresses of keys."""
    from botocore import exceptions as aws

    where = f"profile '{profile.name}'"
    if isinstance(err, aws.ClientError):
        return _refusal(err, profile)
    if isinstance(err, (aws.NoCredentialsError, aws.PartialCredentialsError, aws.ProfileNotFound)):
        return StorageError, f"no key was found for {where}. Add its access key id and secret access key."
    if isinstance(err, (aws.ConfigParseError, aws.ConfigNotFound)):
        return StorageError, f"the AWS files that {where} takes its keys from cannot be read. Correct or remove them."
    if isinstance(err, aws.SSLError):
        return StorageError, (
            "the secure connection was refused. Check the machine's clock and proxy. Where a company has a certificate "
            "of its own, name its file in R2_CA_BUNDLE, or as ca_bundle in the profile."
        )
    if isinstance(err, aws.ProxyConnectionError):
        return StorageError, "this machine's proxy could not be reached. Check HTTPS_PROXY and HTTP_PROXY."
    if type(err) is aws.HTTPClientError:  # the library's wrapping of whatever else went wrong
        inner = getattr(err, "kwargs", {}).get("error")
        if type(inner).__name__.startswith("ProxyScheme"):
            return StorageError, "this machine's proxy is of a kind that is not understood. Use an http:// proxy."
        if isinstance(inner, FileChanged):
            return StorageError, "the file changed while it was being sent. Upload it again."
    if isinstance(
        err, (aws.HTTPClientError, aws.ConnectionError, aws.IncompleteReadError, ConnectionError, TimeoutError)
    ):
        return StorageError, (
            "the endpoint could not be reached, or the connection broke and retries did not help. "
            f"Check the network and the endpoint of {where}."
        )
    if isinstance(err, FileNotFoundError):
        return StorageError, "the file is no longer there. It was moved or deleted meanwhile."
    if isinstance(err, PermissionError):
        return StorageError, "the file may not be read. Check its permissions."
    if isinstance(err, OSError):
        return StorageError, f"the file could not be read: {err.strerror or 'this machine does not say why'}."
    if isinstance(err, aws.BotoCoreError):
        return StorageError, f"the settings of {where} were refused before anything was sent. Check them all."
    log.error("An upload to %s failed unexpectedly", where, exc_info=err)
    return StorageError, "something unexpected happened. The log has the details."


def _refusal(err: Any, profile: Profile) -> tuple[type[StorageError], str]:
    """An answer of the server that says no. R2 gives S3's codes, its own numbers are in the message only."""
    code = err.response.get("Error", {}).get("Code", "")
    reply = err.response.get("ResponseMetadata", {})
    status = _status(err)
    where = f"profile '{profile.name}'"
    if status == 412 or code in ("PreconditionFailed", "ConditionalRequestConflict"):
        return KeyTaken, "an object of that name exists already, and overwriting was not asked for."
    if code == "NoSuchUpload":
        return UploadGone, "its unfinished upload was removed at the server. Upload it again."
    if code in ("ExpiredToken", "TokenRefreshRequired"):
        return StorageError, f"the temporary key of {where} has expired. Get a new one."
    if code == "RequestTimeTooSkewed":
        return StorageError, f"this machine's clock is wrong{_clock_error(reply)}. Set it and try again."
    if code == "SignatureDoesNotMatch":
        return StorageError, (
            f"the secret access key of {where} does not fit its key id, or this machine's clock is wrong"
            f"{_clock_error(reply)}. Copy the secret again without blanks and check the clock."
        )
    # R2 says InvalidArgument of a key id of the wrong length, but of other things too.
    message = err.response.get("Error", {}).get("Message", "").lower()
    wrong_key = code == "InvalidArgument" and "access key" in message
    if wrong_key or code in ("InvalidAccessKeyId", "Unauthorized", "InvalidToken") or status == 401:
        return StorageError, f"the server does not know the access key id of {where}. Copy the key again."
    if code == "NoSuchBucket":
        return StorageError, (
            f"there is no bucket '{profile.bucket}' at this endpoint. Check its name, and for an EU or FedRAMP bucket "
            "that the endpoint has .eu or .fedramp behind the account id."
        )
    if code == "AccessDenied" or status == 403:
        return StorageError, (
            f"the key of {where} may not do this in bucket '{profile.bucket}'. "
            "Give it Object Read & Write on this bucket, and check the bucket's name."
        )
    if code in ("SlowDown", "TooManyRequests") or status in (429, 503):
        return StorageError, "the server asked to slow down, and waiting did not help. Try again in a minute."
    if status >= 500 and status != 501:
        return StorageError, f"the server has a problem of its own (status {status}), and retries did not help."
    if code in ("EntityTooLarge", "MetadataTooLarge", "KeyTooLongError"):
        return StorageError, "the file or its name is larger than this server takes."
    return NotOffered, f"the server refused it ({code or status})."


def _status(err: Any) -> int:
    return err.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)


def _clock_error(reply: dict) -> str:
    """How far off this machine's clock is, by the server's Date header, when it matters."""
    try:
        server = parsedate_to_datetime(reply["HTTPHeaders"]["date"])
    except (KeyError, ValueError):
        return ""
    minutes = (datetime.now(timezone.utc) - server).total_seconds() / 60
    return f" by {abs(minutes):.0f} minutes" if abs(minutes) >= 1 else ""
