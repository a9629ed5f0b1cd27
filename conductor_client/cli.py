# SPDX-License-Identifier: Apache-2.0
"""The command ``ironic-snapshot``: the conductor's side of a snapshot, without Ironic."""

import argparse
from collections.abc import Sequence
from typing import Any

from conductor_client.access import StorageAccess
from conductor_client.flow import CaptureOptions, take_snapshot
from conductor_client.reap import parse_age, reap
from snapshot_core import errors, terminal
from snapshot_core.credentials import Credentials, Trust, read_secret_file
from snapshot_core.encryption import PrivateKey

PROGRAM = "ironic-snapshot"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 done, 1 failed, 2 wrong usage."""
    arguments = _parser().parse_args(argv)
    terminal.set_up_logging(PROGRAM, debug=arguments.debug)
    return terminal.run(
        PROGRAM, lambda: arguments.action(arguments), arguments.show, as_json=arguments.json
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description=__doc__,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    take = commands.add_parser(
        "take", help="take a snapshot of the machine behind an agent", allow_abbrev=False
    )
    take.add_argument("--agent-url", required=True, metavar="URL", help="http(s)://host:9999")
    take.add_argument(
        "--agent-token-file", required=True, metavar="FILE", help="mode 600, holds the token"
    )
    take.add_argument("--storage-url", required=True, metavar="URL", help="intermediate storage")
    take.add_argument(
        "--image-ref", required=True, metavar="REF",
        help="UUID of a queued Glance image, or file:///path of a new file",
    )  # fmt: skip
    terminal.add_storage_arguments(take)
    agent = take.add_mutually_exclusive_group()
    agent.add_argument("--agent-cacert", metavar="FILE", help="PEM file with the agent's authority")
    agent.add_argument(
        "--agent-insecure", action="store_true", help="do not verify the agent's certificate"
    )
    _add_capture_arguments(take)
    terminal.add_common_arguments(take)
    take.set_defaults(action=_take, show=_show)
    _add_reap(commands)
    return parser


def _add_reap(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "reap", help="remove images from the storage that nobody fetched", allow_abbrev=False
    )
    parser.add_argument("--storage-url", required=True, metavar="URL", help="intermediate storage")
    parser.add_argument(
        "--older-than", required=True, type=parse_age, metavar="AGE", dest="older_than_s",
        help="a number with m, h or d, such as 7d, since an image was written",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    terminal.add_storage_arguments(parser)
    terminal.add_common_arguments(parser)
    parser.set_defaults(action=_reap, show=lambda result: "\n".join(result["removed"]))


def _add_capture_arguments(take: argparse.ArgumentParser) -> None:
    take.add_argument("--writer", default="auto", help="auto, or a writer of the agent's ramdisk")
    terminal.add_image_arguments(take)
    take.add_argument(
        "--encryption-key-file", metavar="FILE",
        help="mode 600, an X25519 private key: the image is encrypted in the storage",
    )  # fmt: skip
    take.add_argument(
        "--work-dir", metavar="DIR", help="where the raw image of the writer dd is converted"
    )
    take.add_argument(
        "--timeout", type=terminal.seconds, default=24 * 3600, metavar="SECONDS", dest="timeout_s",
        help="how long the capture may take (default: a day)",
    )  # fmt: skip


def _take(arguments: argparse.Namespace) -> dict[str, Any]:
    token = read_secret_file(arguments.agent_token_file).strip()
    if not token.isprintable() or not token:
        raise errors.InvalidRequest(
            "%s must hold the token, in one line" % arguments.agent_token_file
        )
    with terminal.ProgressDisplay() as display:
        snapshot = take_snapshot(
            agent_url=arguments.agent_url,
            agent_token=token,
            storage_url=arguments.storage_url,
            image_ref=arguments.image_ref,
            on_progress=display,
            credentials=Credentials.read(arguments.auth_file) if arguments.auth_file else None,
            trust=Trust(arguments.cacert, arguments.insecure),
            agent_trust=Trust(arguments.agent_cacert, arguments.agent_insecure),
            options=CaptureOptions(
                arguments.writer,
                arguments.image_format,
                arguments.compression,
                arguments.expected_serial,
                arguments.expected_wwn,
                arguments.any_root,
                arguments.bad_sectors,
            ),
            work_dir=arguments.work_dir,
            timeout_s=arguments.timeout_s,
            encryption_key=PrivateKey.read_if_given(arguments.encryption_key_file),
        )
    return snapshot.to_wire()


def _show(result: dict[str, Any]) -> str:
    return terminal.image_text(result["image_ref"], result)


def _reap(arguments: argparse.Namespace) -> dict[str, Any]:
    access = StorageAccess.of(
        arguments.storage_url, arguments.auth_file, arguments.cacert, insecure=arguments.insecure
    )
    return {"removed": reap(access, arguments.older_than_s, dry_run=arguments.dry_run)}
