# SPDX-License-Identifier: Apache-2.0
"""An emulated machine that boots the ramdisk, as Ironic would let a real one do."""

import contextlib
import dataclasses
import functools
import os
import pathlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Self

from tests.lab import namespaces, processes, services
from tests.machine.ramdisk import Ramdisk

# By this name the guest finds what listens on 127.0.0.1 here; see guest_hosts.
STORAGE = "storage.lab"
_FROM_GUEST = "10.0.2.2"
MAC = "52:54:00:12:34:56"
# the package ovmf
_OVMF = pathlib.Path("/usr/share/OVMF")
_AGENT_CONFIG = """\
[DEFAULT]
debug = true
agent_token = {token}
# Without an Ironic nobody would accept the certificate that it makes.
enable_auto_tls = false
"""


@dataclasses.dataclass(frozen=True)
class Drive:
    """A raw image that is a disk of the machine's."""

    path: pathlib.Path
    serial: str


@dataclasses.dataclass(frozen=True)
class Uefi:
    """The firmware of one machine that has no BIOS; ``variables`` is the file that it writes to."""

    variables: pathlib.Path

    @classmethod
    def new(cls, variables: pathlib.Path) -> Self:
        """Return that of a machine on which nothing was ever installed."""
        shutil.copyfile(_OVMF / "OVMF_VARS_4M.fd", variables)
        return cls(variables)


class Machine(services.Service):
    """Run the machine while the context lasts; its agent answers at ``url`` to ``token``.

    It needs a network namespace with a loopback interface alone: QEMU's own network leads there
    and nowhere else. It has KVM where that works, and is emulated elsewhere.

    :param files: what is added to the ramdisk: text, by its path there.
    :param parameters: further parameters of the kernel's.
    :param uefi: the firmware; without it the machine has a BIOS.
    :param memory_mib: the ramdisk's own files take about a third, and may take half of it.
    """

    # Emulated, on two busy cores: half a minute of it is the kernel's unpacking.
    start_timeout_s = 900.0

    def __init__(
        self,
        ramdisk: Ramdisk,
        drives: Sequence[Drive],
        token: str,
        *,
        files: Mapping[str, str] | None = None,
        parameters: Sequence[str] = (),
        uefi: Uefi | None = None,
        memory_mib: int = 3072,
    ) -> None:
        self.port = processes.free_port()
        super().__init__("machine", f"http://127.0.0.1:{self.port}", probe="/v1/status")
        self.token = token
        self._ramdisk = ramdisk
        self._drives = list(drives)
        self._files = dict(files or {})
        self._parameters = list(parameters)
        self._uefi = uefi
        self._memory_mib = memory_mib

    @property
    def console(self) -> pathlib.Path:
        """What the machine wrote to its serial console."""
        return self.state / "console.log"

    def await_power_off(self, timeout_s: float = 300) -> None:
        """Return when it has switched itself off.

        :raises: RuntimeError with the console's last lines when it does not.
        """
        deadline = time.monotonic() + timeout_s
        while self._server is not None and self._server.running:
            if time.monotonic() > deadline:
                raise RuntimeError("the machine is still on:\n" + self._server.tail())
            time.sleep(0.2)

    def _prepare(self) -> processes.Server:
        if not namespaces.isolated():
            raise RuntimeError("call tests.lab.namespaces.enter() first")
        initramfs = self.state / "initramfs"
        shutil.copyfile(self._ramdisk.initramfs, initramfs)
        config = _AGENT_CONFIG.format(token=self.token)
        hosts = f"127.0.0.1 localhost\n{_FROM_GUEST} {STORAGE}\n"
        add_files(initramfs, {"etc/ironic-python-agent.d/lab.conf": config, **self._files})
        # For davfs2, too, which is no longer root when it asks.
        add_files(initramfs, {"etc/hosts": hosts}, mode=0o644)
        return processes.Server(
            "the machine", self._command(initramfs), self.state / "qemu.log", own_log=self.console
        )

    def _command(self, initramfs: pathlib.Path) -> list[str]:
        # BOOTIF, as from a network boot: without it the agent's ramdisk looks for a config drive
        # for half a minute, and mounts what looks like one.
        append = ["console=ttyS0", "BOOTIF=01-" + MAC.replace(":", "-"), *self._parameters]
        command = _hardware(self._ramdisk, self._drives, self._uefi, self.console)
        command += ["-m", str(self._memory_mib)]
        command += ["-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{self.port}-:9999"]
        command += ["-device", f"virtio-net-pci,netdev=net,mac={MAC}"]
        command += ["-kernel", str(self._ramdisk.kernel), "-initrd", str(initramfs)]
        return [*command, "-append", " ".join(append)]


