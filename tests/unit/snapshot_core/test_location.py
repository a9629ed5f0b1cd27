# SPDX-License-Identifier: Apache-2.0
"""Which storage URLs and image names are taken, and how the others are refused."""

import pytest

from snapshot_core import errors
from snapshot_core.location import Location, check_image_name, part_name

GOOD = [
    ("http://10.10.1.1:8080/snapshots", Location("http", "10.10.1.1:8080", "/snapshots")),
    ("http://host/a/b/", Location("http", "host", "/a/b")),
    ("http://host", Location("http", "host", "")),
    ("HTTP://host/dir", Location("http", "host", "/dir")),
    ("https://host:8443/dir", Location("https", "host:8443", "/dir")),
    ("https://[fd00::1]:8443/dir", Location("https", "[fd00::1]:8443", "/dir")),
    ("http://host/with%20space", Location("http", "host", "/with%20space")),
    ("http://host/~user/a@b", Location("http", "host", "/~user/a@b")),
    ("http://host/dä", Location("http", "host", "/d%C3%A4")),
    (
        "https://host/%e4/ł%C5%82/100%!$&'()*+,;=:",
        Location("https", "host", "/%e4/%C5%82%C5%82/100%25!$&'()*+,;=:"),
    ),
    ("nfs://host/export", Location("nfs", "host", "/export")),
    ("nfs://host:2049/export/", Location("nfs", "host:2049", "/export")),
    ("nfs://host/", Location("nfs", "host", "/")),
    ("nfs://[fd00::1]:2049/export", Location("nfs", "[fd00::1]:2049", "/export")),
    ("nfs://host/with%20space", Location("nfs", "host", "/with space")),
    ("10.10.1.1:/var/lib/snapshots", Location("nfs", "10.10.1.1", "/var/lib/snapshots")),
    ("host:/export/", Location("nfs", "host", "/export")),
    ("host:/", Location("nfs", "host", "/")),
    ("[fd00::1]:/export", Location("nfs", "[fd00::1]", "/export")),
    ("[fe80::1%2]:/export", Location("nfs", "[fe80::1%2]", "/export")),
    ("file:///var/images", Location("file", "", "/var/images")),
    ("file:///", Location("file", "", "/")),
    ("file:/var/images", Location("file", "", "/var/images")),
    ("file:///with%20space/", Location("file", "", "/with space")),
    ("file:///b%C3%BCro", Location("file", "", "/büro")),
    ("file:///büro", Location("file", "", "/büro")),
]


@pytest.mark.parametrize(("url", "expected"), GOOD)
def test_a_good_url_is_parsed(url: str, expected: Location) -> None:
    assert Location.parse(url) == expected


