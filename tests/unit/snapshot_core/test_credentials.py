# SPDX-License-Identifier: Apache-2.0
"""Credentials come from a private file, are checked, are sent, and are never printed."""

import json
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from snapshot_core import errors
from snapshot_core.credentials import Credentials, Trust, read_secret_file
from tests.lab import certificates

WriteFile = Callable[..., str]


@pytest.fixture
def write_file(tmp_path: Path) -> WriteFile:
    def write(content: str | bytes, mode: int = 0o600) -> str:
        path = tmp_path / "auth"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(mode)
        return str(path)

    return write


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("username: anna\npassword: s3cret\n", Credentials("anna", "s3cret")),
        ("{username: anna, password: 'p: #x'}", Credentials("anna", "p: #x")),
        (json.dumps({"username": "anna", "password": 'q"\\'}), Credentials("anna", 'q"\\')),
        (
            "username: anna\npassword: s3cret\nscheme: digest",
            Credentials("anna", "s3cret", scheme="digest"),
        ),
        ('{"token": "t0ken"}', Credentials(token="t0ken")),
        ("token: t0ken", Credentials(token="t0ken")),
        ("username: bär\npassword: pässwörd", Credentials("bär", "pässwörd")),
    ],
)
def test_an_auth_file_is_yaml_or_json(
    write_file: WriteFile, text: str, expected: Credentials
) -> None:
    assert Credentials.read(write_file(text)) == expected


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_a_file_that_only_its_owner_may_read_is_taken(write_file: WriteFile, mode: int) -> None:
    assert read_secret_file(write_file("s3cret", mode)) == "s3cret"


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o644, 0o666, 0o620, 0o601])
def test_a_file_that_others_may_use_is_refused_with_the_remedy(
    write_file: WriteFile, mode: int
) -> None:
    path = write_file("token: s3cret", mode)
    with pytest.raises(errors.InvalidRequest, match="chmod 600 " + path) as caught:
        Credentials.read(path)
    assert "s3cret" not in str(caught.value)


def test_a_file_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidRequest, match="%s/none cannot be read" % tmp_path):
        Credentials.read(str(tmp_path / "none"))


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidRequest, match="cannot be read"):
        Credentials.read(str(tmp_path))


@pytest.mark.parametrize(
    "content",
    [
        b"token: s3cret\xff",
        "{token: s3cret",
        "token: s3cret: more",
        "\ttoken: s3cret",
        "token: !!python/object/apply:os.system [s3cret]",
        "token: s3cret\x00",
        # YAML takes these for a date and a number, and then for wrong ones
        "username: s3cret\npassword: 2024-13-45",
        "username: s3cret\npassword: 0b_",
        # deeper than its parser can follow
        "s3cret: " + "[" * 5000,
    ],
)
def test_a_file_that_is_neither_yaml_nor_json_is_refused_and_not_quoted(
    write_file: WriteFile, content: str | bytes
) -> None:
    with pytest.raises(errors.InvalidRequest) as caught:
        Credentials.read(write_file(content))
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "raw",
    [
        None,
        "s3cret",
        ["username", "password"],
        7,
        {},
        {"username": "s3cret"},
        {"password": "s3cret"},
        {"username": "anna", "password": "s3cret", "token": "s3cret"},
        {"token": "s3cret", "realm": "x"},
        {"user": "anna", "password": "s3cret"},
        {"username": "anna", "password": "s3cret", "scheme": "bearer"},
        {"username": "anna", "password": "s3cret", "scheme": "Digest"},
        {"username": "anna", "password": "s3cret", "scheme": ["digest"]},
        {"username": "anna", "scheme": "digest"},
        {"token": "s3cret", "scheme": "digest"},
        {"username": "anna", "password": ""},
        {"username": "", "password": "s3cret"},
        {"username": "anna", "password": None},
        {"username": "anna", "password": 1234},
        {"username": "anna", "password": ["s3cret"]},
        {"username": "anna", "password": "s3cret\n"},
        {"username": "anna\r\nX-Evil: 1", "password": "s3cret"},
        {"token": "s3cret\x00"},
        {"token": b"s3cret"},
        # A header takes a token as ASCII only, and a colon ends the user name in it.
        {"token": "s3cret€"},
        {"username": "an:na", "password": "s3cret"},
    ],
)
def test_a_wrong_shape_is_refused_and_not_quoted(raw: object) -> None:
    with pytest.raises(errors.InvalidRequest) as caught:
        Credentials.parse(raw)
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))
    assert "anna" not in str(caught.value)


@dataclass
class _Holder:
    credentials: Credentials


@pytest.mark.parametrize(
    "show",
    [
        repr,
        str,
        "{}".format,
        "{!r}".format,
        lambda value: "%s %r" % (value, value),
        lambda value: str([value, {"auth": value}]),
        lambda value: repr(_Holder(value)),
        ascii,
    ],
)
@pytest.mark.parametrize(
    "credentials", [Credentials("us3rname", "s3cret"), Credentials(token="s3cret")]
)
def test_credentials_do_not_print_themselves(
    credentials: Credentials, show: Callable[[object], str]
) -> None:
    shown = show(credentials)
    assert "<credentials>" in shown
    assert "s3cret" not in shown and "us3rname" not in shown


@pytest.mark.parametrize(
    "raw",
    [
        {"username": "anna", "password": "s3cret"},
        {"username": "anna", "password": "s3cret", "scheme": "basic"},
        {"username": "anna", "password": "s3cret", "scheme": "digest"},
        {"token": "t0ken"},
    ],
)
def test_the_wire_form_can_be_parsed_again(raw: dict[str, str]) -> None:
    credentials = Credentials.parse(raw)
    assert credentials.to_wire() == raw
    assert Credentials.parse(credentials.to_wire()) == credentials


def test_a_ca_file_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidRequest, match="the CA file %s/none" % tmp_path):
        Trust(cacert=str(tmp_path / "none"))


@pytest.mark.parametrize(
    "content", [b"", b"an authority", b"-----BEGIN CERTIFICATE-----", b"\x30\x82\x01\x0a\xff"]
)
@pytest.mark.parametrize("insecure", [False, True])
def test_a_ca_file_without_certificates_is_named(
    tmp_path: Path, content: bytes, insecure: bool
) -> None:
    cacert = tmp_path / "ca.pem"
    cacert.write_bytes(content)
    with pytest.raises(errors.InvalidRequest, match="the CA file %s holds no cert" % cacert):
        Trust(str(cacert), insecure)


def test_trust_says_how_a_session_verifies(tmp_path: Path) -> None:
    cacert = certificates.issue(tmp_path).cacert
    session = requests.Session()
    verify = []
    for trust in (Trust(), Trust(cacert=str(cacert)), Trust(insecure=True)):
        trust.apply(session)
        verify.append(session.verify)
    assert verify == [True, str(cacert), False]
