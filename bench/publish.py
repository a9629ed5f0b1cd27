# SPDX-License-Identifier: Apache-2.0
"""A program: make the tables and the picture of the documentation from kept results."""

import argparse
from pathlib import Path

from bench.plot import plot
from bench.report import report
from bench.results import Results


def main() -> None:
    """Write ``measured.inc``, and ``measured.svg`` of the series ``capped`` if that was run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="what bench.compare --json wrote")
    parser.add_argument("docs", type=Path, help="the directory to write to")
    arguments = parser.parse_args()
    results = Results.read(arguments.results)
    text = report(results)
    if series := results.find("capped"):
        (arguments.docs / "measured.svg").write_text(plot(results, series))
        text = ".. image:: measured.svg\n   :alt: %s\n\n%s" % (series.title, text)
    (arguments.docs / "measured.inc").write_text(text.rstrip() + "\n")


if __name__ == "__main__":
    main()
