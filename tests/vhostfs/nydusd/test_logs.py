"""Log lines: what a line is, and that nobody who does not read holds us up."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vhostfs.nydusd import logs
from vhostfs.nydusd.logs import MAX_LINE, ErrorHistory, LineSink, SinkHandler, encode_line


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    yield reader, writer
    os.close(writer)
    os.close(reader)


@pytest.fixture
def sink(pipe: tuple[int, int]) -> Iterator[LineSink]:
    sink = LineSink(pipe[1])
    yield sink
    sink.close()


def received(reader: int) -> bytes:
    data = b""
    try:
        while piece := os.read(reader, 1 << 16):
            data += piece
    except BlockingIOError:
        pass
    return data


@pytest.mark.parametrize(
    "text", ["plain", "", "é" * 5000, "x" * 200_000, "null \0 bell \a return \r", "\udcff lone", "\x85\x9b"]
)
def test_a_line_is_one_short_line_of_utf_8(text: str) -> None:
    line = encode_line(text)
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    assert len(line) <= MAX_LINE <= 4096
    shown = line.decode("utf-8")
    assert all(c.isprintable() for c in shown[:-1])


def test_long_text_becomes_lines(pipe: tuple[int, int], sink: LineSink) -> None:
    reader, _ = pipe
    sink.write("one\ntwo\n\nthree\n")
    assert received(reader) == b"one\ntwo\n\nthree\n"


def test_a_full_pipe_costs_lines_and_no_time(pipe: tuple[int, int], sink: LineSink) -> None:
    reader, _ = pipe
    for number in range(100):
        sink.write(f"{number:03} ".ljust(2000, "."))
    assert 0 < sink.dropped < 100
    kept = received(reader).decode().splitlines()
    assert [line[:3] for line in kept] == [f"{number:03}" for number in range(len(kept))]
    assert all(len(line) == 2000 for line in kept)  # none is torn
    sink.write("now")
    assert received(reader).decode().splitlines() == [f"{100 - len(kept)} lines were not read in time", "now"]
    assert sink.dropped == 0


def test_the_parents_own_descriptor_stays_blocking(pipe: tuple[int, int], sink: LineSink) -> None:
    _, writer = pipe
    sink.write("x")
    assert not fcntl.fcntl(writer, fcntl.F_GETFL) & os.O_NONBLOCK


def test_a_reader_that_is_gone() -> None:
    reader, writer = os.pipe()
    sink = LineSink(writer)
    os.close(reader)
    sink.write("nobody hears")
    assert sink.dropped == 1
    sink.close()
    os.close(writer)


def test_a_socket_as_of_journald() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sink = LineSink(ours.fileno())
        sink.write("hello")
        assert theirs.recv(100) == b"hello\n"
        while not sink.dropped:
            sink.write("." * 3000)
        assert ours.getblocking()
        sink.close()


def test_a_file(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        file.write(b"before\n")
        file.flush()
        LineSink(file.fileno()).write("within")
        file.write(b"after\n")
    assert (tmp_path / "log").read_bytes() == b"before\nwithin\nafter\n"


def record(message: str, level: int = logging.ERROR) -> logging.LogRecord:
    return logging.LogRecord("name", level, "file", 1, message, None, None)


def test_the_handler_formats(pipe: tuple[int, int], sink: LineSink) -> None:
    reader, _ = pipe
    handler = SinkHandler(sink)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    handler.handle(record("first\nsecond"))
    assert received(reader) == b"ERROR first\nsecond\n"


def test_the_last_errors_are_kept() -> None:
    history = ErrorHistory(max_errors=3, max_size=20)
    logger = logging.getLogger("test_the_last_errors_are_kept")
    logger.propagate = False
    logger.addHandler(history)
    logger.warning("not an error")
    for message in ("a" * 5, "b" * 5, "c" * 5, "d" * 5, "e" * 12):
        logger.error(message)
    seen = history.snapshot()
    assert seen["errors"] == ["d" * 5, "e" * 12]
    assert (seen["total_errors"], seen["total_size"]) == (5, 32)
    assert (seen["max_errors"], seen["max_size"]) == (3, 20)


@pytest.fixture
def clean_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    monkeypatch.setattr(logging, "raiseExceptions", True)
    yield
    for handler in root.handlers[:]:
        if handler not in handlers:
            root.removeHandler(handler)
            handler.close()
    root.setLevel(level)


@pytest.mark.usefixtures("clean_logging")
def test_a_log_file_with_its_folder_suffix_and_rotation(tmp_path: Path) -> None:
    logs.install("info", tmp_path / "logs" / "id" / "nydusd", 1)
    logger = logging.getLogger("test")
    logger.debug("unwanted")
    logger.info("wanted")
    path = tmp_path / "logs" / "id" / "nydusd.log"
    assert path.read_text().endswith("INFO test: wanted\n")
    for _ in range(1100):
        logger.info("x" * 1000)
    assert path.with_suffix(".log.1").exists() and path.stat().st_size < 1 << 20
    logs.set_level("trace")
    logger.log(logs.TRACE, "finest")
    assert "TRACE test: finest" in path.read_text()
    logs.set_level("off")
    logger.critical("never")
    assert "never" not in path.read_text()


@pytest.mark.usefixtures("clean_logging")
def test_what_the_interpreter_prints_becomes_lines(
    pipe: tuple[int, int], sink: LineSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, _ = pipe
    monkeypatch.setattr(logs, "LineSink", lambda fd: sink)
    logs.install("info", None, 0)
    print("out", "of", "prints")
    print("half", end="", file=sys.stderr)
    assert received(reader) == b"out of prints\n"
    print(" a line\0", file=sys.stderr)
    assert received(reader) == b"half a line\\x00\n"
