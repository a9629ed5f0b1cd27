# SPDX-License-Identifier: Apache-2.0
"""The command ``openstack baremetal node snapshot``."""

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from osc_lib import exceptions
from osc_lib.cli import format_columns
from osc_lib.command import command

from conductor_client import delivery, errors, interrupts, plugin, sdk
from conductor_client.access import AUTH_VARIABLE, CACERT_VARIABLE, URL_VARIABLE
from conductor_client.images import queued_image
from conductor_client.interrupts import Interrupts
from conductor_client.node import Node
from conductor_client.reap import parse_age
from snapshot_core.encryption import PrivateKey
from snapshot_core.image_options import BAD_SECTORS, COMPRESSIONS, FORMATS
from snapshot_core.process import printable
from snapshot_core.terminal import ProgressDisplay, ends_interrupt, seconds

_COLUMNS = (
    "node", "image_ref", "state", "consistency", "disk_format", "size", "virtual_size", "sha512",
    "captured", "warnings", "elapsed_s",
)  # fmt: skip


# Of a capture, and of what this side does with a captured image: by their names as attributes.
_OF_CAPTURE = (
    "writer", "compression", "bad_sectors", "expected_serial", "expected_wwn", "shutdown_timeout",
    "leave_failed", "discard_on_failure", "keep_s",
)  # fmt: skip
_OF_RETRY = ("discard_on_failure", "keep_s")


class NodeSnapshot(command.ShowOne):
    """Take a snapshot of a node's disk, into an image of the image service"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """See :meth:`cliff.command.Command.get_parser`."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("node", metavar="<node>", help="Name or UUID of the node")
        image = parser.add_mutually_exclusive_group(required=True)
        image.add_argument(
            "--image", metavar="<image>",
            help="UUID of an image that was created without data, or file:///path of a new file",
        )  # fmt: skip
        image.add_argument(
            "--create", metavar="<name>", help="Create an image of this name for the snapshot"
        )
        _add_capture_arguments(parser)
        _add_storage_arguments(parser)
        _add_handling_arguments(parser)
        parser.set_defaults(given=lambda arguments: _given(parser, arguments))
        return parser

    def run(self, parsed_args: argparse.Namespace) -> int:
        """See :meth:`cliff.command.Command.run`: 1, too, if the instance may not be back."""
        code: int = super().run(parsed_args)
        return code or int(not self._is_back)

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[tuple[str, ...], list[Any]]:
        """Take the snapshot and return its columns."""
        connection = self.app.client_manager.sdk_connection
        try:
            with ends_interrupt(), _image(connection, parsed_args) as image:
                if parsed_args.resume:
                    result = _upload(connection, image, parsed_args)
                else:
                    result = _take(connection, image, parsed_args)
        except errors.SnapshotError as exc:
            message = " ".join(printable(str(exc)).split())
            raise exceptions.CommandError("%s: %s" % (exc.word, message)) from exc
        self._is_back = result.state != sdk.UNKNOWN
        return _COLUMNS, _row(result.to_wire())


def _add_capture_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--writer", default="auto", metavar="<writer>",
        help="How the image is made and sent: auto (the default), or a writer of the ramdisk",
    )  # fmt: skip
    parser.add_argument("--image-format", choices=FORMATS, default="qcow2", help="Default: qcow2")
    parser.add_argument("--compression", choices=COMPRESSIONS, default="auto", help="For qcow2")
    parser.add_argument(
        "--bad-sectors", choices=BAD_SECTORS, default="fail",
        help="zero: go on past sectors that cannot be read, and say which they were",
    )  # fmt: skip
    for what in ("serial", "wwn"):
        parser.add_argument(
            "--expected-%s" % what, metavar="<%s>" % what, help="Refuse any disk but this one"
        )
    parser.add_argument(
        "--encryption-key-file", metavar="<file>",
        help="Mode 600, an X25519 private key: the image is encrypted in the storage",
    )  # fmt: skip
    parser.add_argument(
        "--work-dir", metavar="<directory>",
        help="Where the raw image of the writer dd is converted",
    )  # fmt: skip
    parser.add_argument(
        "--discard-on-failure", action="store_true",
        help="Do not keep the captured image in the storage when its upload fails",
    )  # fmt: skip
    parser.add_argument(
        "--keep-for", type=parse_age, default=sdk.KEEP_S, metavar="<age>", dest="keep_s",
        help="After which time 'ironic-snapshot reap' removes what was kept: 12h, 7d (the default)",
    )  # fmt: skip
    parser.add_argument(
        "--resume", metavar="<image-name>",
        help="Upload a captured image that was kept in the storage; the node is not touched",
    )  # fmt: skip


# Not --insecure and --cacert: the first is an option of openstack itself, wherever it stands.
def _add_storage_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--storage-url", metavar="<url>",
        help="The storage of the ramdisk's configuration, as this machine reaches it "
        "(Env: %s)" % URL_VARIABLE,
    )  # fmt: skip
    parser.add_argument(
        "--storage-auth-file", metavar="<file>",
        help="YAML or JSON, mode 600, with username and password, or token, of an account that "
        "may read and remove there (Env: %s)" % AUTH_VARIABLE,
    )  # fmt: skip
    trust = parser.add_mutually_exclusive_group()
    trust.add_argument(
        "--storage-cacert", metavar="<file>",
        help="PEM file with the authority of the storage's certificate (Env: %s)" % CACERT_VARIABLE,
    )  # fmt: skip
    trust.add_argument(
        "--storage-insecure", action="store_true", help="Do not verify the storage's certificate"
    )


