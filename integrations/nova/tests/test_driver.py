# SPDX-License-Identifier: Apache-2.0
"""The driver as Nova loads it, its options, and what a running snapshot does with its progress."""

import importlib.metadata
import inspect
import pathlib
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from keystoneauth1 import exceptions as keystone_exceptions
from nova import exception
from nova.compute import task_states
from nova.virt import driver as virt_driver
from nova.virt.ironic import driver as ironic_driver
from nova.virt.ironic_snapshot import conf
from nova.virt.ironic_snapshot.driver import IronicSnapshotDriver
from nova.virt.ironic_snapshot.running import RunningSnapshot, Unwanted, WatchedBaremetal
from oslo_config import cfg
from oslo_config import fixture as config_fixture

from conductor_client import errors
from snapshot_core.progress import Progress


class Nova:
    """Takes task states as Nova's database does: only from the state that is expected."""

    def __init__(self) -> None:
        self.state = task_states.IMAGE_SNAPSHOT
        self.seen: list[str] = []

    def update(self, task_state: str, expected_state: str = task_states.IMAGE_SNAPSHOT) -> None:
        if self.state != expected_state:
            raise exception.UnexpectedDeletingTaskStateError(
                instance_uuid="x", expected={"task_state": expected_state},
                actual={"task_state": self.state},
            )  # fmt: skip
        self.state = task_state
        self.seen.append(task_state)


PENDING, UPLOADING = task_states.IMAGE_PENDING_UPLOAD, task_states.IMAGE_UPLOADING


@pytest.fixture
def nova() -> Nova:
    return Nova()


@pytest.fixture
def running(nova: Nova) -> RunningSnapshot:
    made = RunningSnapshot(nova.update)
    made.begin()
    return made


@pytest.mark.parametrize("phases", [
    pytest.param(["shut down", "boot", "stream", "upload", "upload", "return"], id="ramdisk"),
    pytest.param(["boot", "requested", "capturing", "uploading", "return"], id="plug-in"),
    pytest.param(["boot", "requested", "capturing", "return"], id="upload-not-seen"),
])  # fmt: skip
def test_task_states_follow_the_phases(
    nova: Nova, running: RunningSnapshot, phases: list[str]
) -> None:
    for phase in phases:
        running.tell(Progress(phase))
    running.show_upload()
    assert nova.seen == [PENDING, UPLOADING]


def test_a_task_state_that_nova_refuses_ends_the_snapshot(
    nova: Nova, running: RunningSnapshot
) -> None:
    nova.state = task_states.DELETING
    running.tell(Progress("stream"))
    with pytest.raises(Unwanted):
        running.tell(Progress("upload"))
    assert isinstance(running.refusal, exception.UnexpectedDeletingTaskStateError)


def test_the_next_look_at_the_node_ends_an_unwanted_snapshot(running: RunningSnapshot) -> None:
    class Baremetal:
        def request(self, url: str, method: str) -> str:
            return "%s %s" % (method, url)

    baremetal = WatchedBaremetal(Baremetal(), running)
    assert baremetal.request("/nodes", "GET") == "GET /nodes"
    assert not running.end(timeout_s=0)
    with pytest.raises(errors.SnapshotError):
        baremetal.request("/nodes", "GET")
    # The way back is gone to its end.
    running.tell(Progress("return"))
    assert baremetal.request("/nodes", "GET") == "GET /nodes"


def test_who_ends_a_snapshot_waits_until_it_is_over(running: RunningSnapshot) -> None:
    told: list[bool] = []
    other = threading.Thread(target=lambda: told.append(running.end(timeout_s=60)))
    other.start()
    running.finish()
    other.join()
    assert told == [True]
    assert running.is_unwanted


def test_nova_loads_it_by_its_name() -> None:
    made = virt_driver.load_compute_driver(None, "ironic_snapshot.IronicSnapshotDriver")
    assert isinstance(made, IronicSnapshotDriver)
    assert isinstance(made, ironic_driver.IronicDriver)