def boot_from_disk(
    ramdisk: Ramdisk, drive: Drive, prompt: str, *, uefi: Uefi | None = None,
    timeout_s: float = 900,
) -> str:  # fmt: skip
    """Boot a machine from its disk alone up to ``prompt``, switch it off, and return its console.

    :param ramdisk: not for this machine: its kernel tells what accelerates one here.
    :raises: RuntimeError with the console's last lines when the prompt does not come.
    """
    with tempfile.TemporaryDirectory(prefix="lab-machine-") as where:
        console = pathlib.Path(where, "console.log")
        console.touch()
        command = [*_hardware(ramdisk, [drive], uefi, console), "-m", "1024"]
        log = pathlib.Path(where, "qemu.log")
        server = processes.Server("the machine", command, log, own_log=console)
        try:
            server.start(lambda: prompt in console.read_text(errors="replace"), timeout_s)
        finally:
            server.kill()
        return console.read_text(errors="replace")


def _hardware(
    ramdisk: Ramdisk, drives: Sequence[Drive], uefi: Uefi | None, console: pathlib.Path
) -> list[str]:
    """Return QEMU's command for what every machine has; memory and network are not there yet."""
    command = [*_qemu(_accelerator(ramdisk.kernel)), "-smp", "2"]
    command += ["-device", "virtio-rng-pci", "-serial", f"file:{console}"]
    if uefi is not None:
        code = _OVMF / "OVMF_CODE_4M.fd"
        command += ["-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={code}"]
        command += ["-drive", f"if=pflash,unit=1,format=raw,file={_escaped(uefi.variables)}"]
    for index, drive in enumerate(drives):
        where = _escaped(drive.path)
        command += ["-drive", f"file={where},format=raw,if=none,id=disk{index},cache=unsafe"]
        command += ["-device", f"virtio-blk-pci,drive=disk{index},serial={drive.serial}"]
    return command


def _escaped(path: pathlib.Path) -> str:
    return os.fspath(path).replace(",", ",,")


def _qemu(accelerator: str) -> list[str]:
    command = ["qemu-system-x86_64", "-machine", "pc", "-cpu", "max", "-accel", accelerator]
    return [*command, "-nodefaults", "-display", "none", "-monitor", "none", "-no-reboot"]


@functools.cache
def _accelerator(kernel: pathlib.Path) -> str:
    """Return ``kvm`` where a kernel runs with it, up to its complaint that it has no root."""
    # Not by /dev/kvm: there are hosts which have it, and where a guest fails or hangs at once.
    command = [*_qemu("kvm"), "-kernel", str(kernel), "-append", "panic=-1"]
    with contextlib.suppress(subprocess.TimeoutExpired):
        if subprocess.run(command, check=False, capture_output=True, timeout=20).returncode == 0:
            return "kvm"
    return "tcg,thread=multi"


def add_files(initramfs: pathlib.Path, files: Mapping[str, str], mode: int = 0o600) -> None:
    """Append text files to a ramdisk: as docs/ramdisk.rst says it."""
    tree = initramfs.with_suffix(".files")
    for name, text in files.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=mode)
        path.write_text(text)
    # The kernel looks for the next archive where a multiple of four bytes ends.
    subprocess.run(["truncate", "--size=%4", initramfs], check=True)
    with initramfs.open("ab") as archive:
        subprocess.run(
            ["cpio", "--create", "--quiet", "--format=newc", "--owner=+0:+0"],
            cwd=tree, input="\n".join(sorted(files)).encode(), stdout=archive, check=True,
        )  # fmt: skip
