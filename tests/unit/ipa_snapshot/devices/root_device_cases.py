# SPDX-License-Identifier: Apache-2.0
"""The root device rules as a table of cases, which hold for the agent's code and for ours.

Disks are written as ironic-python-agent lists them. An expectation is the name of the disk that
is chosen, ``NONE`` (no disk fits) or ``INVALID`` (the hints are refused).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

GIB = 1024**3
NONE = "no disk fits"
INVALID = "the hints are refused"
CRASH = "an exception that is nobody's"

Disk = Mapping[str, Any]


def disk(name: str, size: int, **known: Any) -> Disk:
    """Return a disk of which no more is ``known`` than what is given."""
    unknown = {"model": None, "rotational": False, "serial": [None, None, None],
               "wwn": [None, None]}  # fmt: skip
    return {"name": name, "size": size, **unknown, **known}


# The lists of serials and WWNs as the agent makes them: from lsblk, then udev, which disagree.
SDA = disk(
    "/dev/sda", 8 * GIB, model="ST8000 DM004", vendor="ATA", rotational=True,
    serial=["ZR1SHORT", "ZR1SHORT", "ST8000_DM004_ZR1LONG"],
    wwn=["0x5000c500a1b2c3d4", None],
    wwn_with_extension="0x5000c500a1b2c3d4", hctl="0:0:0:0",
    by_path="/dev/disk/by-path/pci-0000:00:1f.2-ata-1", tran="sata",
)  # fmt: skip
SDB = disk(
    "/dev/sdb", 20 * GIB, model="PERC H730", vendor="DELL", rotational=True,
    serial=["6141877", "61418770c1ff4300", "6141877"],
    wwn=["0x61418770c1ff4300", "0x61418770c1ff430026d3a5b10d8f2e77"],
    wwn_with_extension="0x61418770c1ff430026d3a5b10d8f2e77",
    wwn_vendor_extension="0x26d3a5b10d8f2e77", hctl="1:2:0:0",
    by_path="/dev/disk/by-path/pci-0000:03:00.0-scsi-0:2:0:0", tran="sas",
)  # fmt: skip
NVME = disk(
    "/dev/nvme0n1", 40 * GIB, model="42", serial=[None, None, "S4X-NVME"],
    wwn=["eui.0025385b71b0c1a2", None], tran="nvme",
)  # fmt: skip
# Nothing is known of it, as of a virtio disk.
VDA = disk("/dev/vda", 80 * GIB)
FLEET = (SDA, SDB, NVME, VDA)


@dataclass(frozen=True)
class Case:
    """One case; ``by_agent`` is what the agent's code does where that differs from ours."""

    title: str
    hints: Mapping[str, Any] | None
    expected: str
    disks: Sequence[Disk] = FLEET
    disagreement: str | None = None
    by_agent: str | None = None

    def __post_init__(self) -> None:
        assert (self.disagreement is None) == (self.by_agent is None), self.title


def _hint(name: str, value: object, expected: str, **more: Any) -> Case:
    return Case("%s: %s" % (name, value), {name: value}, expected, **more)


def _sized(*sizes: int) -> list[Disk]:
    return [disk("/dev/sd" + letter, size) for letter, size in zip("abcdef", sizes, strict=False)]


NO_HINTS = [
    Case("no hints: the smallest", None, "/dev/sda"),
    Case("empty hints are no hints", {}, "/dev/sda"),
    Case("the smallest, wherever it is listed", None, "/dev/sdc",
         _sized(30 * GIB, 20 * GIB, 10 * GIB, 25 * GIB)),
    Case("a tie in size: the first by name", None, "/dev/sda",
         [disk("/dev/sdc", 8 * GIB), disk("/dev/sda", 8 * GIB), disk("/dev/sdb", 8 * GIB)]),
    Case("names are sorted as texts", None, "/dev/sdaa",
         [disk("/dev/sdb", 8 * GIB), disk("/dev/sdaa", 8 * GIB)]),
    Case("exactly 4 GiB is enough", None, "/dev/sdb", _sized(9 * GIB, 4 * GIB)),
    Case("a sector less is not", None, "/dev/sda", _sized(9 * GIB, 4 * GIB - 512)),
    Case("a large sector less is not", None, NONE, _sized(4 * GIB - 4096)),
    Case("all are too small", None, NONE, _sized(1 * GIB, 2 * GIB, 4 * GIB - 512)),
    Case("an empty disk does not count", None, "/dev/sdb", _sized(0, 5 * GIB)),
    Case("no disks", None, NONE, []),
    Case("no disks, and hints", {"model": "42"}, NONE, []),
    Case("a hint may name a disk that is too small", {"name": "/dev/sda"}, "/dev/sda",
         _sized(1 * GIB, 8 * GIB)),
    Case("of several that meet the hints the first listed, not the smallest",
         {"rotational": False}, "/dev/sda", _sized(30 * GIB, 10 * GIB)),
]  # fmt: skip

