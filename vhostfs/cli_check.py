"""`vhostfs check`: is an image sound? Exit status 0: yes, 1: no, 2: it could not be looked at."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from vhostfs.cli_image import FAULTY, add_image_arguments, byte_progress, opened_image

if TYPE_CHECKING:
    from rafs.tools.check import Report
    from vhostfs.cli_image import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Register the sub-command; `args.run(args)` carries it out and returns the exit status."""
    parser = subparsers.add_parser(
        "check",
        help="check that an image is sound",
        description="Check the structure of an image, what its parts say of each other, and with its blobs "
        "at hand every chunk of them. Names the first byte of what is wrong, and the file. "
        "Exit status: 0 sound, 1 not, 2 it could not be looked at.",
    )
    add_image_arguments(parser, needs_blobs=False)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument(
        "--max-faults",
        metavar="N",
        type=int,
        default=100,
        help="list at most that many (default: %(default)s)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check and print; returns the exit status."""
    from rafs.tools.check import check_image

    with opened_image("check", args) as filesystem, byte_progress("checking") as progress:
        report = check_image(
            filesystem, data=bool(args.blob_dir or args.config), limit=args.max_faults, progress=progress
        )
    print(_as_json(report) if args.json else _as_text(args, report))
    return 0 if report.is_sound else FAULTY


def _as_json(report: Report) -> str:
    return json.dumps(
        {
            "sound": report.is_sound,
            "fault_count": report.fault_count,
            "faults": [fault._asdict() for fault in report.faults],
            "warnings": report.warnings,
            "counts": report.counts,
        },
        indent=1,
    )


def _as_text(args: argparse.Namespace, report: Report) -> str:
    counts = report.counts
    lines = [f"fault    {fault}" for fault in report.faults]
    if report.fault_count > len(report.faults):
        lines.append(f"fault    and {report.fault_count - len(report.faults):,} more")
    lines += [f"warning  {warning}" for warning in report.warnings]
    looked = f"{counts.get('names', 0):,} names, {counts.get('inodes', 0):,} inodes"
    if args.blob_dir or args.config:
        looked += f", {counts.get('verified_chunks', 0):,} chunks verified"
        if unverified := counts.get("unverified_chunks"):
            looked += f", {unverified:,} without a digest"
    else:
        looked += "; no blobs (--blob-dir, --config)"
    verdict = "sound" if report.is_sound else f"{report.fault_count:,} fault(s)"
    return "\n".join([*lines, f"{verdict}: {looked}"])
