# SPDX-License-Identifier: Apache-2.0
"""A disk through the real agent and a real WebDAV server into a real Glance, and back."""

import base64
import hashlib
import os
import pathlib
import signal
import time
import uuid

import pytest

import conductor_client
from conductor_client import errors
from conductor_client.agent import Agent as AgentClient
from conductor_client.flow import CaptureOptions
from snapshot_core.credentials import Credentials, Trust
from snapshot_core.progress import Progress
from tests.functional import commands
from tests.functional.conftest import (
    PASSWORD,
    SERIAL,
    USERNAME,
    WWN,
    Dav,
    identical,
    names_in_the_end,
    same_files,
)
from tests.functional.test_writers import wait_until_begun
from tests.lab import certificates, disks
from tests.lab.agent import Agent, FakeDisk
from tests.lab.cutting_proxy import CuttingProxy
from tests.lab.glance import Glance

ACCOUNT = Credentials(USERNAME, PASSWORD)


def trust(dav: Dav) -> Trust:
    return Trust(str(dav.cacert) if dav.cacert else None)


@pytest.mark.parametrize("writer", ["stream", "davfs", "dd"])
def test_a_disk_comes_back_from_glance(
    dav: Dav, writer: str, disk: disks.Disk, fake_disk: FakeDisk, glance: Glance,
    tmp_path: pathlib.Path,
) -> None:  # fmt: skip
    cloud = glance.connection()
    image = cloud.image.create_image(name="whole way", allow_duplicates=True)
    seen: list[Progress] = []

    with Agent([fake_disk]) as agent:
        snapshot = conductor_client.take_snapshot(
            agent_url=agent.url, agent_token=agent.token, storage_url=dav.url,
            image_ref=image.id, credentials=ACCOUNT, trust=trust(dav), connection=cloud,
            on_progress=seen.append, options=CaptureOptions(writer=writer),
        )  # fmt: skip
        log = agent.log.read_text(errors="replace")
        left_in_the_agent = list(agent.tempdir.iterdir())

    stored = cloud.image.get_image(image.id)
    assert (stored.status, stored.disk_format, stored.container_format) == (
        "active",
        "qcow2",
        "bare",
    )
    assert (stored.size, stored.hash_value) == (snapshot.size, snapshot.sha512)
    assert stored.min_disk == 4
    assert stored.properties["image_type"] == "snapshot"
    if writer == "stream":  # whose free blocks are zeros
        assert same_files(disk, glance.images / image.id, tmp_path)
    else:
        assert identical(disk.path, glance.images / image.id)

    captured = snapshot.captured.raw
    assert captured["writer"] == writer
    assert captured["device"] == {
        "name": fake_disk.path, "serial": SERIAL, "wwn": WWN, "size": disk.size,
        "logical_sector_size": 512,
    }  # fmt: skip
    assert [part["fs"] for part in captured["partitions"]] == ["vfat", "swap", "xfs", "ext4"]

    assert seen[-1].phase == "upload"
    if writer != "stream":  # which may be done before it is asked
        phase = {"davfs": "convert", "dd": "stream"}[writer]
        assert phase in {progress.phase for progress in seen}
        assert any(0 < progress.bytes_done < progress.bytes_total for progress in seen)

    assert dav.names() == []
    assert left_in_the_agent == []
    assert "stream_image" in log
    assert_no_secret(log)


def assert_no_secret(log: str) -> None:
    basic = base64.b64encode(("%s:%s" % (USERNAME, PASSWORD)).encode()).decode()
    assert basic not in log
    for form in (PASSWORD, repr(PASSWORD), 'pass \\"word', PASSWORD.replace("\\", "\\\\"), "#ü"):
        assert form not in log


