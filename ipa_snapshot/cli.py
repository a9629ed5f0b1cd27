# SPDX-License-Identifier: Apache-2.0
"""The command ``ipa-snapshot``: the machine's side on any live system, without an agent."""

import argparse
import os
import shutil
from collections.abc import Sequence
from typing import Any

from ipa_snapshot import capture, errors, inspection
from ipa_snapshot.devices.block_device import BlockDevice
from ipa_snapshot.devices.listing import list_candidates
from ipa_snapshot.devices.root_device import (
    Expectation,
    choose_root_device,
    matches,
    refuse_ambiguity,
)
from ipa_snapshot.request import SnapshotRequest
from ipa_snapshot.writers import base as writers
from snapshot_core import terminal
from snapshot_core.credentials import Credentials, Trust

PROGRAM = "ipa-snapshot"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 done, 1 failed, 2 wrong usage."""
    arguments = _parser().parse_args(argv)
    terminal.set_up_logging(PROGRAM, debug=arguments.debug)
    return terminal.run(
        PROGRAM,
        lambda: arguments.action(arguments),
        arguments.show,
        as_json=arguments.json,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description=__doc__,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    devices = commands.add_parser(
        "devices",
        allow_abbrev=False,
        help="list the candidate disks, and which is the root device and why",
    )
    _add_hint(devices)
    terminal.add_common_arguments(devices)
    devices.set_defaults(action=_devices, show=_show_devices)

    inspect = commands.add_parser(
        "inspect", allow_abbrev=False, help="say what a snapshot would read, skip and send, and why"
    )
    inspect.add_argument("device", metavar="DEVICE", help="a block device or an image file")
    terminal.add_common_arguments(inspect)
    inspect.set_defaults(action=_inspect, show=str)

    stream = commands.add_parser("stream", help="store an image of a disk", allow_abbrev=False)
    stream.add_argument("url", metavar="URL", help="http(s)://, nfs://, host:/path or file:///path")
    stream.add_argument("image_name", metavar="IMAGE_NAME", help="the image's name there")
    which = stream.add_mutually_exclusive_group()
    which.add_argument("--device", metavar="PATH", help="a block device or an image file")
    _add_hint(which)
    stream.add_argument("--writer", choices=[writers.AUTO, *writers.names()], default=writers.AUTO)
    terminal.add_image_arguments(stream)
    terminal.add_storage_arguments(stream)
    terminal.add_common_arguments(stream)
    stream.set_defaults(action=_stream, show=_show_result)
    return parser


def _add_hint(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--hint", action="append", type=_hint, default=[], metavar="KEY=VALUE", dest="hints",
        help="a root device hint, as in the node's properties; may be given several times",
    )  # fmt: skip


def _hint(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not key or not value:
        raise argparse.ArgumentTypeError("expected KEY=VALUE, got %r" % text)
    return key, value


def _devices(arguments: argparse.Namespace) -> dict[str, Any]:
    candidates = list_candidates()
    hints = dict(arguments.hints)
    for device in candidates:
        matches(device, hints)  # refuse a wrong hint even if there is no root device
    try:
        refuse_ambiguity(candidates, hints, Expectation())
        root = choose_root_device(candidates, hints)
        chosen, reason = root.device.name, root.reason
    except errors.DeviceNotFound as exc:
        chosen, reason = None, str(exc)
    return {
        "devices": [
            {**device.to_wire(), "model": device.model, "root": device.name == chosen}
            for device in candidates
        ],
        "root_device": chosen,
        "reason": reason,
    }


def _show_devices(result: dict[str, Any]) -> str:
    rows = [("", "NAME", "SIZE", "SERIAL", "WWN", "MODEL")]
    rows += [
        (
            "*" if device["root"] else "",
            device["name"],
            terminal.size_text(device["size"]),
            *(device[key] or "-" for key in ("serial", "wwn", "model")),
        )
        for device in result["devices"]
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    verdict = "root device: %s: %s" if result["root_device"] else "no root device%.0s: %s"
    return "\n".join([*lines, verdict % (result["root_device"] or "", result["reason"])])


def _inspect(arguments: argparse.Namespace) -> dict[str, Any] | str:
    found = inspection.inspect_disk(arguments.device)
    if arguments.json:
        return found.to_wire()
    return inspection.report(found, shutil.get_terminal_size().columns)


def _stream(arguments: argparse.Namespace) -> dict[str, Any]:
    trust = Trust(arguments.cacert, arguments.insecure)
    request = SnapshotRequest.parse(
        arguments.url,
        arguments.image_name,
        writer=arguments.writer,
        image_format=arguments.image_format,
        compression=arguments.compression,
        auth=Credentials.read(arguments.auth_file) if arguments.auth_file else None,
        expected_serial=arguments.expected_serial,
        expected_wwn=arguments.expected_wwn,
        any_root=arguments.any_root,
        bad_sectors=arguments.bad_sectors,
    )
    device = _find_device(arguments.device, dict(arguments.hints), request.expectation)
    with terminal.ProgressDisplay() as display:
        return capture.take_snapshot(request, device, trust, display).to_wire()


def _find_device(path: str | None, hints: dict[str, str], expected: Expectation) -> BlockDevice:
    if path is not None:
        device = _named(path)
    else:
        candidates = list_candidates()
        refuse_ambiguity(candidates, hints, expected)
        device = choose_root_device(candidates, hints).device
    expected.check(device)
    return device


def _named(path: str) -> BlockDevice:
    # A disk has a serial and a WWN to compare; an image file, a loop device or a partition none.
    if not os.path.isfile(path):
        real = os.path.realpath(path)  # of a link below /dev/disk, for example
        for device in list_candidates():
            if device.name == real:
                return device
    return capture.describe_path(path)


def _show_result(result: dict[str, Any]) -> str:
    return terminal.image_text(result["image_name"], result)
