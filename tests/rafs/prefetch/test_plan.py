"""The plan: nydusd's order, each file once, and nothing but a word in the log about what is not there."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest

from rafs.image import Image
from rafs.prefetch.options import PrefetchOptions
from rafs.prefetch.plan import ChunkRun, Stage, make_plan
from rafs.trace.format import Access, Trace
from tests.native.rig import BuiltImage

CHUNK = 64 << 10


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> BuiltImage:
    """/a/one and /a/deep/two of 3 chunks each, /b of one, /link and /hard that lead to /b, /empty."""
    top = tmp_path_factory.mktemp("plan")
    source = top / "source"
    (source / "a" / "deep").mkdir(parents=True)
    rng = Random(3)
    (source / "a" / "one").write_bytes(rng.randbytes(3 * CHUNK))
    (source / "a" / "deep" / "two").write_bytes(rng.randbytes(2 * CHUNK + 7))
    (source / "b").write_bytes(rng.randbytes(100))
    (source / "hard").hardlink_to(source / "b")
    (source / "link").symlink_to("b")
    (source / "empty").touch()
    return BuiltImage.build(top, chunk_size=CHUNK)


class Table(Image):
    """An image with a prefetch table of the test's choice."""

    table: tuple[str, ...] = ()

    def prefetch_nids(self) -> list[int]:
        return [self.resolve(path.encode()) for path in self.table]


@pytest.fixture
def image(built: BuiltImage) -> Iterator[Table]:
    image = Table(built.bootstrap)
    yield image
    image.close()


def chunks_of(image: Image, *paths: str) -> list[tuple[int, int]]:
    found = []
    for path in paths:
        nid = image.resolve(path.encode())
        found += [(e.blob_index, e.chunk_index) for e in image.extents(nid, 0, image.inode(nid).size)]
    return found


def chunks_in(stage: Stage) -> list[tuple[int, int]]:
    return [(run.blob_index, run.first_chunk + i) for run in stage.runs for i in range(run.chunk_count)]


ALL = Stage("all", [ChunkRun(0, 0, 7)])


def learned(image: Image, *chunks: int, runs: tuple[int, ...] = ()) -> Trace:
    """A trace of blob 0 of the image, and of one that it does not have."""
    accesses = [
        Access(0, 0, 0, 1, 1, chunk, runs=in_runs)
        for chunk, in_runs in zip(chunks, runs or [1] * len(chunks), strict=True)
    ]
    accesses.insert(1, Access(0, 0, 0, 1, 0, 3))
    blobs = ("f" * 64, image.blob(0).blob_id)
    return Trace(blobs=blobs, accesses=tuple(accesses), image_sha256=bytes(32), runs=max(runs, default=1))


def test_a_trace_goes_first_and_in_its_order(image: Table) -> None:
    image.table = ("/b",)
    stages = make_plan(image, PrefetchOptions(everything=True), learned(image, 6, 2, 3, 0))
    assert [(stage.name, stage.is_learned) for stage in stages] == [
        ("trace", True),
        ("hints", False),
        ("all", False),
    ]
    assert stages[0].runs == [ChunkRun(0, 6, 1), ChunkRun(0, 2, 2), ChunkRun(0, 0, 1)]


def test_what_few_runs_read_is_left_to_them(image: Table) -> None:
    (stage,) = make_plan(image, PrefetchOptions(files=()), learned(image, 4, 1, 2, runs=(10, 2, 3)))
    assert chunks_in(stage) == [(0, 4), (0, 2)]


def test_files_replace_the_table(image: Table) -> None:
    image.table = ("/a/one",)
    (hints,) = make_plan(image, PrefetchOptions())
    assert hints.name == "hints" and chunks_in(hints) == chunks_of(image, "/a/one")
    (files,) = make_plan(image, PrefetchOptions(files=["/b", "/a/deep"]))
    assert files.name == "files" and chunks_in(files) == chunks_of(image, "/b", "/a/deep/two")
    assert make_plan(image, PrefetchOptions(files=[])) == []


def test_a_file_is_taken_once(image: Table) -> None:
    """By its first name, and before the directory that it is in."""
    (stage,) = make_plan(
        image, PrefetchOptions(files=["/hard", "/a/deep/two", "/a", "/b", "/link", "/empty"])
    )
    assert chunks_in(stage) == chunks_of(image, "/b", "/a/deep/two", "/a/one")


def test_everything(image: Table) -> None:
    assert make_plan(image, PrefetchOptions(files=["/"])) == [ALL]
    assert make_plan(image, PrefetchOptions(everything=True)) == [ALL]
    assert make_plan(image, PrefetchOptions(stream=True)) == [ALL]
    image.table = ("/",)
    assert make_plan(image, PrefetchOptions()) == [ALL]
    assert [s.name for s in make_plan(image, PrefetchOptions(files=["/b"], everything=True))] == [
        "files",
        "all",
    ]


def test_the_root_among_others_of_the_table_leaves_no_rest(image: Table) -> None:
    image.table = ("/b", "/")
    (stage,) = make_plan(image, PrefetchOptions(everything=True))
    assert chunks_in(stage) == chunks_of(image, "/b", "/a/deep/two", "/a/one")


def test_what_is_not_there_is_told_of_once(image: Table, caplog: pytest.LogCaptureFixture) -> None:
    options = PrefetchOptions(files=["/nowhere", "/b/below", "/b", "/a/\udcff"])
    (stage,) = make_plan(image, options)
    assert chunks_in(stage) == chunks_of(image, "/b")
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("prefetch: 3 of the paths given are not in the image: /nowhere, /b/below, ")


def test_a_table_that_lies(
    image: Table, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    good = image.resolve(b"/b")
    monkeypatch.setattr(image, "prefetch_nids", lambda: [1 << 31, good])
    (stage,) = make_plan(image, PrefetchOptions())
    assert chunks_in(stage) == chunks_of(image, "/b")
    assert "prefetch: nid 2147483648: " in caplog.text