class Quick(IronicSnapshotDriver):
    """Has its image at once, and then an Ironic that does not answer.

    :ivar taken: the snapshot that ran.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(None)
        self._error = error
        self.node_cache["a-node"] = "as it was"

    def _describe(self, *_arguments: object) -> None:
        pass

    def _take(self, _context: object, _instance: object, _image: str, running: object) -> None:
        self.taken = running

    def _get_node(self, node_id: str) -> None:
        raise self._error


INSTANCE = SimpleNamespace(uuid="an-instance", node="a-node")


@pytest.mark.parametrize("error", [
    keystone_exceptions.ConnectFailure(), keystone_exceptions.DiscoveryFailure(),
])  # fmt: skip
def test_an_ironic_that_is_away_in_the_end_costs_no_image(nova: Nova, error: Exception) -> None:
    Quick(error).snapshot(None, INSTANCE, "an-image", nova.update)
    assert nova.seen == [PENDING, UPLOADING]


def test_whatever_fails_in_the_end_nobody_waits_for_a_snapshot_that_is_over(nova: Nova) -> None:
    driver = Quick(ValueError("unforeseen"))
    with pytest.raises(ValueError, match="unforeseen"):
        driver.snapshot(None, INSTANCE, "an-image", nova.update)
    assert driver.taken.end(timeout_s=0)


@pytest.mark.parametrize("name", [
    "snapshot", "destroy", "power_off", "process_instances_at_startup",
])  # fmt: skip
def test_methods_take_what_nova_gives(name: str) -> None:
    own, base = (
        list(inspect.signature(getattr(cls, name)).parameters.values())
        for cls in (IronicSnapshotDriver, virt_driver.ComputeDriver)
    )
    assert [(one.name, one.default) for one in own] == [(one.name, one.default) for one in base]


@pytest.fixture
def options() -> Iterator[config_fixture.Config]:
    """The options, as nova.conf would set them."""
    conf_options = cfg.ConfigOpts()
    conf.register_opts(conf_options)
    conf_options([])
    # The group remembers what is set, and is one for all.
    with config_fixture.Config(conf_options) as made:
        yield made


def test_options_are_read_with_the_files_that_they_name(
    options: config_fixture.Config, tmp_path: pathlib.Path
) -> None:
    auth = tmp_path / "auth.yaml"
    auth.touch(mode=0o600)
    auth.write_text("token: secret")
    options.config(
        storage_url="http://storage/snapshots", storage_auth_file=str(auth), shutdown_timeout=7,
        group="ironic_snapshot",
    )  # fmt: skip
    read = conf.Settings.read(options.conf)
    assert read.storage is not None
    assert read.storage.credentials is not None
    assert read.storage.credentials.token == "secret"
    assert (read.handling.shutdown_timeout_s, read.handling.timeout_s) == (7, 24 * 3600)


def test_without_options_there_is_no_storage(
    options: config_fixture.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IRONIC_SNAPSHOT_STORAGE_URL", "http://of-another-program")
    assert conf.Settings.read(options.conf).storage is None


def test_an_auth_file_that_others_may_read_is_refused(
    options: config_fixture.Config, tmp_path: pathlib.Path
) -> None:
    auth = tmp_path / "auth.yaml"
    auth.write_text("token: secret")
    auth.chmod(0o644)
    options.config(
        storage_url="http://storage", storage_auth_file=str(auth), group="ironic_snapshot"
    )
    with pytest.raises(errors.InvalidRequest, match="chmod 600"):
        conf.Settings.read(options.conf)


def test_the_options_are_listed_for_the_configuration_generator() -> None:
    [entry] = importlib.metadata.entry_points(
        group="oslo.config.opts", name="nova.virt.ironic_snapshot"
    )
    [(group, options)] = entry.load()()
    assert str(group) == "ironic_snapshot"
    assert "storage_url" in [option.name for option in options]


def test_only_files_below_its_own_package_are_installed() -> None:
    files = importlib.metadata.files("ipa-snapshot-nova") or []
    assert {str(path.parent) for path in files if path.suffix == ".py"} == {
        "nova/virt/ironic_snapshot"
    }
