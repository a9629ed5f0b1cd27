# SPDX-License-Identifier: Apache-2.0
"""What is asked for is checked as a whole before anything is started."""

from typing import Any

import pytest

from ipa_snapshot import errors
from ipa_snapshot.devices.root_device import Expectation
from ipa_snapshot.request import SnapshotRequest
from snapshot_core.credentials import Credentials
from snapshot_core.image_options import ImageOptions
from snapshot_core.location import Location

GOOD = {"url": "http://host/dir", "image_name": "image.qcow2"}


def test_the_defaults_are_the_writer_s_choice_and_a_compressed_qcow2() -> None:
    assert SnapshotRequest.parse(**GOOD) == SnapshotRequest(
        Location("http", "host", "/dir"),
        "image.qcow2",
        "auto",
        ImageOptions("qcow2", "auto"),
        None,
        Expectation(None, None, any_root=False),
    )


def test_every_option_is_taken() -> None:
    request = SnapshotRequest.parse(
        **GOOD, writer="dd", image_format="raw", compression="none",
        auth={"username": "anna", "password": "s3cret"},
        expected_serial="ABC", expected_wwn="0x5", any_root=True,
    )  # fmt: skip
    assert request.writer == "dd"
    assert request.image == ImageOptions("raw", "none")
    assert request.credentials == Credentials("anna", "s3cret")
    assert request.expectation == Expectation("ABC", "0x5", any_root=True)


def test_credentials_that_are_parsed_already_are_taken() -> None:
    credentials = Credentials(token="t0ken")
    assert SnapshotRequest.parse(**GOOD, auth=credentials).credentials is credentials


def test_a_request_does_not_print_its_credentials() -> None:
    request = SnapshotRequest.parse(**GOOD, auth={"token": "s3cret"})
    assert "s3cret" not in repr(request)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"url": None}, "storage URL"),
        ({"url": "ftp://host/"}, "unknown scheme"),
        ({"image_name": None}, "image name"),
        ({"image_name": "a/b"}, "plain file name"),
        ({"writer": "partclone"}, "unknown writer 'partclone': expected one of auto, "),
        ({"writer": ""}, "unknown writer"),
        ({"writer": None}, "unknown writer"),
        ({"writer": ["dd"]}, "unknown writer"),
        ({"writer": "nfs"}, "the writer 'nfs' takes file, nfs URLs, and the storage URL is http"),
        ({"writer": "davfs", "url": "host:/dir"}, "the writer 'davfs' takes .*storage URL is nfs"),
        ({"image_format": "vmdk"}, "unknown image_format 'vmdk': expected one of qcow2, raw"),
        ({"image_format": None}, "unknown image_format"),
        ({"image_format": ["raw"]}, "unknown image_format"),
        ({"compression": "lzma"}, "unknown compression 'lzma'"),
        ({"compression": None}, "unknown compression"),
        ({"compression": 1}, "unknown compression"),
        ({"bad_sectors": "skip"}, "unknown bad_sectors 'skip': expected one of fail, zero"),
        ({"bad_sectors": None}, "unknown bad_sectors"),
        ({"auth": "anna:s3cret"}, "credentials must hold"),
        ({"auth": {}}, "credentials must hold"),
        ({"auth": False}, "credentials must hold"),
        ({"auth": {"username": "anna"}}, "credentials must hold"),
        ({"expected_serial": ""}, "expected_serial must be a text"),
        ({"expected_serial": "  "}, "expected_serial must be a text"),
        ({"expected_serial": 7}, "expected_serial must be a text"),
        ({"expected_wwn": ["0x5"]}, "expected_wwn must be a text"),
        ({"expected_wwn": ""}, "expected_wwn must be a text"),
        ({"any_root": "yes"}, "any_root must be true or false"),
        ({"any_root": 1}, "any_root must be true or false"),
        ({"any_root": None}, "any_root must be true or false"),
        ({"size": 1, "colour": 2}, "unknown options: colour, size"),
        ({"cls": 1}, "unknown options: cls"),
        ({"self": 1, "_extension": 2}, "unknown options: _extension, self"),
        ({"credentials": {"token": "s3cret"}}, "unknown options: credentials"),
    ],
)
def test_a_bad_option_is_refused_with_its_name(bad: dict[str, Any], reason: str) -> None:
    with pytest.raises(errors.InvalidRequest, match=reason) as caught:
        SnapshotRequest.parse(**{**GOOD, **bad})
    assert "s3cret" not in str(caught.value)


def test_without_arguments_it_is_the_url_that_is_missing() -> None:
    with pytest.raises(errors.InvalidRequest, match="storage URL"):
        SnapshotRequest.parse()
