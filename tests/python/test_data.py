"""Datasets and the loader: order, batches, collation, threads that forward errors and stop, and resuming."""

from __future__ import annotations

import gc
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

import backsweep as bs
from backsweep.data import DataLoader, Dataset, Subset, TensorDataset, default_collate, random_split
from backsweep.errors import BacksweepError, ShapeError

WORKERS = pytest.mark.parametrize("workers", [0, 1, 3])


class Numbers(Dataset[int]):
    """The numbers from 0 to size - 1, and a record of what was read, by which thread."""

    def __init__(self, size: int, fail_at: int | None = None, wait: float = 0.0) -> None:
        self.size = size
        self.fail_at = fail_at
        self.wait = wait
        self.read: list[int] = []
        self.threads: set[str] = set()

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> int:
        self.read.append(index)
        self.threads.add(threading.current_thread().name)
        time.sleep(self.wait)
        if index == self.fail_at:
            raise KeyError(f"no example {index}")
        return index


def lists(loader: Any) -> list[list[int]]:
    return [batch.numpy().tolist() for batch in loader]


def loader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "backsweep-data"]


def wait_until(condition: Any) -> bool:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(condition())


# Order and batches


@WORKERS
def test_batches_come_in_order_and_the_last_may_be_short(workers: int):
    loader = DataLoader(Numbers(7), batch_size=3, num_workers=workers)
    assert lists(loader) == [[0, 1, 2], [3, 4, 5], [6]]
    assert lists(loader) == [[0, 1, 2], [3, 4, 5], [6]]
    assert len(loader) == 3
    loader = DataLoader(Numbers(7), batch_size=3, drop_last=True, num_workers=workers)
    assert lists(loader) == [[0, 1, 2], [3, 4, 5]]
    assert len(loader) == 2
    assert lists(DataLoader(Numbers(0), num_workers=workers)) == []
    assert lists(DataLoader(Numbers(2), num_workers=workers)) == [[0], [1]]


@WORKERS
def test_a_shuffle_is_a_new_permutation_each_epoch_decided_by_the_seed(workers: int):
    def epochs(seed: int) -> list[list[int]]:
        loader = DataLoader(Numbers(50), batch_size=8, shuffle=True, seed=seed, num_workers=workers)
        return [sum(lists(loader), []) for _ in range(3)]

    first = epochs(1)
    assert all(sorted(epoch) == list(range(50)) for epoch in first)
    assert len({tuple(epoch) for epoch in [list(range(50)), *first, *epochs(2)]}) == 7
    assert first == epochs(1)


def test_the_order_is_the_same_for_any_number_of_workers():
    orders = [
        lists(
            DataLoader(
                Numbers(40), batch_size=7, shuffle=True, seed=3, num_workers=workers, prefetch_factor=ahead
            )
        )
        for workers, ahead in ((0, 1), (1, 1), (1, 5), (4, 1), (4, 3))
    ]
    assert all(order == orders[0] for order in orders)


def test_without_a_seed_the_order_follows_manual_seed():
    def order(seed: int) -> list[list[int]]:
        bs.manual_seed(seed)
        return lists(DataLoader(Numbers(50), batch_size=50, shuffle=True))

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_a_shuffle_is_uniform():
    loader = DataLoader(Numbers(4), batch_size=4, shuffle=True, seed=0)
    orders = [tuple(lists(loader)[0]) for _ in range(2400)]
    counts = np.unique(orders, axis=0, return_counts=True)[1]
    assert len(counts) == 24
    # 100 of each are expected; chi-squared with 23 degrees of freedom exceeds 60 once in 40,000 times.
    assert ((counts - 100) ** 2 / 100).sum() < 60


def test_a_sampler_gives_the_order():
    loader = DataLoader(Numbers(9), batch_size=2, sampler=[8, 0, 4])
    assert lists(loader) == [[8, 0], [4]]
    assert len(loader) == 2
    with pytest.raises(ValueError, match="both sampler and shuffle are set"):
        DataLoader(Numbers(9), shuffle=True, sampler=[1])


def test_settings_out_of_range_are_refused():
    for settings in ({"batch_size": 0}, {"num_workers": -1}, {"prefetch_factor": 0}):
        with pytest.raises(ValueError, match="at least 1, 0 and 1 are needed") as caught:
            DataLoader(Numbers(3), **settings)
        assert isinstance(caught.value, BacksweepError)


# Datasets


