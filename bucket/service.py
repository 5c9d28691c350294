"""What a bucket's service can do, tried out on one small object: S3 is spoken in dialects."""

import hashlib
from dataclasses import dataclass

from .client import Bucket, KeyTaken, NotOffered, StorageError

KEPT, IGNORED, REFUSED = "kept", "ignored", "refused"


@dataclass(frozen=True)
class Service:
    """What the service behind a bucket can do."""

    conditions: (
        str  # KEPT: it refuses to overwrite when asked to; IGNORED: it overwrites; REFUSED: it knows no such wish
    )
    md5_etags: bool  # its ETags tell the content; else what was sent is read back
    multipart: str  # "" or why large files cannot be sent in parts


def try_out(bucket: Bucket, key: str) -> Service:
    """Writes a few bytes to `key`, which exists already, again and again. Raises StorageError when even that fails."""
    try:
        bucket.put_small(key, {"test": "condition"}, IfNoneMatch="*")
        conditions = IGNORED
    except KeyTaken:
        conditions = KEPT
    except NotOffered:
        conditions = REFUSED
    etag = bucket.put_small(key, {})
    md5_etags = etag.strip('"').lower() == hashlib.md5(b"{}", usedforsecurity=False).hexdigest()
    try:
        _multipart(bucket, key)
        multipart = ""
    except StorageError as err:
        multipart = err.why
    return Service(conditions, md5_etags, multipart)


def _multipart(bucket: Bucket, key: str) -> None:
    place = {"Bucket": bucket.name, "Key": key}
    with bucket.plain_errors("send in parts"):
        upload = bucket.client.create_multipart_upload(**place)["UploadId"]
        try:
            part = bucket.client.upload_part(**place, UploadId=upload, PartNumber=1, Body=b"{}")
            parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
            bucket.client.complete_multipart_upload(**place, UploadId=upload, MultipartUpload=parts)
        except BaseException:
            bucket.client.abort_multipart_upload(**place, UploadId=upload)
            raise