@pytest.mark.parametrize("expected", [case[1] for case in GOOD if " " not in case[1].path])
def test_a_location_prints_as_a_url_that_means_the_same(expected: Location) -> None:
    assert Location.parse(str(expected)) == expected


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        (None, "must be a text"),
        (7, "must be a text"),
        (b"http://host/dir", "must be a text"),
        (["http://host/dir"], "must be a text"),
        ("https://höst/dir", "must be plain ASCII"),
        ("nfs://höst/dir", "must be plain ASCII"),
        ("", "unknown scheme"),
        ("host", "unknown scheme"),
        ("/var/images", "unknown scheme"),
        ("ftp://host/dir", "unknown scheme"),
        ("s3://bucket/dir", "unknown scheme"),
        ("davs://host/dir", "unknown scheme"),
        ("host://dir", "unknown scheme"),
        ("http:///dir", "names no host"),
        # a slash too few, and not an export of the host "http"
        ("http:/host/dir", "names no host"),
        ("https:/host/dir", "names no host"),
        ("nfs:/host/export", "names no host"),
        ("HTTPS:/host/dir", "names no host"),
        ("Nfs:/host/export", "names no host"),
        # what a program may take for an option
        ("-osuid:/export", "unknown scheme"),
        ("nfs://-osuid/export", "must not begin with '-'"),
        ("http://-host/dir", "must not begin with '-'"),
        (".host:/export", "unknown scheme"),
        ("https://", "names no host"),
        ("http://:8080/dir", "names no host"),
        ("nfs:///export", "names no host"),
        ("nfs://host", "absolute path"),
        ("file:dir", "absolute path"),
        ("file://", "absolute path"),
        ("file://host/dir", "names no host"),
        ("file://localhost/dir", "names no host"),
        ("http://host:port/dir", "malformed"),
        ("http://host:70000/dir", "malformed"),
        ("http://[fd00::1/dir", "malformed"),
        ("http://host/dir?a=b", "query"),
        ("http://host/dir#top", "query"),
        ("nfs://host/dir?vers=4", "query"),
        ("file:///dir?a", "query"),
        ("http://host/a/../b", "'..'"),
        ("http://host/a/%2e%2E/b", "'..'"),
        ("nfs://host/../b", "'..'"),
        ("nfs://host/%2e%2e/b", "'..'"),
        ("host:/a/..", "'..'"),
        ("file:///../etc", "'..'"),
        ("http://host/a b", "without spaces"),
        (" http://host/dir", "without spaces"),
        ("http://host/dir\n", "control characters"),
        ("http://host/\t", "control characters"),
        ("http://host/\x00", "control characters"),
        ("http://host/\x1b[2J", "control characters"),
        ("http://host/\x9b2J", "control characters"),
        ("http://host/\u2028", "control characters"),
        ("http://host/\udcff", "control characters"),
        ("http://host\\dir", "without spaces"),
        ("host:/a\x00b", "control characters"),
        ("file:///a%00b", "absolute path"),
        ("nfs://host/a%0Ab", "absolute path"),
        ("nfs://host/%1b[2J", "absolute path"),
    ],
)
def test_a_bad_url_is_refused_with_the_reason(url: object, reason: str) -> None:
    with pytest.raises(errors.InvalidRequest, match=reason) as caught:
        Location.parse(url)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "url",
    [
        "http://user:s3cret@host/dir",
        "https://user:s3cret@host:8443/dir",
        "nfs://user:s3cret@host/export",
        "file://user:s3cret@/dir",
        "ftp://user:s3cret@host/dir",
        "http://s3cret@host/dir",
        "http://user:s3cret@[fd00::1/dir",
        "http://user:s3cret@host:port/dir",
        "http://user:s3cret@host:70000/dir",
        # a slash too few, or none, or something in the password that ends the host's part
        "http:/user:s3cret@host/dir",
        "HTTPS:/user:s3cret@host/dir",
        "Nfs:/user:s3cret@host/dir",
        "http:user:s3cret@host/dir",
        "user:s3cret@host/dir",
        "user:s3cret@host:/export",
        "http://user:s3cret/and@host/dir",
        "http://user:s3cret?and@host/dir",
        "http://user:s3cret#and@host/dir",
        "http://user:s3cret\u2100@host/dir",
        "http://user:s3cret @host/dir",
    ],
)
def test_credentials_in_the_url_are_refused_and_not_quoted(url: str) -> None:
    with pytest.raises(errors.InvalidRequest) as caught:
        Location.parse(url)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("url", ["https://host/dir?sig=s3cret", "https://host/dir#s3cret"])
def test_a_query_which_may_be_a_signature_is_not_quoted(url: str) -> None:
    with pytest.raises(errors.InvalidRequest, match="query") as caught:
        Location.parse(url)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "a830ebe1-snapshot.qcow2",
        "name with spaces",
        "...",
        "_-",
        "100%",
        "büro.qcow2",
        "雪",
        "x" * 250,
        "ä" * 125,
        "雪" * 83 + "x",
    ],
)
def test_a_plain_file_name_is_taken_as_it_is(name: str) -> None:
    assert check_image_name(name) == name
    assert len(part_name(name).encode()) <= 255


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (None, "must be a text"),
        ("", "must be a text"),
        (7, "must be a text"),
        (b"name", "must be a text"),
        ("/", "plain file name"),
        ("/etc/passwd", "plain file name"),
        ("dir/name", "plain file name"),
        ("name/", "plain file name"),
        ("../name", "plain file name"),
        ("..", "plain file name"),
        (".", "plain file name"),
        ("-", "must not begin with '-'"),
        ("-rf", "must not begin with '-'"),
        ("a\x00b", "control characters"),
        ("a\nb", "control characters"),
        ("a\x1b[2Jb", "control characters"),
        ("a\x7f", "control characters"),
        ("a\udcff", "control characters"),
        ("a\\b", "backslashes"),
        ("x" * 251, "251 bytes; at most 250"),
        ("ä" * 125 + "x", "251 bytes; at most 250"),
        ("雪" * 84, "252 bytes; at most 250"),
    ],
)
def test_any_other_image_name_is_refused_with_the_reason(name: object, reason: str) -> None:
    with pytest.raises(errors.InvalidRequest, match=reason) as caught:
        check_image_name(name)
    assert str(caught.value).isprintable()
