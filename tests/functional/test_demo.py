# SPDX-License-Identifier: Apache-2.0
"""What the README tells a newcomer to run."""

import pathlib
import re
import subprocess
import sys


def test_the_demo_shows_that_every_file_came_back(tmp_path: pathlib.Path) -> None:
    command = [sys.executable, "-m", "tests.lab.demo", str(tmp_path / "images")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^\w+ +\w+ +\d+ files: equal$", done.stdout, re.MULTILINE)) == 3
    assert "No errors were found on the image." in done.stdout
    (image,) = (tmp_path / "images").iterdir()
    assert "The image is %s" % image in done.stdout
