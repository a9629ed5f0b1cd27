# SPDX-License-Identifier: Apache-2.0
"""A challenge is answered as RFC 7616 says, and one that cannot be is not answered at all."""

import secrets
from typing import Any

import pytest
import requests
import urllib3

from snapshot_core.digest import DigestAuth

REALM, NONCE = "http-auth@example.org", "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v"
OPAQUE = "FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"
SHA_256 = 'Digest realm="%s", qop="auth, auth-int", algorithm=SHA-256, nonce="%s", opaque="%s"' % (
    REALM,
    NONCE,
    OPAQUE,
)
MD5 = SHA_256.replace("SHA-256", "MD5")
OF_MD5 = "8ca523f5e9506fed4657c9700eebdbec"
OF_SHA_256 = "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"


def refused(*challenges: str) -> requests.Response:
    answer = requests.Response()
    answer.status_code = 401
    headers = urllib3.HTTPHeaderDict()
    for challenge in challenges:
        headers.add("WWW-Authenticate", challenge)
    answer.raw = urllib3.HTTPResponse(headers=headers)
    return answer


def answered(auth: DigestAuth) -> str | None:
    request = requests.Request("GET", "http://www.example.org/dir/index.html").prepare()
    header = auth(request).headers.get("Authorization")
    return header.decode() if isinstance(header, bytes) else header


@pytest.fixture
def auth(monkeypatch: pytest.MonkeyPatch) -> DigestAuth:
    """The account of RFC 7616, section 3.9.1, and its random text."""
    cnonce = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
    monkeypatch.setattr(secrets, "token_hex", lambda *_: cnonce)
    return DigestAuth("Mufasa", "Circle of Life")


@pytest.mark.parametrize(
    ("challenges", "response"),
    [
        ([MD5], OF_MD5),
        ([SHA_256], OF_SHA_256),
        ([MD5, SHA_256], OF_SHA_256),
        ([SHA_256 + ", " + MD5], OF_SHA_256),
        (["Basic realm=x, " + MD5], OF_MD5),
        ([MD5 + ', Basic realm="x, Digest y", charset="UTF-8"'], OF_MD5),
        (["Negotiate", "Bearer", MD5], OF_MD5),
        (["Negotiate a0b1==, " + MD5.replace("Digest", "dIGEST")], OF_MD5),
        ([MD5.replace("algorithm=MD5, ", "")], OF_MD5),
        ([MD5.replace("MD5", "SHA-512-256"), MD5], OF_MD5),
    ],
)
def test_the_example_of_the_rfc_is_answered_as_it_says(
    auth: DigestAuth, challenges: list[str], response: str
) -> None:
    assert auth.learn(refused(*challenges))
    header = answered(auth) or ""
    assert header.startswith('Digest username="Mufasa", realm="%s", nonce="%s"' % (REALM, NONCE))
    assert 'response="%s"' % response in header
    assert 'opaque="%s", qop=auth, nc=00000001' % OPAQUE in header
    assert 'uri="/dir/index.html"' in header
    assert "Circle" not in header


def test_each_use_of_a_challenge_is_counted(auth: DigestAuth) -> None:
    auth.learn(refused(MD5))
    headers = [answered(auth) or "" for _ in range(3)]
    assert [header.partition("nc=")[2][:8] for header in headers] == [
        "00000001", "00000002", "00000003",
    ]  # fmt: skip


def test_quotes_and_letters_of_all_kinds_reach_the_server() -> None:
    auth = DigestAuth('bä"r\\', "pä€")
    auth.learn(refused('Digest realm="a \\"realm\\"", nonce="1", qop="auth"'))
    assert (answered(auth) or "").startswith(
        'Digest username="bä\\"r\\\\", realm="a \\"realm\\"", nonce="1"'
    )


@pytest.mark.parametrize(
    "challenges",
    [
        (),
        ("",),
        ("Basic realm=x",),
        ("Digest",),
        ('Digest realm="x"',),
        ('Digest nonce="x", qop="auth"',),
        ('Digest realm="x", nonce="y"',),
        ('Digest realm="x", nonce="y", qop="auth-int"',),
        ('Digest realm="x", nonce="y", qop="auth", algorithm=MD4',),
        ('Digest realm="x", nonce="y", qop="auth", algorithm=MD5-sess',),
        ('Digest realm="x, nonce="y", qop="',),
        ('Basic realm="Digest", nonce="y", qop="auth"',),
        ("," * 50_000,),
    ],
)
def test_what_cannot_be_answered_is_not_learned(
    auth: DigestAuth, challenges: tuple[str, ...]
) -> None:
    assert not auth.learn(refused(*challenges))
    assert not auth.is_challenged
    assert answered(auth) is None


def test_a_challenge_that_is_forgotten_is_not_answered(auth: DigestAuth) -> None:
    auth.learn(refused(MD5))
    auth.forget()
    assert answered(auth) is None


def test_a_challenge_that_another_thread_forgets_meanwhile_is_answered() -> None:
    class Forgetting(DigestAuth):
        def __getattribute__(self, name: str) -> Any:
            value = super().__getattribute__(name)
            if name == "_challenge":
                self._challenge = None
            return value

    auth = Forgetting("Mufasa", "Circle of Life")
    assert auth.learn(refused(MD5))
    assert NONCE in (answered(auth) or "")
    assert answered(auth) is None
