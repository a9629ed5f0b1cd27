# SPDX-License-Identifier: Apache-2.0
"""Writers are found by name, fit the URL's scheme, and ``auto`` chooses among them."""

import logging

import pytest

from ipa_snapshot import errors
from ipa_snapshot.writers import base
from ipa_snapshot.writers.davfs import DavfsWriter
from ipa_snapshot.writers.dd import DdWriter
from ipa_snapshot.writers.nfs import NfsWriter


def test_our_writers_are_installed_under_their_names() -> None:
    assert {"davfs", "dd", "nfs"} <= set(base.names())
    for name, writer in (("davfs", DavfsWriter), ("dd", DdWriter), ("nfs", NfsWriter)):
        found, loaded = base.load(name, "file")
        assert (found, type(loaded)) == (name, writer)


@pytest.mark.parametrize("name", ["", "partclone", "DD", None, 7, ["dd"]])
def test_an_unknown_writer_is_refused_with_the_known_ones(name: object) -> None:
    with pytest.raises(errors.InvalidRequest, match=r"expected one of auto, .*, stream"):
        base.check_name(name, "http")


@pytest.mark.parametrize(
    ("name", "scheme", "fits"),
    [
        *(("dd", scheme, True) for scheme in ("http", "https", "nfs", "file")),
        *(("davfs", scheme, True) for scheme in ("http", "https", "file")),
        ("davfs", "nfs", False),
        *(("nfs", scheme, True) for scheme in ("nfs", "file")),
        *(("nfs", scheme, False) for scheme in ("http", "https")),
        *(("auto", scheme, True) for scheme in ("http", "https", "nfs", "file")),
    ],
)
def test_a_writer_is_refused_for_a_scheme_that_it_cannot_write_to(
    name: str, scheme: str, fits: bool
) -> None:
    if fits:
        assert base.check_name(name, scheme) == name
    else:
        with pytest.raises(errors.InvalidRequest, match="%r takes .* is %s" % (name, scheme)):
            base.check_name(name, scheme)


def test_a_writer_that_went_missing_is_refused() -> None:
    with pytest.raises(errors.InvalidRequest, match="'gone' cannot be loaded"):
        base.load("gone", "http")


@pytest.mark.parametrize("scheme", ["http", "https", "nfs", "file"])
def test_auto_is_the_stream_writer_and_that_is_logged(
    scheme: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        name, _writer = base.load("auto", scheme)
    assert name == "stream"
    assert "Writer: stream, for %s" % scheme in caplog.messages
