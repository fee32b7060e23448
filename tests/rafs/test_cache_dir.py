"""A cache directory with several users: who may evict, and who must agree."""

from __future__ import annotations

from pathlib import Path

import pytest

from rafs.cache_dir import CacheDir, CacheDirs
from rafs.errors import CacheError
from rafs.limits import NO_LIMITS, CacheLimits

LIMITS = CacheLimits(quota=1 << 20)


def joined(path: Path, limits: CacheLimits = NO_LIMITS) -> CacheDir:
    directory = CacheDir(path)
    directory.join(limits)
    return directory


def test_without_limits_any_number_may_use_it(tmp_path: Path) -> None:
    one, other = joined(tmp_path), joined(tmp_path)
    with pytest.raises(CacheError, match=f"{tmp_path} is in use by another process: a limit needs it alone"):
        joined(tmp_path, LIMITS)
    one.leave()
    other.leave()
    joined(tmp_path, LIMITS).leave()


def test_an_owner_is_alone(tmp_path: Path) -> None:
    owner = joined(tmp_path, LIMITS)
    assert owner.is_owner and owner.governor.limits == LIMITS
    with pytest.raises(CacheError, match="in use by another process: one that keeps a limit in it"):
        joined(tmp_path)
    owner.leave()
    assert not joined(tmp_path).is_owner


def test_an_owner_without_limits(tmp_path: Path) -> None:
    owner = CacheDir(tmp_path)
    owner.join(owner=True)
    assert owner.is_owner
    with pytest.raises(CacheError, match="in use"):
        joined(tmp_path)


def test_stores_of_one_process_share_it(tmp_path: Path) -> None:
    directories = CacheDirs()
    one = directories.take(tmp_path, LIMITS)
    assert directories.take(tmp_path, LIMITS) is one
    with pytest.raises(CacheError, match="in use with other limits"):
        directories.take(tmp_path)
    directories.give_back(one)
    with pytest.raises(CacheError, match="in use by another process"):
        joined(tmp_path)
    directories.give_back(one)
    joined(tmp_path).leave()
    assert directories.take(tmp_path) is not one
