"""Where results go. A workflow holds a profile's *name*; endpoint, bucket and keys live outside it.

Three sources: the name `env` (R2_* variables), a TOML file of ours, and AWS profiles that name an `endpoint_url`.
"""

import configparser
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from ipaddress import IPv6Address
from pathlib import Path
from urllib.parse import quote, urlsplit

from ..base import environment
from ..base.plain import one_line
from ..base.toml import tomllib

AUTO, ENV = "auto", "env"
FILE = "r2.toml"
R2_HOST = "r2.cloudflarestorage.com"


@dataclass(frozen=True)
class Profile:
    """One place to save to. `buckets` is the allow-list; the first is used unless another is asked for by name."""

    name: str
    buckets: tuple[str, ...]
    endpoint: str = ""  # empty: AWS itself, found by region
    region: str = "auto"
    prefix: str = ""
    public_url: str = ""
    aws_profile: str = ""
    ca_bundle: str = ""  # a file with certificates to trust in place of the usual ones
    access_key_id: str = field(default="", repr=False)
    secret_access_key: str = field(default="", repr=False)
    session_token: str = field(default="", repr=False)

    @property
    def is_complete(self) -> bool:
        """Whether it says everything itself, so that nothing is taken from AWS variables and files of other jobs."""
        return bool(self.endpoint and self.access_key_id and self.secret_access_key)

    @property
    def bucket(self) -> str:
        """The bucket that is used."""
        return self.buckets[0]

    def with_bucket(self, bucket: str) -> "Profile":
        """The same profile writing to another bucket of its allow-list. Raises ValueError for any other bucket."""
        if bucket not in self.buckets:
            raise ValueError(
                f"Profile '{self.name}' may not write to bucket '{bucket}'. Choose one that its list has, or add the "
                "bucket to the profile."
            )
        return replace(self, buckets=(bucket, *(other for other in self.buckets if other != bucket)))

    def url(self, key: str) -> str:
        """Where others find the object: below the public URL if the profile has one, else the s3:// form."""
        if self.public_url:
            return f"{self.public_url.rstrip('/')}/{quote(key)}"
        return f"s3://{self.bucket}/{key}"


def names(config: Path) -> list[str]:
    """Every profile that a graph may name, `auto` and `env` first, and name:bucket for each further bucket.

    For the operator's eyes only: whoever reaches a ComfyUI server may queue, and need not know where others save.
    Reads two small files, no network, never raises.
    """
    try:
        ours = _read_toml(config)
    except (OSError, ValueError):
        ours = {}  # the reason is told when a profile is used
    found = [AUTO, ENV]
    for name, table in ours.items():
        buckets = table.get("buckets")
        further = buckets[1:] if isinstance(buckets, list) else []
        found += [name, *(f"{name}:{bucket}" for bucket in further)]
    return [*found, *(name for name in _aws_sections() if name not in ours)]


def find(name: str, config: Path) -> Profile | None:
    """The profile behind a name; `name:bucket` picks another bucket of its allow-list.

    `auto` is the environment if any R2_ variable is set, else the first profile of the TOML file, else None: nothing
    is configured. `config` is the TOML file (see `config_file`).
    Raises ValueError in plain words for an unknown name or an incomplete profile, PermissionError for a readable file.
    """
    name, _, bucket = name.partition(":")
    if name == ENV or (name == AUTO and _env_fields().keys() - {"ca_bundle", "prefix", "public_url"}):
        profile = _checked(ENV, _env_fields(), "the R2_ environment variables")
    elif name == AUTO:
        ours = _read_toml(config)
        if not ours:
            return None
        first = next(iter(ours))
        profile = _checked(first, ours[first], str(config))
    elif name in (ours := _read_toml(config)):
        profile = _checked(name, ours[name], str(config))
    elif name in (aws := _aws_sections()):
        profile = _checked(name, aws[name], "the AWS config file")
    else:
        raise ValueError(
            f"There is no save profile '{one_line(name)}' on this machine. Use auto, or describe it in {config}. "
            "The command `python cli.py r2 test` lists the profiles that there are."
        )
    return profile.with_bucket(bucket) if bucket else profile


def config_file(default: Path) -> Path:
    """The TOML file with our profiles: the one that STEADYDANCER_R2_CONFIG names, else `default`."""
    named = environment.text("STEADYDANCER_R2_CONFIG")
    return Path(os.path.expanduser(named)) if named else default