def test_the_command_takes_a_snapshot_with_what_any_openstack_client_takes(
    apache: Dav, auth_file: pathlib.Path, disk: disks.Disk, fake_disk: FakeDisk, glance: Glance,
    tmp_path: pathlib.Path,
) -> None:  # fmt: skip
    image = glance.connection().image.create_image(name="by clouds.yaml", allow_duplicates=True)
    certs = certificates.issue(tmp_path)
    with Agent([fake_disk], tls=(certs.cert, certs.key)) as agent:
        outcome = commands.run(
            "ironic-snapshot", "take", "--agent-url", agent.url,
            "--agent-token-file", token_file(tmp_path, agent.token),
            "--agent-cacert", certs.cacert, "--storage-url", apache.url,
            "--auth-file", auth_file, "--cacert", apache.cacert, "--image-ref", image.id,
            "--json", "--debug",
            env={
                "OS_CLIENT_CONFIG_FILE": str(glance.clouds_yaml(tmp_path / "clouds.yaml")),
                "OS_CLOUD": "lab",
            },
        )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert same_files(disk, glance.images / image.id, tmp_path)
    assert outcome.json["checksum"]["value"] == sha512(glance.images / image.id)
    assert_no_secret(outcome.err)
    assert agent.token not in outcome.err


def test_what_keeps_the_command_from_starting_is_told_in_one_line(
    wsgidav: Dav, auth_file: pathlib.Path, fake_disk: FakeDisk, glance: Glance,
    tmp_path: pathlib.Path,
) -> None:  # fmt: skip
    cloud = glance.connection()
    full, empty = (
        cloud.image.create_image(
            name=name, container_format="bare", disk_format="raw", allow_duplicates=True
        ).id
        for name in ("full", "empty")
    )
    headers = {"Content-Type": "application/octet-stream"}
    cloud.image.put("/images/%s/file" % full, data=b"data", headers=headers).raise_for_status()
    unknown = str(uuid.uuid4())
    cases = [
        (full, None, "ImageNotQueued: the image %s is active, expected queued" % full),
        (unknown, None, "ImageNotQueued: there is no image %s in Glance" % unknown),
        (empty, "a wrong one", "AgentUnavailable: "),
    ]
    with Agent([fake_disk]) as agent:
        for image, token, said in cases:
            outcome = commands.run(
                "ironic-snapshot", "take", "--agent-url", agent.url,
                "--agent-token-file", token_file(tmp_path, token or agent.token),
                "--storage-url", wsgidav.url, "--auth-file", auth_file, "--image-ref", image,
                env={
                    "OS_CLIENT_CONFIG_FILE": str(glance.clouds_yaml(tmp_path / "clouds.yaml")),
                    "OS_CLOUD": "lab",
                },
            )  # fmt: skip
            assert outcome.code == 1
            assert said in outcome.error
            assert len(outcome.err.splitlines()) == 1
    assert cloud.image.get_image(full).status == "active"
    assert cloud.image.get_image(empty).status == "queued"
    assert wsgidav.names() == []