def _add_handling_arguments(parser: argparse.ArgumentParser) -> None:
    shutdown = parser.add_mutually_exclusive_group()
    shutdown.add_argument(
        "--shutdown-timeout", type=seconds, default=300, metavar="<seconds>",
        help="How long the instance may take to shut down before its power is cut (default: 300)",
    )  # fmt: skip
    shutdown.add_argument(
        "--no-shutdown", action="store_const", const=0, dest="shutdown_timeout",
        help="Do not shut the instance down: its power is cut",
    )  # fmt: skip
    parser.add_argument(
        "--timeout", type=seconds, default=delivery.TIMEOUT_S, metavar="<seconds>",
        help="How long the capture may take (default: a day)",
    )  # fmt: skip
    parser.add_argument(
        "--leave-failed", action="store_true",
        help="After a failure leave the node as it is; by default its instance is brought back, as "
        "the conductor always does where it takes the snapshot",
    )  # fmt: skip
    parser.add_argument(
        "--wait", action="store_true",
        help="Wait for the end, where the conductor has the plug-in; else this is always so",
    )  # fmt: skip


@contextlib.contextmanager
def _image(connection: Any, arguments: argparse.Namespace) -> Iterator[str]:
    """Yield the reference of the image that is named, or of one that is created."""
    if arguments.create is None:
        yield arguments.image
        return
    record = Node(connection, arguments.node).read()
    properties = {"snapshot_node": record.uuid}
    if record.instance_uuid:
        properties["instance_uuid"] = record.instance_uuid
    with queued_image(connection, arguments.create, properties) as image:
        yield image


def _take(connection: Any, image: str, arguments: argparse.Namespace) -> sdk.NodeSnapshot:
    name = delivery.new_image_name(arguments.image_format)
    options = sdk.CaptureOptions(
        arguments.writer,
        arguments.image_format,
        arguments.compression,
        arguments.expected_serial,
        arguments.expected_wwn,
        bad_sectors=arguments.bad_sectors,
    )
    way = plugin.snapshot_way(Node(connection, arguments.node), image, options)
    by_conductor = way.asked is not None
    if by_conductor:
        _refuse(
            arguments, _OF_RETRY, "the conductor uploads, and keeps as [snapshot]retention says"
        )
    if not arguments.wait and not by_conductor:
        _say("The conductor has no plug-in for snapshots: this command uploads, and so it waits.")
    texts = interrupts.texts_of_snapshot(arguments.node, None if by_conductor else name)
    with ProgressDisplay() as display, Interrupts(texts, display) as tell:
        return sdk.snapshot_node(
            connection,
            arguments.node,
            image=image,
            storage=None if by_conductor else _storage(arguments),
            options=options,
            handling=sdk.Handling(
                arguments.shutdown_timeout, arguments.timeout, arguments.leave_failed
            ),
            image_name=name,
            keep_for_retry=not arguments.discard_on_failure,
            keep_s=arguments.keep_s,
            wait=arguments.wait or not by_conductor,
            work_dir=arguments.work_dir,
            on_progress=tell,
            encryption_key=PrivateKey.read_if_given(arguments.encryption_key_file),
            way=way,
        )


def _upload(connection: Any, image: str, arguments: argparse.Namespace) -> sdk.NodeSnapshot:
    _refuse(arguments, _OF_CAPTURE, "with --resume the node is not touched, and nothing captured")
    way = plugin.upload_way(Node(connection, arguments.node), arguments.resume, image)
    by_conductor = way.asked is not None
    texts = interrupts.texts_of_resume(arguments.node, by_conductor=by_conductor)
    with ProgressDisplay() as display, Interrupts(texts, display) as tell:
        return sdk.upload_captured(
            connection,
            arguments.node,
            arguments.resume,
            image=image,
            storage=None if by_conductor else _storage(arguments),
            image_format=arguments.image_format,
            timeout_s=arguments.timeout,
            wait=arguments.wait,
            work_dir=arguments.work_dir,
            on_progress=tell,
            encryption_key=PrivateKey.read_if_given(arguments.encryption_key_file),
            way=way,
        )


def _storage(arguments: argparse.Namespace) -> sdk.StorageAccess:
    return sdk.StorageAccess.of(
        arguments.storage_url,
        arguments.storage_auth_file,
        arguments.storage_cacert,
        insecure=arguments.storage_insecure,
    )


def _given(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> dict[str, str]:
    """Return the options that are not at their defaults, by their attributes."""
    found = {}
    for action in parser._actions:
        value = getattr(arguments, action.dest, None)
        is_this = action.const is None or value == action.const  # of those that share one
        if action.option_strings and is_this and value != parser.get_default(action.dest):
            found[action.dest] = action.option_strings[0]
    return found


def _refuse(arguments: argparse.Namespace, names: Sequence[str], why: str) -> None:
    given = arguments.given(arguments)
    if refused := [given[name] for name in names if name in given]:
        raise errors.InvalidRequest("%s: leave %s out" % (why, ", ".join(refused)))


def _row(wire: dict[str, Any]) -> list[Any]:
    values = {**wire, "sha512": wire.get("checksum", {}).get("value")}
    values["captured"] = format_columns.DictColumn(wire.get("captured", {}))
    values["warnings"] = format_columns.ListColumn(wire["warnings"])
    return [values.get(column) for column in _COLUMNS]


def _say(text: str) -> None:
    print(printable(text), file=sys.stderr, flush=True)
