"""Profiles: where they come from, what is refused, and that no message holds a secret."""

import os

import pytest
from steadydancer.bucket import profiles

ACCOUNT = "0123456789abcdef" * 2
R2 = f"https://{ACCOUNT}.r2.cloudflarestorage.com"
ENV = {"R2_ENDPOINT": R2, "R2_BUCKET": "renders", "R2_ACCESS_KEY_ID": "ID", "R2_SECRET_ACCESS_KEY": "CANARY"}
TOML = f"""
[work]
endpoint = "{R2}"
buckets = ["renders", "drafts"]
access_key_id = "ID"
secret_access_key = "CANARY"
prefix = "pod"
public_url = "https://cdn.example.com/"
"""


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path):
    for name in [*ENV, "R2_SESSION_TOKEN", "R2_CA_BUNDLE", "R2_PREFIX", "R2_PUBLIC_URL", "STEADYDANCER_R2_CONFIG"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws"))


@pytest.fixture
def config(tmp_path):
    def write(text: str = TOML, mode: int = 0o600):
        path = tmp_path / "r2.toml"
        path.write_text(text, encoding="utf-8")
        path.chmod(mode)
        return path

    return write


def test_nothing_configured_is_no_profile(tmp_path):
    assert profiles.find("auto", tmp_path / "none.toml") is None
    assert profiles.names(tmp_path / "none.toml") == ["auto", "env"]


def test_the_environment_wins_on_auto(monkeypatch, config):
    for name, value in {**ENV, "R2_SESSION_TOKEN": "TOKEN"}.items():
        monkeypatch.setenv(name, value)
    profile = profiles.find("auto", config())
    assert (profile.name, profile.endpoint, profile.bucket) == ("env", R2, "renders")
    assert (profile.access_key_id, profile.secret_access_key, profile.session_token) == ("ID", "CANARY", "TOKEN")


@pytest.mark.parametrize("missing", ENV)
def test_an_incomplete_environment_is_named_not_ignored(monkeypatch, config, missing):
    for name, value in ENV.items():
        if name != missing:
            monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="Add it to the R2_ environment variables") as caught:
        profiles.find("auto", config())
    assert "CANARY" not in str(caught.value)


def test_prefix_and_public_address_of_the_environment(monkeypatch, config):
    monkeypatch.setenv("R2_PREFIX", "pod")
    monkeypatch.setenv("R2_PUBLIC_URL", "https://cdn.example.com/")
    assert profiles.find("auto", config()).name == "work", "alone they are no profile"
    for name, value in ENV.items():
        monkeypatch.setenv(name, value)
    found = profiles.find("auto", config())
    assert found.prefix == "pod" and found.url("a b.mp4") == "https://cdn.example.com/a%20b.mp4"


def test_toml_profiles_with_allowed_buckets(config):
    path = config()
    assert profiles.names(path) == ["auto", "env", "work", "work:drafts"]
    assert profiles.find("auto", path).name == "work"
    assert profiles.find("work", path).bucket == "renders"
    assert profiles.find("work:drafts", path).bucket == "drafts"
    with pytest.raises(ValueError, match="may not write to bucket 'other'"):
        profiles.find("work:other", path)
    with pytest.raises(ValueError, match="no save profile 'home'"):
        profiles.find("home", path)


def test_a_file_of_windows_notepad(config):
    assert profiles.find("work", config("\ufeff" + TOML.lstrip())).bucket == "renders"


def test_the_config_variable_names_another_file(monkeypatch, config, tmp_path):
    monkeypatch.setenv("STEADYDANCER_R2_CONFIG", str(config()))
    assert profiles.config_file(tmp_path / "none.toml") == tmp_path / "r2.toml"
    monkeypatch.delenv("STEADYDANCER_R2_CONFIG")
    assert profiles.config_file(tmp_path / "none.toml") == tmp_path / "none.toml"


@pytest.mark.skipif(os.name != "posix", reason="the system has no owner-only permissions")
def test_a_file_others_can_read_is_refused(config):
    path = config(mode=0o640)
    with pytest.raises(PermissionError, match="chmod 600"):
        profiles.find("work", path)
    assert profiles.names(path) == ["auto", "env"]