SIZE = [
    _hint("size", 8, "/dev/sda"),
    _hint("size", "20", "/dev/sdb"),
    _hint("size", 10, NONE),
    _hint("size", "= 9", "/dev/sdb"),
    _hint("size", "= 8", "/dev/sda"),
    _hint("size", "== 40", "/dev/nvme0n1"),
    _hint("size", "!= 8", "/dev/sdb"),
    _hint("size", "< 20", "/dev/sda"),
    _hint("size", "< 8", NONE),
    _hint("size", "<= 8", "/dev/sda"),
    _hint("size", "> 20", "/dev/nvme0n1"),
    _hint("size", ">= 41", "/dev/vda"),
    _hint("size", "> 80", NONE),
    Case("a size is compared as it is, not rounded", {"size": 8}, NONE, _sized(8 * GIB + 512)),
    Case("and a bit more than the size is more", {"size": "> 8"}, "/dev/sda",
         _sized(8 * GIB + 512)),
    _hint("size", "s== 8", NONE),
    _hint("size", "s!= 8", "/dev/sda"),
    _hint("size", "<or> 20 <or> 40", NONE),
    _hint("size", "<range-in> [ 10 30 ]", INVALID),
    _hint("size", "<all-in> 8", INVALID),
    _hint("size", "<in> 8", INVALID, by_agent=CRASH,
          disagreement="the agent does not catch the TypeError that a number contains nothing"),
    *(_hint("size", value, INVALID)
      for value in ("", "big", "8GB", "8.5", 8.0, 0, -1, "== -1", True, None, [8])),
    _hint("size", ">=", INVALID, by_agent=CRASH,
          disagreement="the agent does not catch the ParseException of an operator alone"),
]  # fmt: skip

