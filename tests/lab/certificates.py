# SPDX-License-Identifier: Apache-2.0
"""Make a certificate authority and a server certificate that exist for one test."""

import dataclasses
import datetime
import pathlib

import trustme


@dataclasses.dataclass(frozen=True)
class Certificates:
    """Paths of PEM files: the authority's certificate, and a server's chain and key."""

    cacert: pathlib.Path
    cert: pathlib.Path
    key: pathlib.Path


def issue(directory: pathlib.Path, *names: str, expired: bool = False) -> Certificates:
    """Write a new authority and a certificate for ``names`` (127.0.0.1 and localhost) to files.

    :param expired: the certificate was good until yesterday.
    """
    authority = trustme.CA()
    yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    leaf = authority.issue_cert(
        *(names or ("127.0.0.1", "localhost")), not_after=yesterday if expired else None
    )
    made = Certificates(directory / "ca.pem", directory / "cert.pem", directory / "key.pem")
    authority.cert_pem.write_to_path(made.cacert)
    made.cert.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    made.key.touch(mode=0o600)
    leaf.private_key_pem.write_to_path(made.key)
    return made
