"""The harness itself: what a script says comes back whole, and a guest that fails says why."""

from __future__ import annotations

import subprocess

import pytest

from tests.guest.vm import Guest, GuestError


def test_outputs_and_status_come_back(guest: Guest) -> None:
    script = "cat /data; echo $TAG >&2; seq 100000; (while :; do :; done) & exit 7"
    data = bytes(range(256))
    result = guest.run(script, tag="it's", files={"/data": data})
    assert result.status == 7
    assert result.stderr == b"it's\n"
    assert result.stdout == data + b"".join(b"%d\n" % i for i in range(1, 100001))
    with pytest.raises(GuestError, match="status 7 and said"):
        result.check()


def test_a_panic_is_reported_from_its_start(guest: Guest) -> None:
    with pytest.raises(GuestError, match=r"last step: booted(.|\n)*Kernel panic - not syncing: sysrq"):
        guest.run("echo c >/proc/sysrq-trigger")


def test_time_runs_out(guest: Guest) -> None:
    with pytest.raises(GuestError, match=r"out of time after 0\.\d s"):
        guest.run("exit 0", timeout_s=0.2)


def test_a_dead_backend_ends_the_run(guest: Guest) -> None:
    with subprocess.Popen(["true"]) as backend:
        backend.wait()
        with pytest.raises(GuestError, match="back-end was dead"):
            guest.run("exit 0", backend=backend)
