"""Where front-ends connect: who may, from when on, and what stands in the way."""

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from virtqueue.listener import Listener


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vhost.sock"


def names(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir()]


def can_connect(path: Path | str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(5)
        try:
            client.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        return True


@pytest.fixture
def stale(path: Path) -> Iterator[Path]:
    """A socket whose server is gone."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
        dead.listen(1)
    yield path


def test_mode_and_life(path: Path) -> None:
    with closing(Listener.bind(str(path))):
        info = path.lstat()
        assert stat.S_ISSOCK(info.st_mode)
        assert stat.S_IMODE(info.st_mode) == 0o600
        assert can_connect(path)
    assert names(path.parent) == []  # nor a private name left over


def test_the_mode_does_not_hang_on_the_umask(path: Path) -> None:
    old = os.umask(0)
    try:
        with closing(Listener.bind(str(path))):
            assert stat.S_IMODE(path.lstat().st_mode) == 0o600
    finally:
        os.umask(old)


def test_the_path_accepts_from_its_first_instant(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link
    seen: list[bool] = []

    def link_and_connect(*args: object, **kwargs: object) -> None:
        assert not path.exists()
        link(*args, **kwargs)  # type: ignore[arg-type]
        seen.append(can_connect(path) and stat.S_IMODE(path.lstat().st_mode) == 0o600)

    monkeypatch.setattr(os, "link", link_and_connect)
    Listener.bind(str(path)).close()
    assert seen == [True]


def test_a_stale_socket_is_replaced(stale: Path) -> None:
    assert not can_connect(stale)
    with closing(Listener.bind(str(stale))):
        assert can_connect(stale)
        assert names(stale.parent) == [stale.name]
    assert not stale.exists()


def test_a_live_socket_is_refused_and_left_alone(path: Path) -> None:
    with closing(Listener.bind(str(path))):
        with pytest.raises(OSError, match="another process listens there") as caught:
            Listener.bind(str(path))
        assert caught.value.errno == errno.EADDRINUSE
        assert str(path) in str(caught.value)
        assert can_connect(path)
        assert names(path.parent) == [path.name]


def test_a_live_socket_with_a_full_backlog_is_refused(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as live:
        live.bind(str(path))
        live.listen(0)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as waiting:
            waiting.connect(str(path))
            with pytest.raises(OSError, match="another process listens there"):
                Listener.bind(str(path))


@pytest.mark.parametrize("kind", ["file", "directory", "dangling link"])
def test_what_is_no_socket_is_refused_and_left_alone(path: Path, kind: str) -> None:
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to("nowhere")
    with pytest.raises(OSError, match="is not a socket; remove it or choose another path"):
        Listener.bind(str(path))
    assert names(path.parent) == [path.name]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Listener.bind(str(tmp_path / "nowhere" / "vhost.sock"))
    with pytest.raises(OSError, match="no path for a socket"):
        Listener.bind("")


def test_closing_leaves_a_successor_alone(path: Path) -> None:
    first = Listener.bind(str(path))
    path.unlink()
    with closing(Listener.bind(str(path))):
        first.close()
        assert can_connect(path)


def test_a_path_may_go_before_its_socket(path: Path) -> None:
    with closing(Listener.bind(str(path))) as listener:
        with socket.socket(socket.AF_UNIX) as waiting:
            waiting.connect(str(path))
            listener.unlink()
            listener.unlink()
            assert names(path.parent) == []
            listener.sock.accept()[0].close()  # it listens on
        with closing(Listener.bind(str(path))):
            listener.unlink()  # the successor's
            assert can_connect(path)


def test_a_backlog_as_long_as_wished(path: Path) -> None:
    with closing(Listener.bind(str(path), backlog=100)):
        clients = [socket.socket(socket.AF_UNIX) for _ in range(100)]
        for client in clients:
            client.setblocking(False)
            client.connect(str(path))  # BlockingIOError when there is no room
        for client in clients:
            client.close()


def test_relative_paths_survive_a_chdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    listener = Listener.bind("vhost.sock")
    monkeypatch.chdir("/")
    assert can_connect(tmp_path / "vhost.sock")
    listener.close()
    assert not (tmp_path / "vhost.sock").exists()


def test_a_folder_with_a_long_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    with closing(Listener.bind(str(folder / "s"))):
        monkeypatch.chdir(folder)
        assert can_connect("s")


def test_adopting_a_listening_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as inherited:
        inherited.bind(str(path))
        inherited.listen(1)
        inherited.set_inheritable(True)
        fd = inherited.detach()
    with closing(Listener.adopt(fd)) as listener:
        assert listener.sock.fileno() == fd
        assert not os.get_inheritable(fd)
        assert not listener.sock.getblocking()
        assert can_connect(path)
    assert path.exists()  # not ours to remove


def test_adopting_what_is_no_listening_socket(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file, pytest.raises(OSError, match="is no open socket"):
        Listener.adopt(file.fileno())
    left, right = socket.socketpair()
    with left, right:
        with pytest.raises(OSError, match="not a listening Unix stream socket"):
            Listener.adopt(left.fileno())
        left.send(b"still open")
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp:
        tcp.listen(1)
        with pytest.raises(OSError, match="not a listening Unix stream socket"):
            Listener.adopt(tcp.fileno())
    with pytest.raises(OSError, match="Bad file descriptor"):
        Listener.adopt(987654)
