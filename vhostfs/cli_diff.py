"""`vhostfs diff`: what a roll-out from one image to another changes, and pulls."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from vhostfs.cli_image import opened_bootstrap
from vhostfs.sizes import format_size

if TYPE_CHECKING:
    from rafs.tools.diff import Difference
    from vhostfs.cli_image import Subparsers

_SIGNS = {"added": "+", "removed": "-", "data": "M", "type": "T", "attributes": "m"}


def add_parser(subparsers: Subparsers) -> None:
    """Register the sub-command; `args.run(args)` carries it out and returns the exit status."""
    parser = subparsers.add_parser(
        "diff",
        help="compare two images",
        description="List the files that differ between two images (+ added, - removed, M data, T type, "
        "m attributes only), and say what a node that has the first must pull for the second. Needs the "
        "bootstraps only. The exit status is 0 whether they differ or not.",
    )
    parser.add_argument("old", metavar="OLD", type=Path, help="metadata file of the image that nodes have")
    parser.add_argument("new", metavar="NEW", type=Path, help="metadata file of the image that they get")
    parser.add_argument("--summary", action="store_true", help="no list of files")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compare and print."""
    from rafs.tools.diff import diff_images

    with opened_bootstrap("diff", args.old) as old, opened_bootstrap("diff", args.new) as new:
        result = diff_images(old.image, new.image)
    print(_as_json(args, result) if args.json else _as_text(args, result))
    return 0


def _as_json(args: argparse.Namespace, result: Difference) -> str:
    facts = asdict(result)
    changes = facts.pop("changes")
    if not args.summary:
        facts["changes"] = [change | {"path": os.fsdecode(change["path"])} for change in changes]
    return json.dumps(facts, indent=1)


def _as_text(args: argparse.Namespace, result: Difference) -> str:
    from rafs.tools.faults import show

    lines = []
    if not args.summary:
        for change in result.changes:
            pulled = f"  {format_size(change.pulled)} to pull" if change.pulled else ""
            lines.append(f"{_SIGNS[change.what]} {show(change.path)}{pulled}")
    share = result.pulled_size / max(result.image_size, 1)
    lines.append(
        f"{len(result.changes):,} changed, {result.unchanged:,} as they were; to pull: "
        f"{format_size(result.pulled_size)} in {result.pulled_chunks:,} chunks, {share:.1%} of "
        f"{format_size(result.image_size)}, and {format_size(result.bootstrap_size)} of metadata"
    )
    if result.repeated_size:
        lines.append(
            f"{format_size(result.repeated_size)} of that the old image has in another blob: with it as "
            f"--chunk-dict of its build, the new one would refer to them"
        )
    return "\n".join(lines)