@WORKERS
def test_rows_of_tensors_are_gathered_in_order(workers: int):
    x, y = bs.from_numpy(np.arange(30.0).reshape(10, 3)), bs.from_numpy(np.arange(10))
    data = TensorDataset(x, y)
    assert len(data) == 10
    assert data[4][0].numpy().tolist() == [12.0, 13.0, 14.0]
    seen = []
    for rows, labels in DataLoader(data, batch_size=4, shuffle=True, seed=0, num_workers=workers):
        assert labels.dtype == bs.int64
        assert np.array_equal(rows.numpy(), x.numpy()[labels.numpy()])
        seen += labels.numpy().tolist()
    assert sorted(seen) == list(range(10))
    plain = DataLoader(data, batch_size=4, collate_fn=default_collate, seed=0)
    by_hand = DataLoader(data, batch_size=4, collate_fn=lambda rows: default_collate(rows), seed=0)
    for one, other in zip(plain, by_hand, strict=True):
        assert all(np.array_equal(a.numpy(), b.numpy()) for a, b in zip(one, other, strict=True))


def test_tensors_of_different_lengths_are_refused():
    with pytest.raises(ShapeError, match=r"TensorDataset: shapes \[3, 2\], \[4\]"):
        TensorDataset(bs.zeros(3, 2), bs.zeros(4))
    with pytest.raises(ShapeError, match=r"TensorDataset: shapes \(none\)"):
        TensorDataset()


def test_a_subset_is_a_view_by_number_even_of_a_subset():
    inner = Subset(TensorDataset(bs.from_numpy(np.arange(10))), [9, 7, 5, 3])
    outer = Subset(inner, [3, 0])
    assert len(outer) == 2
    assert [outer[place][0].item() for place in range(2)] == [3, 9]
    (batch,) = DataLoader(outer, batch_size=2)
    assert batch[0].numpy().tolist() == [3, 9]


def test_a_random_split_covers_all_once():
    data = Numbers(11)
    parts = random_split(data, [5, 6], seed=0)
    assert [len(part) for part in parts] == [5, 6]
    assert sorted(part[place] for part in parts for place in range(len(part))) == list(range(11))
    again = random_split(data, [5, 6], seed=0)
    assert [part.indices for part in parts] == [part.indices for part in again]
    assert random_split(data, [5, 6], seed=1)[0].indices != parts[0].indices
    # Fractions round down, and the rest goes to the first parts, one each.
    assert [len(part) for part in random_split(data, [0.5, 0.25, 0.25])] == [6, 3, 2]
    for lengths in ([5, 5], [0.5, 0.4], [12, -1]):
        with pytest.raises(ValueError, match="for 11 examples; lengths that sum to 11"):
            random_split(data, lengths)


def test_a_dataset_must_define_its_two_methods():
    with pytest.raises(NotImplementedError, match="__len__ is missing"):
        len(Dataset())
    with pytest.raises(NotImplementedError, match="__getitem__ is missing"):
        Dataset()[0]


# Collation


class Pair(NamedTuple):
    first: Any
    second: Any


def test_examples_are_joined_by_type():
    batch = default_collate([{"x": bs.ones(2), "y": 1, "name": "a"}, {"x": bs.zeros(2), "y": 2, "name": "b"}])
    assert batch["x"].numpy().tolist() == [[1, 1], [0, 0]]
    assert batch["y"].dtype == bs.int64
    assert batch["name"] == ["a", "b"]
    pair = default_collate([Pair(1.5, True), Pair(2.5, False)])
    assert isinstance(pair, Pair)
    assert pair.first.dtype == bs.float64
    assert pair.second.dtype == bs.bool
    rows = default_collate(
        [(np.float32(1), np.zeros(2, dtype=np.float32)), (np.float32(2), np.ones(2, dtype=np.float32))]
    )
    assert isinstance(rows, list)
    assert rows[0].numpy().tolist() == [1, 2]
    assert rows[1].dtype == bs.float32
    assert default_collate([[1, [2, 3]], [4, [5, 6]]])[1][0].numpy().tolist() == [2, 5]


def test_examples_that_cannot_be_joined_are_refused():
    with pytest.raises(TypeError, match="an example is a object"):
        default_collate([object()])
    with pytest.raises(ShapeError, match=r"examples have \[1, 2\] parts"):
        default_collate([(1,), (1, 2)])


def test_a_collate_function_of_your_own_gets_the_examples():
    loader = DataLoader(Numbers(5), batch_size=2, collate_fn=sum, num_workers=1)
    assert list(loader) == [1, 5, 4]