TEXT = [
    _hint("model", "42", "/dev/nvme0n1"),
    _hint("model", "st8000 dm004", "/dev/sda"),
    _hint("model", "  ST8000 DM004 ", "/dev/sda"),
    _hint("model", "ST8000", NONE),
    _hint("model", "s== PERC H730", "/dev/sdb"),
    _hint("model", "s!= ST8000 DM004", "/dev/sdb"),
    _hint("model", "s< perc", "/dev/nvme0n1"),
    _hint("model", "s<= 42", "/dev/nvme0n1"),
    _hint("model", "s> perc h730", "/dev/sda"),
    _hint("model", "s> st8000 dm004", NONE),
    _hint("model", "s>= perc", "/dev/sda"),
    _hint("model", "<in> 8000", "/dev/sda"),
    _hint("model", "<in> c h7", "/dev/sdb"),
    _hint("model", "<in> 9000", NONE),
    _hint("model", "<or> 41 <or> 42", "/dev/nvme0n1"),
    _hint("model", "<or> 42 <or> perc h730", "/dev/sdb"),
    _hint("model", "<or> perc", NONE),
    _hint("model", "Büro", NONE),
    # A number is looked for in the first disk's text, which is none.
    *(_hint("model", value, INVALID)
      for value in ("== 42", "= 42", "!= 42", "< 42", "<= 42", "> 42", ">= 42",
                    "<range-in> [ 40 50 ]")),
    *(Case("model: %s where all are numbers" % hint, {"model": hint}, expected,
           [disk("/dev/sda", 8 * GIB, model="41"), disk("/dev/sdb", 8 * GIB, model="42")])
      for hint, expected in (("== 42", "/dev/sdb"), ("= 42", "/dev/sdb"), ("!= 41", "/dev/sdb"),
                             ("< 42", "/dev/sda"), ("<= 42", "/dev/sda"), ("> 41", "/dev/sdb"),
                             (">= 43", NONE))),
    _hint("model", "<all-in> st8000", INVALID, by_agent=CRASH,
          disagreement="the agent does not catch the SyntaxError of a model that is no literal"),
    _hint("model", "==", INVALID, by_agent=CRASH,
          disagreement="the agent does not catch the ParseException of an operator alone"),
    *(_hint("model", value, INVALID) for value in ("", "  ", 42, None, True, ["42"])),
    # What is unknown is compared as the text "none".
    _hint("model", "none", "/dev/vda"),
    _hint("vendor", "dell", "/dev/sdb"),
    _hint("vendor", "<or> dell <or> hp", "/dev/sdb"),
    _hint("vendor", "none", "/dev/nvme0n1"),
    _hint("vendor", "s!= ata", "/dev/sdb"),
    _hint("vendor", "acme", NONE),
    _hint("wwn_with_extension", "0x61418770C1FF430026D3A5B10D8F2E77", "/dev/sdb"),
    _hint("wwn_with_extension", "<in> 26d3", "/dev/sdb"),
    _hint("wwn_with_extension", "0x0", NONE),
    _hint("wwn_vendor_extension", "0x26d3a5b10d8f2e77", "/dev/sdb"),
    _hint("wwn_vendor_extension", "s!= none", "/dev/sdb"),
    _hint("name", "/dev/sdb", "/dev/sdb"),
    _hint("name", "<or> /dev/sdz <or> /dev/nvme0n1", "/dev/nvme0n1"),
    _hint("name", "s!= /dev/sda", "/dev/sdb"),
    _hint("name", "sdb", NONE),
    _hint("hctl", "1:2:0:0", "/dev/sdb"),
    _hint("hctl", "<in> :2:", "/dev/sdb"),
    _hint("hctl", "none", "/dev/nvme0n1"),
    _hint("hctl", "9:9:9:9", NONE),
    _hint("by_path", "/dev/disk/by-path/pci-0000:03:00.0-scsi-0:2:0:0", "/dev/sdb"),
    _hint("by_path", "<in> ata", "/dev/sda"),
    _hint("by_path", "/dev/disk/by-path/none", NONE),
    _hint("tran", "sata", "/dev/sda"),
    _hint("tran", "SAS", "/dev/sdb"),
    _hint("tran", "<or> nvme <or> sas", "/dev/sdb"),
    _hint("tran", "s!= sata", "/dev/sdb"),
    _hint("tran", "<in> vm", "/dev/nvme0n1"),
    _hint("tran", "none", "/dev/vda"),
    _hint("tran", "usb", NONE),
    _hint("tran", 7, INVALID),
]  # fmt: skip

LISTS = [
    _hint("serial", "zr1short", "/dev/sda"),
    _hint("serial", "ST8000_DM004_ZR1LONG", "/dev/sda"),
    _hint("serial", "61418770c1ff4300", "/dev/sdb"),
    _hint("serial", "s4x-nvme", "/dev/nvme0n1"),
    _hint("serial", "ZR1", NONE),
    _hint("serial", "<in> long", "/dev/sda"),
    _hint("serial", "<in> 0c1f", "/dev/sdb"),
    _hint("serial", "<or> other <or> 6141877", "/dev/sdb"),
    _hint("serial", "s< 7", "/dev/sdb"),
    _hint("serial", "s<= 6141877", "/dev/sdb"),
    _hint("serial", "s> st", "/dev/sda"),
    _hint("serial", "s>= zr1short", "/dev/sda"),
    # Any of its serials is another: a disk with two is never excluded by one of them.
    _hint("serial", "s!= zr1short", "/dev/sda"),
    # No serial at all meets nothing, not even "other than".
    Case("an unknown serial is not another", {"serial": "s!= x"}, NONE, [VDA]),
    _hint("serial", "none", NONE),
    _hint("wwn", "0x5000C500A1B2C3D4", "/dev/sda"),
    _hint("wwn", "0x61418770c1ff430026d3a5b10d8f2e77", "/dev/sdb"),
    _hint("wwn", "0x61418770c1ff4300", "/dev/sdb"),
    _hint("wwn", "<in> eui", "/dev/nvme0n1"),
    _hint("wwn", "none", NONE),
    Case("an unknown wwn is not another", {"wwn": "s!= x"}, NONE, [VDA]),
    Case("a serial as a text", {"serial": "abc"}, "/dev/sdb",
         [disk("/dev/sda", GIB, serial="ABCD"), disk("/dev/sdb", GIB, serial="ABC")]),
    Case("a wwn as a text", {"wwn": "<in> 5"}, "/dev/sdb",
         [disk("/dev/sda", GIB, wwn="0x4"), disk("/dev/sdb", GIB, wwn="0x5")]),
    Case("serials that are numbers", {"serial": ">= 200"}, "/dev/sdb",
         [disk("/dev/sda", GIB, serial=["100", None]), disk("/dev/sdb", GIB, serial=["200"])]),
    *(_hint("serial", value, INVALID) for value in ("", 7, None)),
    Case("serials of which one is no number", {"serial": "== 6141877"}, INVALID,
         by_agent="/dev/sdb",
         disagreement="in a list the agent passes over what is no number; ironic-lib sees one "
         "value at a time and refuses, so that no disk is chosen rather than another"),
    Case("an operator alone, for a list", {"serial": "<or>"}, INVALID, by_agent=NONE,
         disagreement="in a list the agent passes over the value that the operator fails on"),
]  # fmt: skip