@pytest.mark.parametrize(
    "change, message",
    [
        (("endpoint =", "endpiont ="), "unknown setting 'endpiont'"),
        (('buckets = ["renders", "drafts"]', ""), "names no bucket"),
        (('secret_access_key = "CANARY"', ""), "no secret_access_key"),
        (('"CANARY"', '"CANARY\\nX"'), "holds a blank or a control character"),
        (('"CANARY"', "12"), "must be text"),
        (('"CANARY"', '"CANARY'), "is not valid TOML"),
        (("[work]", "[auto]"), "'auto' cannot be a profile"),
    ],
)
def test_mistakes_are_named_without_values(config, change, message):
    with pytest.raises(ValueError, match=message) as caught:
        profiles.find("work", config(TOML.replace(*change)))
    assert "CANARY" not in str(caught.value)


def test_aws_profiles_with_an_endpoint(monkeypatch, tmp_path, config):
    (tmp_path / "aws").write_text(
        f"[default]\nregion = us-east-1\n[profile r2]\nendpoint_url = {R2}\nregion = auto\nbucket = renders\n"
        "s3 =\n  addressing_style = path\n[profile minio]\nendpoint_url = http://minio:9000\n"
    )
    assert profiles.names(config()) == ["auto", "env", "work", "work:drafts", "r2", "minio"]
    profile = profiles.find("r2", config())
    assert (profile.aws_profile, profile.bucket, profile.endpoint) == ("r2", "renders", R2)
    with pytest.raises(ValueError, match="names no bucket"):
        profiles.find("minio", config())


