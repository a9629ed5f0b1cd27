# SPDX-License-Identifier: Apache-2.0
"""The service step among the agent's hardware managers: what it offers, refuses and reports."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# The options of the agent must be known before its hardware module is imported.
import ironic_python_agent.config  # noqa: F401 # isort: skip
import pytest
import stevedore
from ironic_python_agent import errors as agent_errors
from ironic_python_agent import hardware
from oslo_config import cfg

from ipa_snapshot.extension.hardware_manager import (
    ARGUMENTS,
    SnapshotHardwareManager,
    StepFailed,
)
from tests.unit.http_server import Answer, AnsweringServer, Respond
from tests.unit.ipa_snapshot.devices.agent_hardware import agent_with
from tests.unit.ipa_snapshot.devices.root_device_cases import SDA, disk

pytestmark = pytest.mark.filterwarnings("ignore::pyparsing.PyparsingDeprecationWarning")

NODE = "6f0b1e3a-52c8-4e0d-9c3b-0a1d2c3b4a59"
Serve = Callable[[Respond], AnsweringServer]


@pytest.fixture
def server(serve: Serve) -> Iterator[AnsweringServer]:
    """A storage that is configured, and full."""
    running = serve(lambda request: Answer(201 if request.method == "MKCOL" else 507))
    cfg.CONF.set_override("storage_url", running.url + "/dir", group="ipa_snapshot")
    yield running
    cfg.CONF.clear_override("storage_url", group="ipa_snapshot")


def _failure(disks: list[Any], node: dict[str, Any] | None = None, **arguments: Any) -> StepFailed:
    known = {"uuid": NODE, "instance_info": {}, "properties": {}, **(node or {})}
    with agent_with(disks, known), pytest.raises(StepFailed) as caught:
        SnapshotHardwareManager().snapshot(known, [], **arguments)
    return caught.value


def test_the_agent_loads_it_and_asks_others_for_everything_else() -> None:
    with agent_with([SDA], None) as generic:
        loaded = stevedore.ExtensionManager(
            "ironic_python_agent.hardware_managers", invoke_on_load=True
        )["ipa_snapshot"].obj
        detail = {"name": "SnapshotHardwareManager", "manager": loaded}
        support = loaded.evaluate_hardware_support()
        hardware._global_managers.insert(0, {**detail, "support": support})
        assert hardware.get_managers() == [loaded, generic]
        node = {"uuid": NODE, "instance_info": {}, "properties": {}}
        hardware.cache_node(node)
        assert hardware.dispatch_to_managers("get_os_install_device") == "/dev/sda"
        steps = hardware.dispatch_to_all_managers("get_service_steps", node, [])
        listed = hardware.deduplicate_steps(steps)
    assert [step["step"] for step in listed["SnapshotHardwareManager"]] == ["snapshot"]


def test_every_argument_is_described_and_none_is_required() -> None:
    (step,) = SnapshotHardwareManager().get_service_steps({}, [])
    assert step["argsinfo"].keys() == ARGUMENTS.keys()
    for argument in step["argsinfo"].values():
        assert argument.keys() == {"description", "required"}
        assert argument["description"].endswith((".", "qcow2."))
        assert argument["required"] is False


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"auth": {"token": "s3cret"}}, "unknown arguments: auth"),
        ({"device": "/dev/sdb", "any_root": True}, "unknown arguments: any_root, device"),
        ({"image_name": "a/b"}, "plain file name"),
        ({"image_name": ""}, "not empty"),
        ({"writer": "nosuch"}, "unknown writer"),
        ({"image_format": "vmdk"}, "unknown image_format"),
        ({"compression": "xz"}, "unknown compression"),
        ({"bad_sectors": "skip"}, "unknown bad_sectors 'skip': expected one of fail, zero"),
        ({"url": "https://evil.example/"}, "not below a storage that this ramdisk allows"),
        ({"url": "file:///tmp"}, "directory of the ramdisk"),
        ({"image_ref": "https://user:s3cret@host/x"}, "image_ref must be"),
        ({"keep_s": "7d"}, "keep_s must be"),
    ],
)
def test_a_wrong_argument_is_refused_before_the_storage_is_asked(
    server: AnsweringServer, arguments: dict[str, Any], reason: str
) -> None:
    error = _failure([SDA], **arguments)
    assert (error.type, error.details[:16]) == ("InvalidRequest", "InvalidRequest: ")
    assert reason in error.details
    assert "s3cret" not in str(error)
    assert server.requests == []


@pytest.mark.parametrize("uuid", ["../../etc", "", None, 7, NODE + "/x", {}])
def test_a_node_without_a_uuid_is_refused(server: AnsweringServer, uuid: object) -> None:
    assert "uuid" in _failure([SDA], {"uuid": uuid}).details
    assert server.requests == []


def test_a_disk_that_is_not_found_leaves_no_collection(server: AnsweringServer) -> None:
    error = _failure([SDA], expected_serial="other")
    assert error.details.startswith("DeviceNotFound: the root device /dev/sda has the serial")
    assert server.requests == []


def test_what_the_storage_refuses_is_told_with_the_word_first(
    server: AnsweringServer, make_disk: Callable[..., Path]
) -> None:
    path = make_disk()
    node = {"properties": {"root_device": {"name": str(path)}}}
    error = _failure([disk(str(path), path.stat().st_size)], node, image_name="image")
    assert error.details.startswith("StorageUnavailable: http://127.0.0.1:")
    assert "507 to PROPFIND: the storage is full" in error.details
    assert error.serialize()["message"] == "Snapshot failed"
    first = server.requests[0]
    assert (first.method, first.path) == ("MKCOL", "/dir/%s/" % NODE)
    assert {request.path for request in server.requests[1:]} == {"/dir/%s/" % NODE}


@pytest.fixture
def export(tmp_path: Path, put_on_path: Callable[[str, str], None], root: str) -> Iterator[Path]:
    """A directory that is mounted as the NFS export ``filer:/``, which is configured."""
    directory = tmp_path / "export"
    directory.mkdir()
    # -t nfs -o OPTIONS -- filer:/DIRECTORY WHERE
    put_on_path(
        "mount",
        '[ "$2" != nfs ] || exec /bin/mount --bind "%s${6#filer:}" "$7"\n'
        'exec /bin/mount "$@"' % directory,
    )
    cfg.CONF.set_override("storage_url", root, group="ipa_snapshot")
    yield directory
    cfg.CONF.clear_override("storage_url", group="ipa_snapshot")


@pytest.mark.parametrize("root", ["filer:/", "nfs://filer/"])
def test_images_without_a_name_lie_below_an_export_s_root_and_nobody_can_guess_theirs(
    export: Path, make_disk: Callable[..., Path], root: str
) -> None:
    path = make_disk()
    known = {"uuid": NODE, "properties": {"root_device": {"name": str(path)}}}
    names = []
    with agent_with([disk(str(path), path.stat().st_size)], known):
        for arguments in ({}, {"url": root}, {"image_format": "raw", "writer": "dd"}):
            result = SnapshotHardwareManager().snapshot(known, [], **arguments)
            names.append(result["image_name"])
    assert {file.name for file in (export / NODE).iterdir()} == {
        name + suffix for name in names for suffix in ("", ".json")
    }
    digits = {re.fullmatch(r"([0-9a-f]{32})[.](?:qcow2|raw)", name)[1] for name in names}
    assert len(digits) == 3


def test_arguments_that_are_null_are_as_if_not_given(server: AnsweringServer) -> None:
    nothing = dict.fromkeys(ARGUMENTS)
    assert _failure([], **nothing).type == "DeviceNotFound"


@pytest.mark.parametrize("options", [{}, {"all_serial_and_wwn": True}])
def test_the_disks_are_left_to_other_managers_whatever_is_asked(options: dict[str, bool]) -> None:
    # The agent's own base class answers an unknown option with a TypeError, which ends the search.
    manager = SnapshotHardwareManager()
    with pytest.raises(agent_errors.IncompatibleHardwareMethodError):
        manager.list_block_devices(**options)
    with pytest.raises(agent_errors.IncompatibleHardwareMethodError):
        manager.list_block_devices_check_skip_list({}, **options)
