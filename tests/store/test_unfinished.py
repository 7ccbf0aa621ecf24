"""What a killed run left is told, part by part and shard by shard."""

from __future__ import annotations

import json
import os
import time

import pytest
from directories import album, flip, write

from featx.errors import StoreError
from featx.records import LayerInfo
from featx.sharding import Shard
from featx.store.directory import index_path, list_parts, shard_index
from featx.store.lockfile import Holder
from featx.store.locking import WriterLock
from featx.store.rowindex import RowSource
from featx.store.unfinished import describe_unfinished, is_unfinished


def leave_parts(kit, path, batches, layers=None):
    """Write a part for each batch of keys and go."""
    for keys in batches:
        with kit.writer(path, layers or (kit.avg, kit.flat)) as writer:
            writer.add(*kit.rows(keys, layers or (kit.avg, kit.flat)))
    return sorted(path.with_name(f"{path.name}.parts").iterdir())


class TestOneFile:
    def test_parts_are_added_up(self, kit, path):
        more = LayerInfo("more", "max", 2)
        parts = leave_parts(kit, path, [range(4), range(4, 6)])
        parts += set(leave_parts(kit, path, [[5]], [more])) - set(parts)
        before = {part: part.read_bytes() for part in parts}
        found = describe_unfinished(path)
        assert found.path == path
        assert found.parts == tuple(parts)
        assert found.rows == 6
        assert found.layers == (kit.avg, kit.flat, more)
        assert found.spaces == (kit.space(),)
        assert found.nbytes == sum(part.stat().st_size for part in parts)
        assert found.seconds > 0
        assert (found.done, found.begun, found.missing) == ((), (), ())
        assert found.locks == found.problems == ()
        assert {part: part.read_bytes() for part in path.parent.rglob("*.h5")} == before

    def test_who_writes_it(self, kit, path):
        leave_parts(kit, path, [[0]])
        lock = WriterLock(path)
        lock.acquire()
        try:
            os.utime(lock.path, (0, time.time() - 500))
            (found,) = describe_unfinished(path).locks
        finally:
            lock.release()
        assert found.path == lock.path
        assert found.holder == Holder(**vars(Holder.ours()) | {"since": found.holder.since})
        assert 499 < found.silent_seconds < 600
        found.path.write_bytes(b"")  # as after a power cut
        assert describe_unfinished(path).locks[0].holder is None

    def test_a_writer_that_has_no_part_yet(self, kit, path):
        with kit.writer(path):
            found = describe_unfinished(path)
        assert (found.parts, found.rows, found.layers, found.spaces) == ((), 0, (), ())
        assert found.locks[0].holder.pid == os.getpid()

    def test_damage_is_named_and_the_rest_counts(self, kit, path):
        whole, flipped, cut = leave_parts(kit, path, [[0], [1, 2], [3]])
        flip(flipped, 8 * RowSource.open(flipped, check=False).regions[kit.avg.name].offset)
        cut.write_bytes(cut.read_bytes()[:-5])
        found = describe_unfinished(path, check=True)
        assert found.parts == (whole,)
        assert found.rows == 1
        assert all(str(part) in problem for part, problem in zip((flipped, cut), found.problems, strict=True))
        assert "SHA-256" in found.problems[0]
        assert "truncated" in found.problems[1]
        assert len(describe_unfinished(path).parts) == 2  # hashes nothing

    def test_only_what_is_not_finished(self, kit, path):
        assert not is_unfinished(path)
        kit.store(path)
        assert not is_unfinished(path)
        with pytest.raises(StoreError, match="is no unfinished store"):
            describe_unfinished(path)


class TestDirectory:
    @pytest.fixture
    def root(self, kit, tmp_path):
        """Of three shards, one is finished and one was killed."""
        root = tmp_path / "photos"
        write(kit, root, album(range(12)), (0, 3))
        write(kit, root, album(range(12)), (1, 3))
        shard_index(root, Shard(1, 3)).unlink()
        return root

    def test_shards_are_told_apart(self, root):
        found = describe_unfinished(root)
        assert (found.done, found.begun, found.missing) == ((Shard(0, 3),), (Shard(1, 3),), (Shard(2, 3),))
        assert found.parts == tuple(list_parts(root))
        assert 0 < found.rows < 12
        assert found.problems == ()

    def test_who_writes_a_shard(self, root):
        path = shard_index(root, Shard(1, 3))
        path.with_name("index.h5.lock").write_text(
            json.dumps({"host": "far", "boot": "", "pid": 7, "since": "now"})
        )
        (lock,) = describe_unfinished(root).locks
        assert str(lock.holder) == "process 7 on far since now"

    def test_damage_of_a_part_and_an_index(self, root):
        index, part = shard_index(root, Shard(0, 3)), list_parts(root)[-1]
        flip(index, 8 * (index.stat().st_size - 5))
        flip(part, 8 * (part.stat().st_size - 5))
        found = describe_unfinished(root, check=True)
        assert all(str(path) in problem for path, problem in zip((index, part), found.problems, strict=True))
        assert part not in found.parts

    def test_only_what_is_not_finished(self, kit, root, tmp_path):
        assert is_unfinished(root)
        assert not is_unfinished(tmp_path)
        write(kit, root, album(range(12)), (1, 3))
        write(kit, root, album(range(12)), (2, 3))
        assert index_path(root).is_file()
        assert not is_unfinished(root)