def test_keys_of_an_aws_profile_come_from_its_credentials_file(monkeypatch, tmp_path, config):
    from steadydancer.bucket.client import Bucket

    (tmp_path / "aws").write_text(f"[profile r2]\nendpoint_url = {R2}\nregion = auto\nbucket = renders\n")
    (tmp_path / "credentials").write_text("[r2]\naws_access_key_id = ID\naws_secret_access_key = CANARY\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    client = Bucket(profiles.find("r2", config())).client
    assert client._request_signer._credentials.secret_key == "CANARY"
    assert client.meta.endpoint_url == R2


# What other jobs left in the environment, and what it would change.
FOREIGN = {
    "AWS_PROFILE": "work",
    "AWS_DEFAULT_PROFILE": "work",
    "AWS_CA_BUNDLE": "/nonexistent.pem",
    "REQUESTS_CA_BUNDLE": "/nonexistent.pem",
    "AWS_ACCESS_KEY_ID": "OTHER",
    "AWS_SECRET_ACCESS_KEY": "OTHER",
    "AWS_SESSION_TOKEN": "OTHER",
    "AWS_DEFAULT_REGION": "eu-west-1",
    "AWS_REGION": "eu-west-1",
    "AWS_ENDPOINT_URL": "https://other.example",
    "AWS_ENDPOINT_URL_S3": "https://other.example",
    "AWS_USE_FIPS_ENDPOINT": "true",
    "AWS_USE_DUALSTACK_ENDPOINT": "true",
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_supported",
    "AWS_RETRY_MODE": "nonsense",
    "AWS_MAX_ATTEMPTS": "nonsense",
    "AWS_DEFAULTS_MODE": "nonsense",
    "AWS_DATA_PATH": "/nonexistent",
    "AWS_S3_US_EAST_1_REGIONAL_ENDPOINT": "nonsense",
    "AWS_S3_USE_ARN_REGION": "nonsense",
    "AWS_ACCOUNT_ID_ENDPOINT_MODE": "nonsense",
}
BROKEN = {
    "no section's end": "[default]\nregion = us-east-1\n[broken\n",
    "no key": "[default]\n= x\nno value\n",
    "twice": "[default]\n[default]\n",
    "another profile's process": "[default]\ncredential_process = /bin/false\nregion = eu-west-1\nca_bundle = /none.pem\n",
}


def facts(client) -> tuple:
    keys = client._request_signer._credentials
    config = client.meta.config
    return (
        (keys.access_key, keys.secret_key, keys.token, client.meta.endpoint_url, config.region_name)
        + (config.retries, config.request_checksum_calculation, config.s3)
        + (client._endpoint.http_session._verify,)
    )


seen: list = []


@pytest.fixture
def complete():
    from steadydancer.bucket.client import Bucket

    return lambda: (
        Bucket(profiles.Profile("x", ("renders",), R2, access_key_id="ID", secret_access_key="CANARY")).client
    )


@pytest.fixture
def alone(complete, monkeypatch):
    """What a client is where nothing lies around it: looked at once, a client takes a second."""
    for variable in FOREIGN:
        monkeypatch.delenv(variable, raising=False)
    if not seen:
        seen.append(facts(complete()))
    return seen[0]


@pytest.mark.parametrize("name", [*FOREIGN, "all"])
def test_a_complete_profile_takes_nothing_from_the_environment(monkeypatch, complete, alone, name):
    for variable in FOREIGN if name == "all" else [name]:
        monkeypatch.setenv(variable, FOREIGN[variable])
    assert facts(complete()) == alone


@pytest.mark.parametrize("variable", ["AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"])
@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_a_complete_profile_reads_no_aws_file(monkeypatch, complete, alone, tmp_path, variable, text):
    (tmp_path / "other").write_text(text)
    monkeypatch.setenv(variable, str(tmp_path / "other"))
    assert facts(complete()) == alone
    monkeypatch.setenv(variable, "~nobody-here/config")
    assert facts(complete()) == alone and profiles.names(tmp_path / "none.toml") == ["auto", "env"]


def test_a_certificate_file_of_the_profiles_own(monkeypatch, config, tmp_path):
    from steadydancer.bucket.client import Bucket

    own = tmp_path / "company.pem"
    with pytest.raises(ValueError, match="there is no file .*company.pem. Correct ca_bundle"):
        profiles.find("work", config(TOML + f'ca_bundle = "{own}"\n'))
    own.write_text("a certificate")
    client = Bucket(profiles.find("work", config(TOML + f'ca_bundle = "{own}"\n'))).client
    assert client._endpoint.http_session._verify == str(own)
    monkeypatch.setenv("R2_CA_BUNDLE", str(own))
    assert profiles.find("auto", config()).name == "work"  # alone it is no profile
    for name, value in ENV.items():
        monkeypatch.setenv(name, value)
    assert profiles.find("auto", config()).ca_bundle == str(own)


def test_no_message_lists_where_others_save(config):
    for name in ("home", "work:other"):
        with pytest.raises(ValueError) as caught:
            profiles.find(name, config(TOML + '[boss]\nbucket = "payroll"\n'))
        assert not {"boss", "payroll", "drafts", "renders"} & set(str(caught.value).replace("'", " ").split())


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a = " + b"[" * 100_000, b"[a]\nx = 9" + b"9" * 10_000])
def test_a_damaged_file_is_said_to_be_no_toml(config, tmp_path, content):
    path = config()
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not valid TOML|has an unknown setting"):
        profiles.find("auto", path)
    assert profiles.names(path)[:2] == ["auto", "env"]


@pytest.mark.parametrize(
    "endpoint",
    [
        R2,
        R2 + "/",
        f"https://{ACCOUNT}.eu.r2.cloudflarestorage.com",
        f"https://{ACCOUNT}.fedramp.r2.cloudflarestorage.com",
    ]
    + [
        "https://s3.eu-central-003.backblazeb2.com",
        "http://127.0.0.1:9000",
        "http://[::1]:9000",
        "https://s3.amazonaws.com",
    ],
)
def test_good_endpoints(endpoint):
    assert profiles.check_endpoint(endpoint) == endpoint.rstrip("/")


@pytest.mark.parametrize(
    "endpoint",
    [f"{R2}/renders", R2.replace("https", "http"), "https://short.r2.cloudflarestorage.com", "ftp://host", "host"]
    + [
        "https://KEY:CANARY@host",
        "https://:CANARY@host",
        "https://KEY:CANARY",
        "https://[CANARY]",
        "https://[v1.CANARY]",
        "https://[::1]CANARY",
        "CANARY",
        f"{R2}/CANARY",
        f"{R2}?CANARY",
        "https://CANARY.r2.cloudflarestorage.com",
        "https://r2.cloudflarestorage.com",
        f"https://{ACCOUNT}.a.b.r2.cloudflarestorage.com",
    ],
)
def test_bad_endpoints(endpoint):
    with pytest.raises(ValueError, match="endpoint") as caught:
        profiles.check_endpoint(endpoint)
    assert "CANARY" not in str(caught.value)


def test_a_profile_never_shows_its_secrets(config):
    profile = profiles.find("work", config())
    assert "CANARY" not in repr(profile) and "CANARY" not in str(profile)


def test_urls(config):
    profile = profiles.find("work", config())
    assert profile.url("pod/2026-01-02/a b#é.mp4") == "https://cdn.example.com/pod/2026-01-02/a%20b%23%C3%A9.mp4"
    assert profiles.Profile("x", ("renders",)).url("a b.mp4") == "s3://renders/a b.mp4"