ROTATIONAL = [
    _hint("rotational", True, "/dev/sda"),
    _hint("rotational", False, "/dev/nvme0n1"),
    _hint("rotational", "true", "/dev/sda"),
    _hint("rotational", "No", "/dev/nvme0n1"),
    _hint("rotational", 0, "/dev/nvme0n1"),
    _hint("rotational", "1", "/dev/sda"),
    Case("an unknown rotational is neither", {"rotational": False}, NONE,
         [disk("/dev/sda", GIB, rotational=None)]),
    *(_hint("rotational", value, INVALID) for value in ("maybe", "", "== true", None, 2)),
]  # fmt: skip

# The grammar knows both operators, and no disk can meet them: values are URL-quoted before, so that
# it finds no range and takes <range-in> for "<", and <all-in> finds no literal of a list.
RANGE_IN_AND_ALL_IN = [
    *(Case("%s: %s where all are numbers" % (name, hint), {name: hint}, INVALID,
           [disk("/dev/sda", 8 * GIB, **{name: "41"}), disk("/dev/sdb", 8 * GIB, **{name: "42"})])
      for name in ("model", "vendor")
      for hint in ("<range-in> [ 42 50 ]", "<range-in> ( 41 42 )", "<range-in> [ a b ]",
                   "<range-in> [ 42 50", "<range-in> 42")),
    *(_hint(name, "<range-in> [ 1 2 ]", INVALID)
      for name in ("vendor", "name", "hctl", "by_path", "tran", "rotational")),
    *(_hint(name, "<all-in> sas", INVALID) for name in ("vendor", "tran", "rotational")),
    *(_hint(name, "<range-in> [ 150 250 ]", INVALID, by_agent=NONE,
            disks=[disk("/dev/sda", GIB, **{name: ["200", None]})],
            disagreement="in a list the agent passes over the value that the operator fails on")
      for name in ("serial", "wwn")),
    *(_hint(name, "<all-in> nvme", INVALID, disks=[disk("/dev/sda", GIB, **{name: known})],
            by_agent=CRASH,
            disagreement="the agent does not catch the SyntaxError of a quoted list's literal")
      for name, known in (("model", "['ssd', 'nvme']"), ("serial", ["['ssd', 'nvme']"]),
                          ("wwn", ["['ssd', 'nvme']"]))),
    _hint("name", "<all-in> /dev/sda", INVALID, by_agent=CRASH,
          disagreement="the agent does not catch the SyntaxError of a name that is no literal"),
]  # fmt: skip

SEVERAL = [
    Case("all hints must be met", {"rotational": True, "size": ">= 10"}, "/dev/sdb"),
    Case("by one disk", {"model": "42", "size": 8}, NONE),
    Case("six at once",
         {"model": "<in> perc", "vendor": "dell", "size": 20, "serial": "6141877",
          "wwn": "<in> 4300", "tran": "sas"}, "/dev/sdb"),
    Case("an unknown hint", {"colour": "red"}, INVALID),
    Case("an unknown hint beside one that is met", {"model": "42", "colour": "red"}, INVALID),
    Case("a wrong hint beside one that is met", {"model": "42", "size": "big"}, INVALID),
    Case("a wrong hint behind one that is not met", {"model": "other", "size": "big"}, INVALID),
    Case("a wrong hint for what no disk has", {"model": "42", "serial": ""}, INVALID,
         [disk("/dev/sda", GIB, model="42")]),
]  # fmt: skip

CASES = [*NO_HINTS, *SIZE, *TEXT, *LISTS, *ROTATIONAL, *RANGE_IN_AND_ALL_IN, *SEVERAL]