def check_endpoint(endpoint: str) -> str:
    """The endpoint without a trailing slash.

    Raises ValueError when it is not a bare http(s) address, or an R2 address of the wrong form: R2's is
    https://<account>.r2.cloudflarestorage.com, with .eu or .fedramp after the account for those jurisdictions.
    No message quotes the endpoint: a key may have been pasted into it.
    """
    try:
        parts = urlsplit(endpoint)
        host = parts.hostname or ""
        if "[" in parts.netloc:
            IPv6Address(re.sub(r"^\[|\](:\d+)?$", "", parts.netloc))  # urlsplit takes more than that
        bare = parts.scheme in ("http", "https") and host and parts.port != 0 and "@" not in parts.netloc
    except ValueError:
        bare = False
    if not bare or parts.query or parts.fragment:
        raise ValueError(
            "The profile's endpoint is not an S3 endpoint: it must look like https://host, without a key. Correct it."
        )
    if parts.path.strip("/"):
        raise ValueError(
            "The profile's endpoint has a path behind the host. Leave that out: the bucket is a setting of its own."
        )
    r2_form = rf"[0-9a-f]{{32}}(\.[a-z0-9-]+)?\.{re.escape(R2_HOST)}"
    if host.endswith(R2_HOST) and (parts.scheme != "https" or not re.fullmatch(r2_form, host)):
        raise ValueError(
            f"The profile's endpoint is not an R2 endpoint. It must be https://<account id>.{R2_HOST}, with .eu or "
            ".fedramp behind the account id for a bucket of that jurisdiction. Copy it from the bucket's settings."
        )
    return endpoint.rstrip("/")


def _env_fields() -> dict[str, str]:
    variables = {
        "endpoint": "R2_ENDPOINT",
        "bucket": "R2_BUCKET",
        "access_key_id": "R2_ACCESS_KEY_ID",
        "secret_access_key": "R2_SECRET_ACCESS_KEY",
        "session_token": "R2_SESSION_TOKEN",
        "ca_bundle": "R2_CA_BUNDLE",
        "prefix": "R2_PREFIX",
        "public_url": "R2_PUBLIC_URL",
    }
    return {key: value for key, variable in variables.items() if (value := environment.text(variable))}


def _read_toml(path: Path) -> dict[str, dict]:
    """The tables of our TOML file by name; empty where there is no file."""
    if not path.is_file():
        return {}
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise PermissionError(
            f"{path} holds keys, but other users of this machine can read it. Run: chmod 600 '{path}'"
        )
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as err:  # not TOML, not UTF-8, or made to break a parser
        where = re.search(r"line \d+", str(err))  # the parser's own message may quote a secret
        raise ValueError(f"{path} is not valid TOML ({where[0] if where else 'at its end'}). Correct it.") from None
    for name, table in tables.items():
        if name in (AUTO, ENV) or ":" in name or not isinstance(table, dict):
            raise ValueError(f"{path}: '{name}' cannot be a profile. Write a table [name] with another name.")
    return tables


def _aws_sections() -> dict[str, dict[str, str]]:
    """AWS profiles that name an endpoint_url; their keys stay with boto3, which reads them itself."""
    config = environment.text("AWS_CONFIG_FILE") or "~/.aws/config"
    parser = configparser.RawConfigParser()
    try:
        parser.read(os.path.expanduser(config), encoding="utf-8-sig")
    except (configparser.Error, OSError, UnicodeDecodeError):
        return {}
    found = {}
    for section in parser.sections():
        name = section.removeprefix("profile ").strip()
        if parser.has_option(section, "endpoint_url") and name not in (AUTO, ENV):
            known = {
                "endpoint": parser.get(section, "endpoint_url"),
                "aws_profile": name,
                "bucket": parser.get(section, "bucket", fallback=environment.text("R2_BUCKET")),
            }
            known |= {key: parser.get(section, key, fallback="") for key in ("region", "prefix", "public_url")}
            found[name] = {key: value for key, value in known.items() if value}
    return found


def _checked(name: str, values: Mapping, source: str) -> Profile:
    """A Profile out of a table, or ValueError naming the field (never a value) that is wrong."""
    values = dict(values)
    buckets = values.pop("buckets", None) or [values.pop("bucket", "")]
    values.pop("bucket", None)
    unknown = set(values) - {known.name for known in fields(Profile)} | {"name"} & set(values)
    if unknown:
        raise ValueError(f"Profile '{name}' has an unknown setting '{sorted(unknown)[0]}'. Correct {source}.")
    if not isinstance(buckets, list) or not all(isinstance(bucket, str) and bucket for bucket in buckets):
        raise ValueError(f"Profile '{name}' names no bucket. Add it to {source}.")
    wrong = [key for key, value in values.items() if not isinstance(value, str)]
    if wrong:
        raise ValueError(f"Profile '{name}': '{wrong[0]}' must be text in quotes. Correct {source}.")
    if values.get("endpoint"):
        values["endpoint"] = check_endpoint(values["endpoint"])
    elif "aws_profile" not in values:
        raise ValueError(f"Profile '{name}' has no endpoint. Add it to {source}.")
    for key in ("access_key_id", "secret_access_key"):
        if not values.get(key) and "aws_profile" not in values:
            raise ValueError(f"Profile '{name}' has no {key}. Add it to {source}.")
    for key in ("access_key_id", "secret_access_key", "session_token"):
        if re.search(r"\s|[^ -~]", values.get(key, "")):  # as a header it would be quoted in an error
            raise ValueError(f"Profile '{name}': {key} holds a blank or a control character. Correct {source}.")
    if values.get("ca_bundle") and not os.path.isfile(values["ca_bundle"]):
        raise ValueError(f"Profile '{name}': there is no file {values['ca_bundle']}. Correct ca_bundle in {source}.")
    return Profile(name=name, buckets=tuple(buckets), **values)
