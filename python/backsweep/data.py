"""Datasets and the loader: indexed examples, in batches, read ahead by threads.

Imports the native module and NumPy (for permutations). The order of epoch e is a function of the seed and e
alone, so that a loader resumes in the middle of an epoch from a few numbers.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

import numpy as np

import backsweep as bs

from . import errors
from ._core import Tensor

T = TypeVar("T")

__all__ = ["DataLoader", "Dataset", "Subset", "TensorDataset", "default_collate", "random_split"]


class Dataset(Generic[T]):
    """Examples by number: define `__len__` and `__getitem__`."""

    def __len__(self) -> int:
        """Count the examples."""
        raise NotImplementedError(f"{type(self).__name__}: __len__ is missing; define it")

    def __getitem__(self, index: int) -> T:
        """Give one example."""
        raise NotImplementedError(f"{type(self).__name__}: __getitem__ is missing; define it")


class TensorDataset(Dataset[tuple[Tensor, ...]]):
    """Examples that are rows of tensors.

    Raises: ShapeError if the tensors differ in length
    Example:
        >>> data = TensorDataset(bs.rand(10, 3), bs.zeros(10))
        >>> len(data)
        10
    """

    def __init__(self, *tensors: Tensor) -> None:
        """Keep the tensors; the first axis counts the examples."""
        shapes = [list(tensor.shape) for tensor in tensors]
        if not tensors or any(not shape or shape[0] != shapes[0][0] for shape in shapes):
            raise errors.ShapeError(
                f"TensorDataset: shapes {', '.join(map(str, shapes)) or '(none)'}; "
                f"one tensor or more is needed, all of the same length"
            )
        self.tensors = tensors

    def __len__(self) -> int:
        """Count the rows."""
        return self.tensors[0].shape[0]

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        """Give one row of each tensor."""
        return tuple(tensor[index] for tensor in self.tensors)


class Subset(Dataset[T]):
    """Some examples of a dataset, by number."""

    def __init__(self, dataset: Dataset[T], indices: Sequence[int]) -> None:
        """Keep the dataset and the numbers."""
        self.dataset = dataset
        self.indices = indices

    def __len__(self) -> int:
        """Count the examples."""
        return len(self.indices)

    def __getitem__(self, index: int) -> T:
        """Give one example."""
        return self.dataset[self.indices[index]]


def random_split(dataset: Dataset[T], lengths: Sequence[float], seed: int | None = None) -> list[Subset[T]]:
    """Split a dataset at random into parts of given lengths, or of fractions that sum to 1.

    Without a seed, the draw comes from the stream that `bs.manual_seed` starts.
    Example:
        >>> train, test = random_split(TensorDataset(bs.rand(10, 3)), [0.8, 0.2], seed=0)
        >>> len(train), len(test)
        (8, 2)
    """
    size = len(dataset)
    if abs(sum(lengths) - 1) < 1e-9 and all(0 <= length <= 1 for length in lengths):
        counts = [int(size * length) for length in lengths]
        for place in range(size - sum(counts)):  # what rounding leaves over, one each from the first part on
            counts[place % len(counts)] += 1
    else:
        counts = [int(length) for length in lengths]
    if sum(counts) != size or min(counts, default=0) < 0:
        raise errors.ValueError(
            f"random_split: lengths {list(lengths)} for {size} examples; "
            f"lengths that sum to {size}, or fractions that sum to 1, are needed"
        )
    order = _permutation(_fresh_seed() if seed is None else seed, 0, size)
    ends = list(itertools.accumulate(counts))
    return [Subset(dataset, order[end - count : end]) for count, end in zip(counts, ends, strict=True)]


def default_collate(batch: Sequence[Any]) -> Any:
    """Join examples into a batch: arrays are stacked, numbers make a tensor, containers go by part.

    Raises: TypeError for a type that is none of these
    """
    first = batch[0]
    if isinstance(first, Tensor):
        return bs.stack(list(batch), dim=0)
    if isinstance(first, (np.ndarray, np.generic)):
        return bs.from_numpy(np.stack(batch))
    if isinstance(first, bool):
        return bs.tensor(list(batch), dtype=bs.bool)
    if isinstance(first, int):
        return bs.tensor(list(batch), dtype=bs.int64)
    if isinstance(first, float):
        return bs.tensor(list(batch), dtype=bs.float64)
    if isinstance(first, (str, bytes)):
        return list(batch)
    if isinstance(first, Mapping):
        return {key: default_collate([example[key] for example in batch]) for key in first}
    if isinstance(first, (tuple, list)):
        sizes = {len(example) for example in batch}
        if len(sizes) > 1:
            raise errors.ShapeError(
                f"default_collate: examples have {sorted(sizes)} parts; equally many are needed in each"
            )
        parts = [default_collate(part) for part in zip(*batch, strict=True)]
        return type(first)(*parts) if hasattr(first, "_fields") else parts
    raise TypeError(
        f"default_collate: an example is a {type(first).__name__}; tensors, arrays, numbers, text, or "
        f"tuples, lists and dicts of them are needed (help: pass collate_fn)"
    )


class DataLoader(Generic[T]):
    """Batches of a dataset, shuffled if wanted, and read ahead by threads.

    Each pass is one epoch. Batches come in the same order for any number of workers. An error in the dataset
    is raised where its batch was due. A pass that is left early stops its threads.
    Example:
        >>> loader = DataLoader(TensorDataset(bs.rand(10, 3)), batch_size=4, shuffle=True, seed=0)
        >>> [batch[0].shape[0] for batch in loader]
        [4, 4, 2]
    """

    def __init__(
        self,
        dataset: Dataset[T],
        batch_size: int = 1,
        shuffle: bool = False,
        sampler: Iterable[int] | None = None,
        *,
        num_workers: int = 0,
        collate_fn: Callable[[list[T]], Any] | None = None,
        drop_last: bool = False,
        seed: int | None = None,
        prefetch_factor: int = 2,
    ) -> None:
        """Keep the settings.

        A sampler gives the order of each epoch itself. num_workers threads read up to prefetch_factor batches
        each ahead of the caller; with 0, a batch is read when it is asked for. Without a seed, one is drawn
        from the stream that `bs.manual_seed` starts.
        """
        if batch_size < 1 or num_workers < 0 or prefetch_factor < 1:
            raise errors.ValueError(
                f"DataLoader: batch_size={batch_size}, num_workers={num_workers}, "
                f"prefetch_factor={prefetch_factor}; at least 1, 0 and 1 are needed"
            )
        if sampler is not None and shuffle:
            raise errors.ValueError(
                "DataLoader: both sampler and shuffle are set; only one can decide the order"
            )
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.sampler = sampler
        self.num_workers = num_workers
        self.collate_fn = default_collate if collate_fn is None else collate_fn
        self.drop_last = drop_last
        self.prefetch_factor = prefetch_factor
        self._seed = _fresh_seed() if seed is None else seed
        self._epoch = 0
        self._position = 0  # batches of this epoch that the caller has got
        self._begun = False  # whether a pass of this epoch is under way, or was left early

    def __len__(self) -> int:
        """Count the batches of an epoch."""
        count = len(self.dataset if self.sampler is None else self.sampler)  # type: ignore[arg-type]
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)

    def state_dict(self) -> dict[str, int]:
        """Say where the loader is: seed, epoch, and batches given out in it."""
        return {"seed": self._seed, "epoch": self._epoch, "position": self._position}

    def load_state_dict(self, state_dict: Mapping[str, int]) -> None:
        """Go where another loader was: the next pass gives the rest of its epoch."""
        self._seed, self._epoch, self._position = (state_dict[key] for key in ("seed", "epoch", "position"))
        self._begun = False

    def __iter__(self) -> Iterator[Any]:
        """Give the batches of one epoch, or the rest of the epoch that `load_state_dict` went to."""
        if self._begun:
            self._epoch, self._position = self._epoch + 1, 0
        self._begun = True
        return self._pass(self._epoch, self._position)

    def _pass(self, epoch: int, position: int) -> Iterator[Any]:
        batches = itertools.islice(self._batches(epoch), position, None)
        # Closed by hand, so that a caller who leaves early stops the threads at once.
        with contextlib.closing(
            self._read_ahead(batches) if self.num_workers else self._read(batches)
        ) as source:
            for batch in source:
                position += 1
                if epoch == self._epoch:  # only the newest pass counts
                    self._position = position
                yield batch
        if epoch == self._epoch:
            self._epoch, self._position, self._begun = epoch + 1, 0, False

    def _batches(self, epoch: int) -> Iterator[list[int]]:
        size = len(self.dataset)
        order: Iterable[int] = _permutation(self._seed, epoch, size) if self.shuffle else range(size)
        indices = iter(order if self.sampler is None else self.sampler)
        while batch := list(itertools.islice(indices, self.batch_size)):
            if len(batch) < self.batch_size and self.drop_last:
                return
            yield batch

    def _read(self, batches: Iterable[list[int]]) -> Generator[Any, None, None]:
        for batch in batches:
            yield self._fetch(batch)

    def _read_ahead(self, batches: Iterable[list[int]]) -> Generator[Any, None, None]:
        tasks: queue.SimpleQueue[tuple[Future[Any], list[int]] | None] = queue.SimpleQueue()
        # Daemons: a dataset that blocks for ever must not keep the program from ending.
        for _ in range(self.num_workers):
            threading.Thread(
                target=_work, args=(tasks, self._fetch), name="backsweep-data", daemon=True
            ).start()
        ahead: deque[Future[Any]] = deque()
        try:
            for batch in batches:
                future: Future[Any] = Future()
                ahead.append(future)
                tasks.put((future, batch))
                if len(ahead) == self.num_workers * self.prefetch_factor:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()
            for _ in range(self.num_workers):
                tasks.put(None)

    def _fetch(self, batch: list[int]) -> Any:
        dataset: Any = self.dataset
        while type(dataset) is Subset:
            batch = [dataset.indices[index] for index in batch]
            dataset = dataset.dataset
        if type(dataset) is TensorDataset and self.collate_fn is default_collate:
            rows = bs.tensor(
                batch, dtype=bs.int64
            )  # one gather, where a stack would first make each row a tensor
            return [tensor.index_select(0, rows) for tensor in dataset.tensors]
        return self.collate_fn([dataset[index] for index in batch])


def _work(
    tasks: queue.SimpleQueue[tuple[Future[Any], list[int]] | None], fetch: Callable[[list[int]], Any]
) -> None:
    while (task := tasks.get()) is not None:
        future, batch = task
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(fetch(batch))
            except BaseException as error:
                future.set_exception(error)
        del task, future, batch  # a waiting thread must not keep a batch alive


def _fresh_seed() -> int:
    return int(bs.randint(0, 2**31 - 1, (1,)).item())


def _permutation(seed: int, epoch: int, size: int) -> list[int]:
    return np.random.default_rng([seed, epoch]).permutation(size).tolist()
