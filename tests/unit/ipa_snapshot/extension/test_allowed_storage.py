# SPDX-License-Identifier: Apache-2.0
"""A step's url leads below what the operator allowed, or nowhere, however clever it is."""

from urllib.parse import urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ipa_snapshot import errors
from ipa_snapshot.extension.allowed_storage import Place, allowed_url
from snapshot_core.location import Location

HOME = "https://storage.example.org/snapshots"
PREFIXES = (HOME, "http://[fd00::1]:8080/dav/a%20b/", "nfs://filer/export", "filer2:/export/x")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (HOME, HOME),
        (HOME + "/", HOME),
        (HOME + "/team/a.b_c~d-e", HOME + "/team/a.b_c~d-e"),
        ("HTTPS://Storage.Example.ORG:443/snapshots/x", HOME + "/x"),
        ("https://storage.example.org/%73napshots/x", HOME + "/x"),
        ("https://storage.example.org:/snapshots", HOME),
        ("http://[FD00::1]:8080/dav/a%20b/c", "http://[fd00::1]:8080/dav/a%20b/c"),
        ("nfs://filer:2049/export/x", "nfs://filer/export/x"),
        ("filer:/export/x", "nfs://filer/export/x"),
        ("nfs://filer2/export/x/y", "filer2:/export/x/y"),
    ],
)
def test_what_lies_below_a_prefix_is_rewritten_to_begin_with_it(url: str, expected: str) -> None:
    assert allowed_url(url, PREFIXES) == expected


@pytest.mark.parametrize("root", ["nfs://filer/", "filer:/", "https://filer/", "https://filer"])
@pytest.mark.parametrize("rest", ["", "x", "x/y"])
def test_a_prefix_may_be_a_server_s_root(root: str, rest: str) -> None:
    url = root.removesuffix("/") + "/" + rest
    assert allowed_url(url, [root]) == (url if rest else root)


HOSTILE = [
    "https://storage.example.org/",
    "https://storage.example.org",
    HOME + "-evil",
    HOME + "x/y",
    HOME[:-1],
    HOME.replace("https", "http"),
    HOME.replace(".org", ".org:8443"),
    HOME.replace(".org", ".org."),
    HOME.replace(".org", ".org.evil.example"),
    HOME.replace("storage.", "evil.storage."),
    HOME.replace("//", "//evil@"),
    "https://evil.example/@storage.example.org/snapshots",
    "https://evil.example#" + HOME,
    "https://evil.example?" + HOME,
    "https://evil.example\\@storage.example.org/snapshots",
    "https://storage.example.org%2f@evil.example/snapshots",
    "https://storage.example.org%2eevil.example/snapshots",
    "https://storage.example.org\t.evil.example/snapshots",
    "https://\u0455torage.example.org/snapshots",
    "https://storage\u3002example.org/snapshots",
    "https:///storage.example.org/snapshots",
    "https:storage.example.org/snapshots",
    "//storage.example.org/snapshots",
    HOME + "/../evil",
    HOME + "/x/../../evil",
    HOME + "/%2e%2e/evil",
    HOME + "/%2E./evil",
    HOME + "/.%2e/evil",
    HOME + "/%252e%252e/evil",
    HOME + "/..%2fevil",
    HOME + "/..%5cevil",
    HOME + "/..;/evil",
    HOME + "/x;/evil",
    HOME + "/./x",
    HOME + "/.hidden",
    HOME + "//evil",
    HOME + "/x//y",
    HOME + "/x%00y",
    HOME + "/x%0d%0aHost:evil",
    HOME + "/x y",
    HOME + "/x%20y",
    HOME + "/ü",
    HOME + "/%c0%ae%c0%ae/evil",
    HOME + "?x=y",
    HOME + "#x",
    HOME + ":443",
    "https://storage.example.org/snap/../snapshots",
    "https://storage.example.org//snapshots",
    "https://storage.example.org:0443x/snapshots",
    "file:///snapshots",
    "file:///dev/sda",
    "/dev/sda",
    "nfs:///export",
    "nfs://filer/exports",
    "nfs://filer/export/../etc",
    "nfs://filer/export/%2e%2e/etc",
    "nfs://filer:2050/export",
    "filer:/exported",
    "filer:/export/../etc",
    "other:/export",
    "storage.example.org:/snapshots",
    "ftp://storage.example.org/snapshots",
    "",
    None,
    7,
    [HOME],
    {"url": HOME},
]


@pytest.mark.parametrize("url", HOSTILE)
def test_anything_else_is_refused(url: object) -> None:
    with pytest.raises(errors.InvalidRequest):
        allowed_url(url, PREFIXES)


@pytest.mark.parametrize("prefix", ["file:///srv", "https://user:pw@host/x", HOME + "/.."])
def test_a_prefix_that_cannot_be_meant_is_an_error_and_not_ignored(prefix: str) -> None:
    with pytest.raises(errors.InvalidRequest) as caught:
        allowed_url("https://other.example.org/", (HOME, prefix))
    assert "pw" not in str(caught.value)


_PIECES = st.lists(
    st.sampled_from(
        [HOME, *PREFIXES[1:], "https", "http", "nfs", "file", ":", "/", "//", "..", ".", "%2e",
         "%2f", "%25", "@", "#", "?", "\\", ";", "storage.example.org", "evil.example", "-",
         "snapshots", "filer", ":443", "\n", " ", "x", "\u017f", "\u3002", "["]
    ), min_size=1, max_size=8,
).map("".join)  # fmt: skip


@given(url=st.one_of(_PIECES, st.text(), st.text().map(lambda tail: HOME + "/" + tail)))
@example(url=HOME + "/x/y")
def test_no_url_leads_out_of_the_prefixes(url: str) -> None:
    try:
        found = allowed_url(url, PREFIXES)
    except errors.InvalidRequest:
        return
    prefix = next(one.rstrip("/") for one in PREFIXES if found.startswith(one.rstrip("/")))
    rest = found.removeprefix(prefix)
    assert rest == "" or rest.startswith("/")
    assert not set(rest) & set("%?#@\\;: ")
    assert not any(part.startswith(".") for part in rest.split("/"))
    location = Location.parse(found)
    assert location.host == Location.parse(prefix).host
    if location.scheme.startswith("http"):
        assert urlsplit(found).netloc == location.host
    assert Place.of(found) == Place.of(url)