# Threads


def test_threads_read_ahead_but_not_further_than_asked():
    data = Numbers(100)
    passes = iter(DataLoader(data, batch_size=1, num_workers=2, prefetch_factor=3))
    next(passes)
    assert wait_until(lambda: len(data.read) >= 6)
    time.sleep(0.05)
    assert len(data.read) <= 7
    assert data.threads == {"backsweep-data"}
    del passes


def test_no_workers_read_in_the_callers_thread_when_asked():
    data = Numbers(10)
    passes = iter(DataLoader(data, num_workers=0))
    next(passes)
    assert data.read == [0]
    assert data.threads == {threading.current_thread().name}


@WORKERS
def test_an_error_is_raised_where_its_batch_was_due(workers: int):
    passes = iter(DataLoader(Numbers(10, fail_at=5), batch_size=2, num_workers=workers))
    assert [next(passes).numpy().tolist() for _ in range(2)] == [[0, 1], [2, 3]]
    with pytest.raises(KeyError, match="no example 5") as caught:
        next(passes)
    assert caught.traceback[-1].name == "__getitem__"
    with pytest.raises(StopIteration):
        next(passes)
    assert wait_until(lambda: not loader_threads())


@WORKERS
def test_an_error_in_collation_is_raised_too(workers: int):
    def collate(examples: list[int]) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(DataLoader(Numbers(3), collate_fn=collate, num_workers=workers))
    assert wait_until(lambda: not loader_threads())


def test_a_pass_that_is_left_early_stops_its_threads_and_reads_no_further():
    data = Numbers(1000, wait=0.001)
    for _ in DataLoader(data, num_workers=3):
        break
    gc.collect()
    assert wait_until(lambda: not loader_threads())
    read = len(data.read)
    time.sleep(0.05)
    assert len(data.read) == read < 20


def test_a_finished_pass_leaves_no_thread_and_no_batch_behind():
    for _ in range(3):
        list(DataLoader(Numbers(20), batch_size=3, num_workers=2))
    assert wait_until(lambda: not loader_threads())


def test_several_passes_can_run_side_by_side():
    loader = DataLoader(Numbers(6), batch_size=2, num_workers=2, shuffle=True, seed=0)
    pairs = [
        (one.numpy().tolist(), other.numpy().tolist()) for one, other in zip(loader, loader, strict=True)
    ]
    for side in zip(*pairs, strict=True):
        assert sorted(sum(side, [])) == list(range(6))


def test_a_dataset_that_blocks_for_ever_does_not_keep_the_program_from_ending():
    script = """
        import threading
        from backsweep.data import DataLoader, Dataset

        class Stuck(Dataset):
            def __len__(self):
                return 10
            def __getitem__(self, index):
                if index > 1:
                    threading.Event().wait()
                return index

        for batch in DataLoader(Stuck(), num_workers=2):
            print(batch.item())
            if batch.item() == 1:
                break
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout.split()) == (0, ["0", "1"]), done.stderr


# Resuming


def run(loader: DataLoader[int], batches: int) -> Iterator[list[int]]:
    """Batches over as many epochs as it takes."""
    while True:
        for batch in loader:
            yield batch.numpy().tolist()
            batches -= 1
            if batches == 0:
                return


@WORKERS
@pytest.mark.parametrize("shuffle", [False, True])
def test_stop_and_resume_gives_the_batches_of_a_straight_run(workers: int, shuffle: bool):
    def make(seed: int) -> DataLoader[int]:
        return DataLoader(Numbers(10), batch_size=3, shuffle=shuffle, seed=seed, num_workers=workers)

    straight = list(run(make(5), 14))
    for stop in range(1, 12):
        first = make(5)
        given = list(run(first, stop))
        second = make(99)
        second.load_state_dict(first.state_dict())
        given += list(run(second, 14 - stop))
        assert given == straight, stop


def test_the_position_counts_what_the_caller_got_not_what_was_read_ahead():
    loader = DataLoader(Numbers(100), batch_size=2, num_workers=2, prefetch_factor=4, seed=0)
    passes = iter(loader)
    for _ in range(3):
        next(passes)
    assert loader.state_dict() == {"seed": 0, "epoch": 0, "position": 3}
    del passes
    assert lists(loader)[0] == [0, 1]
    assert loader.state_dict() == {"seed": 0, "epoch": 2, "position": 0}