def sha512(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha512").hexdigest()


def token_file(directory: pathlib.Path, token: str) -> pathlib.Path:
    path = directory / "token"
    path.touch(mode=0o600)
    path.write_text(token + "\n")
    return path


def take_into_a_file(
    agent: Agent, dav: Dav, target: pathlib.Path, **changes: object
) -> conductor_client.Snapshot:
    arguments = {
        "agent_url": agent.url, "agent_token": agent.token, "storage_url": dav.url,
        "image_ref": "file://%s" % target, "credentials": ACCOUNT, "trust": trust(dav), **changes,
    }  # fmt: skip
    return conductor_client.take_snapshot(**arguments)  # type: ignore[arg-type]


def test_a_raw_image_is_kept_raw_where_that_is_asked_for(
    wsgidav: Dav, disk: disks.Disk, fake_disk: FakeDisk, tmp_path: pathlib.Path
) -> None:
    target = tmp_path / "image.raw"
    with Agent([fake_disk]) as agent:
        snapshot = take_into_a_file(
            agent, wsgidav, target, options=CaptureOptions(writer="dd", image_format="raw")
        )
    assert snapshot.disk_format == "raw"
    assert target.stat().st_size == disk.size
    assert identical(disk.path, target, "raw")


@pytest.fixture
def quick_agent(fake_disk: FakeDisk) -> Agent:
    return Agent([fake_disk])


def test_several_candidate_disks_are_refused_unless_any_will_do(
    wsgidav: Dav, fake_disk: FakeDisk, disk: disks.Disk, tmp_path: pathlib.Path
) -> None:
    with (
        disks.LoopDevice(disk.path, read_only=True) as second,
        Agent([fake_disk, FakeDisk(second.path, disk.size, serial="OTHER")]) as agent,
    ):
        with pytest.raises(errors.CommandFailed, match="2 disks may be the root device") as caught:
            take_into_a_file(agent, wsgidav, tmp_path / "a.qcow2")
        assert caught.value.agent_word == "DeviceNotFound"
        with pytest.raises(errors.CommandFailed, match="expected NO-SUCH-DISK"):
            take_into_a_file(
                agent, wsgidav, tmp_path / "b.qcow2",
                options=CaptureOptions(expected_serial="NO-SUCH-DISK"),
            )  # fmt: skip
        take_into_a_file(
            agent, wsgidav, tmp_path / "c.qcow2",
            options=CaptureOptions(any_root=True, compression="none"),
        )  # fmt: skip
    assert wsgidav.names() == []
    assert sorted(path.name for path in tmp_path.glob("*.qcow2*")) == ["c.qcow2"]


def test_a_disk_that_is_mounted_is_refused(wsgidav: Dav, tmp_path: pathlib.Path) -> None:
    path, size = tmp_path / "mounted.raw", 4 << 30  # the least that a root device has
    with path.open("wb") as file:
        file.truncate(size)
    disks.run("mkfs.ext4", "-q", path)
    with (
        disks.LoopDevice(path) as loop,
        disks.mounted(loop.path, "ext4") as mount_point,
        Agent([FakeDisk(loop.path, size)]) as agent,
        pytest.raises(errors.CommandFailed, match="is in use") as caught,
    ):
        take_into_a_file(agent, wsgidav, tmp_path / "a.qcow2")
    assert caught.value.agent_word == "DeviceInUse"
    assert str(mount_point) in str(caught.value)
    assert wsgidav.names() == []


def test_what_the_agent_refuses_is_told_before_anything_starts(
    wsgidav: Dav, fake_disk: FakeDisk, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "a.qcow2"
    with Agent([fake_disk]) as agent:
        with pytest.raises(errors.InvalidRequest, match="unknown writer 'nosuch'"):
            take_into_a_file(agent, wsgidav, target, options=CaptureOptions(writer="nosuch"))
        with pytest.raises(errors.AgentUnavailable, match="refuses the token"):
            take_into_a_file(agent, wsgidav, target, agent_token="wrong")
        monkeypatch.setattr("conductor_client.agent.COMMAND", "nosuch.command")
        with pytest.raises(errors.AgentUnavailable, match="built without ipa-snapshot"):
            take_into_a_file(agent, wsgidav, target)
        monkeypatch.setattr("conductor_client.agent.COMMAND", "snapshot.nosuch")
        with pytest.raises(errors.AgentUnavailable, match="built without ipa-snapshot"):
            take_into_a_file(agent, wsgidav, target)
        log = agent.log.read_text(errors="replace")
    assert wsgidav.names() == []
    assert list(tmp_path.glob("a.*")) == []
    assert_no_secret(log.replace("nosuch", ""))


def test_an_agent_whose_certificate_is_not_trusted_is_not_spoken_to(
    wsgidav: Dav, fake_disk: FakeDisk, tmp_path: pathlib.Path
) -> None:
    certs = certificates.issue(tmp_path)
    with Agent([fake_disk], tls=(certs.cert, certs.key)) as agent:
        with pytest.raises(errors.AgentUnavailable, match="is not trusted"):
            take_into_a_file(agent, wsgidav, tmp_path / "a.qcow2")
        snapshot = take_into_a_file(
            agent, wsgidav, tmp_path / "b.qcow2", agent_trust=Trust(insecure=True)
        )
    assert snapshot.size == (tmp_path / "b.qcow2").stat().st_size


def start_directly(
    agent: Agent, dav: Dav, name: str, writer: str = "dd"
) -> tuple[AgentClient, str]:
    client = AgentClient(agent.url, agent.token, Trust())
    params = {"url": dav.url, "image_name": name, "writer": writer, "auth": ACCOUNT.to_wire()}
    return client, client.start(params)


def wait_for_progress(client: AgentClient, command: str, phase: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        progress = client.status(command, 5).progress
        if progress and progress.phase == phase and progress.bytes_done > 0:
            return
        time.sleep(0.1)
    raise AssertionError("the phase %s was never seen" % phase)


def wait_until_idle(client: AgentClient) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            return client.check()
        except errors.AgentUnavailable as exc:  # it is busy
            assert time.monotonic() < deadline, exc
        time.sleep(0.2)


def test_a_second_snapshot_meanwhile_is_refused_and_does_not_disturb_the_first(
    wsgidav: Dav, disk: disks.Disk, fake_disk: FakeDisk, tmp_path: pathlib.Path
) -> None:
    with Agent([fake_disk]) as agent:
        client, command = start_directly(agent, wsgidav, "first.raw")
        wait_for_progress(client, command, "stream")
        with pytest.raises(errors.AgentUnavailable, match="is busy"):
            take_into_a_file(agent, wsgidav, tmp_path / "second.qcow2")
        while (status := client.status(command, 5)).captured is None:
            time.sleep(0.2)
        client.__exit__()
        log = agent.log.read_text(errors="replace")
    assert "Tried to execute" in log  # where the agent logs the first command's arguments again
    assert_no_secret(log)
    assert wsgidav.names() == ["first.raw", "first.raw.json"]
    assert sha512(wsgidav.directory / "first.raw") == status.captured.sha512
    assert identical(disk.path, wsgidav.directory / "first.raw", "raw")


def test_an_agent_that_dies_leaves_nothing_and_the_image_queued(
    wsgidav: Dav, fake_disk: FakeDisk, glance: Glance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("conductor_client.flow._AGENT_PATIENCE_S", 2)
    monkeypatch.setattr("conductor_client.flow._STOP_PATIENCE_S", 2)
    cloud = glance.connection()
    image = cloud.image.create_image(name="agent dies", allow_duplicates=True)
    with Agent([fake_disk]) as agent:

        def kill(progress: Progress) -> None:
            if progress.bytes_done > 0:
                agent.kill()

        with pytest.raises(errors.AgentUnavailable, match="does not answer"):
            conductor_client.take_snapshot(
                agent_url=agent.url, agent_token=agent.token, storage_url=wsgidav.url,
                image_ref=image.id, credentials=ACCOUNT, connection=cloud, on_progress=kill,
                options=CaptureOptions(writer="dd"),
            )  # fmt: skip
    assert wsgidav.names() == []
    assert cloud.image.get_image(image.id).status == "queued"


def test_an_agent_that_is_cut_off_from_us_alone_is_stopped_and_leaves_nothing(
    wsgidav: Dav, fake_disk: FakeDisk, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("conductor_client.flow._AGENT_PATIENCE_S", 2)
    monkeypatch.setattr("conductor_client.flow._STOP_PATIENCE_S", 20)
    with Agent([fake_disk]) as agent, CuttingProxy(agent.port) as proxy:

        def cut(progress: Progress) -> None:
            if progress.bytes_done > 0:
                proxy.cut(10_000)

        with pytest.raises(errors.AgentUnavailable, match="does not answer"):
            take_into_a_file(
                agent, wsgidav, tmp_path / "a.qcow2",
                agent_url="http://127.0.0.1:%d" % proxy.port, on_progress=cut,
                options=CaptureOptions(writer="dd"),
            )  # fmt: skip
        AgentClient(agent.url, agent.token, Trust()).check()  # is not busy any more
        assert list(agent.tempdir.iterdir()) == []
    assert wsgidav.names() == []
    assert list(tmp_path.glob("a.*")) == []


@pytest.mark.parametrize("writer", ["davfs", "dd"])
def test_an_interrupt_stops_the_agent_too_and_leaves_nothing(
    apache: Dav, auth_file: pathlib.Path, fake_disk: FakeDisk, tmp_path: pathlib.Path, writer: str
) -> None:
    with Agent([fake_disk]) as agent:
        command = commands.start(
            "ironic-snapshot", "take", "--agent-url", agent.url,
            "--agent-token-file", token_file(tmp_path, agent.token), "--storage-url", apache.url,
            "--auth-file", auth_file, "--cacert", apache.cacert, "--writer", writer,
            "--image-ref", "file://%s/image.qcow2" % tmp_path,
        )  # fmt: skip
        wait_until_begun(apache)
        command.send_signal(signal.SIGINT)
        outcome = commands.finish(command)
        client = AgentClient(agent.url, agent.token, Trust())
        client.check()  # is not busy any more
        left_in_the_agent = list(agent.tempdir.iterdir())
    assert outcome.code == 130
    assert "The agent has stopped: the agent reports" in outcome.err
    assert names_in_the_end(apache.names) == []
    assert left_in_the_agent == []
    assert not list(tmp_path.glob("image.*"))


def test_of_a_command_that_is_killed_by_force_a_whole_image_stays_and_is_reaped(
    apache: Dav, auth_file: pathlib.Path, disk: disks.Disk, fake_disk: FakeDisk,
    tmp_path: pathlib.Path,
) -> None:  # fmt: skip
    storage = ("--storage-url", apache.url, "--auth-file", auth_file, "--cacert", apache.cacert)
    target = tmp_path / "image.qcow2"
    with Agent([fake_disk]) as agent:
        command = commands.start(
            "ironic-snapshot", "take", "--agent-url", agent.url, "--agent-token-file",
            token_file(tmp_path, agent.token), *storage, "--image-ref", target.as_uri(),
            "--writer", "dd",  # which takes its time
        )  # fmt: skip
        wait_until_begun(apache)
        command.kill()
        outcome = commands.finish(command)
        wait_until_idle(AgentClient(agent.url, agent.token, Trust()))
        assert list(agent.tempdir.iterdir()) == []
    assert outcome.code == -9
    assert not list(tmp_path.glob("image.*"))
    name, _manifest = apache.names()
    assert identical(disk.path, apache.directory / name, "raw")
    reap = ("ironic-snapshot", "reap", *storage, "--json")
    assert commands.run(*reap, "--older-than", "1h").json["removed"] == []
    for path in apache.directory.glob(name + "*"):
        os.utime(path, (0, 0))
    assert commands.run(*reap, "--older-than", "1h").json["removed"] == [name]
    assert apache.names() == []


def test_a_snapshot_that_takes_too_long_is_stopped(
    wsgidav: Dav, fake_disk: FakeDisk, tmp_path: pathlib.Path
) -> None:
    with Agent([fake_disk]) as agent:
        with pytest.raises(errors.AgentUnavailable, match="was not done within 1 s"):
            take_into_a_file(
                agent, wsgidav, tmp_path / "a.qcow2", timeout_s=1,
                options=CaptureOptions(writer="dd"),
            )  # fmt: skip
        AgentClient(agent.url, agent.token, Trust()).check()
    assert wsgidav.names() == []
