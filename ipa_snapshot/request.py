# SPDX-License-Identifier: Apache-2.0
"""What a snapshot is asked to be: parsed and checked once, before anything is started."""

from dataclasses import dataclass, field
from typing import Any

from ipa_snapshot import errors
from ipa_snapshot.devices.root_device import Expectation
from ipa_snapshot.writers import base as writers
from snapshot_core.credentials import Credentials
from snapshot_core.encryption import PublicKey
from snapshot_core.image_options import BAD_SECTORS, COMPRESSIONS, FORMATS, ImageOptions
from snapshot_core.location import Location, check_image_name


@dataclass(frozen=True)
class SnapshotRequest:
    """Where the image goes, under which name, made how, and what is known of the right disk."""

    location: Location
    image_name: str
    writer: str = writers.AUTO
    image: ImageOptions = field(default_factory=ImageOptions)
    credentials: Credentials | None = None
    expectation: Expectation = field(default_factory=Expectation)
    bad_sectors: str = "fail"
    encrypt_for: PublicKey | None = None

    @classmethod
    def parse(
        cls,
        /,
        url: object = None,
        image_name: object = None,
        *,
        writer: object = writers.AUTO,
        image_format: object = "qcow2",
        compression: object = "auto",
        auth: object = None,
        expected_serial: object = None,
        expected_wwn: object = None,
        any_root: object = False,
        bad_sectors: object = "fail",
        encrypt_for: object = None,
        **unknown: Any,
    ) -> "SnapshotRequest":
        """Check the arguments of ``snapshot.stream_image`` as they come from the wire.

        :param auth: a mapping (see :meth:`Credentials.parse`), or credentials made of one.
        :param encrypt_for: a public key (see :class:`.PublicKey`).
        :raises: InvalidRequest
        """
        if unknown:
            raise errors.InvalidRequest("unknown options: %s" % ", ".join(sorted(unknown)))
        location = Location.parse(url)
        if auth is not None and not isinstance(auth, Credentials):
            auth = Credentials.parse(auth)
        return cls(
            location=location,
            image_name=check_image_name(image_name),
            writer=writers.check_name(writer, location.scheme),
            image=ImageOptions(
                _one_of("image_format", image_format, FORMATS),
                _one_of("compression", compression, COMPRESSIONS),
            ),
            credentials=auth,
            expectation=Expectation(
                _text_or_none("expected_serial", expected_serial),
                _text_or_none("expected_wwn", expected_wwn),
                _bool("any_root", any_root),
            ),
            bad_sectors=_one_of("bad_sectors", bad_sectors, BAD_SECTORS),
            encrypt_for=None if encrypt_for is None else PublicKey.parse(encrypt_for),
        )


def _one_of(what: str, value: object, known: tuple[str, ...]) -> str:
    if value not in known or not isinstance(value, str):
        raise errors.InvalidRequest(
            "unknown %s %r: expected one of %s" % (what, value, ", ".join(known))
        )
    return value


def _text_or_none(what: str, value: object) -> str | None:
    if value is not None and (not isinstance(value, str) or not value.strip()):
        raise errors.InvalidRequest("%s must be a text that is not empty" % what)
    return value


def _bool(what: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise errors.InvalidRequest("%s must be true or false" % what)
    return value
