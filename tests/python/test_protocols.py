"""Tensors among other things of Python: NumPy, pickle, copy, repr, len, iteration, hashing."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import backsweep as bs
from backsweep import nn

DTYPES = [bs.float32, bs.float64, bs.float16, bs.bfloat16, bs.int64, bs.int32, bs.uint8, bs.bool]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 4)])
def test_pickle_and_copies_keep_values_types_and_leaves(dtype: bs.dtype, shape: tuple[int, ...]) -> None:
    tensor = bs.randint(0, 2, shape).to(dtype)
    tensor.requires_grad_(dtype.is_floating_point)
    for other in (pickle.loads(pickle.dumps(tensor)), copy.deepcopy(tensor)):
        assert other.dtype is dtype and other.shape == shape and bs.equal(other.detach(), tensor.detach())
        assert other.requires_grad == tensor.requires_grad and not other.shares_memory(tensor)


def test_modules_pickle_with_their_parameters() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    again = pickle.loads(pickle.dumps(model))
    assert isinstance(again[0].weight, nn.Parameter)
    assert {k: v.tolist() for k, v in again.state_dict().items()} == {k: v.tolist() for k, v in model.state_dict().items()}


def test_a_value_with_a_history_has_no_copy() -> None:
    y = bs.ones(2).requires_grad_() * 2
    with pytest.raises(bs.GraphError):
        copy.deepcopy(y)


def test_arrays_share_memory_both_ways() -> None:
    array = np.arange(12, dtype=np.float64).reshape(3, 4)
    for view in (array, array.T, array[::2], array[:, 1:]):
        tensor = bs.from_numpy(view)
        assert tensor.shape == view.shape and np.array_equal(tensor.numpy(), view)
        assert tensor.data_ptr() == view.__array_interface__["data"][0]
    tensor = bs.ones(2, 3)
    tensor.numpy()[0, 0] = 5.0
    assert tensor[0, 0].item() == 5.0


def test_an_array_outlives_its_tensor_and_a_tensor_its_array() -> None:
    array = bs.arange(100_000).numpy()
    tensor = bs.from_numpy(np.arange(100_000))
    for _ in range(20):
        bs.full((100_000,), 7, dtype=bs.int64)
        np.full(100_000, 7)
    assert array[99_999] == 99_999 and tensor[99_999].item() == 99_999


def test_dlpack_shares_memory_both_ways() -> None:
    tensor = bs.arange(3.0)
    array = np.from_dlpack(tensor)
    array[0] = 7.0
    assert tensor.tolist() == [7.0, 1.0, 2.0] and tensor.__dlpack_device__() == (1, 0)
    back = bs.from_dlpack(array)
    back[1] = 8.0
    assert tensor[1].item() == 8.0
    assert bs.from_dlpack(tensor).shares_memory(tensor)


def test_dlpack_of_a_saved_value_cannot_be_written() -> None:
    x = bs.ones(3).requires_grad_()
    y = x.exp()
    with pytest.raises(BufferError):
        y.detach().__dlpack__()
    assert not np.from_dlpack(y.detach()).flags.writeable
    with pytest.raises(bs.GraphError):
        y.__dlpack__()
    with pytest.raises(bs.DTypeError):
        bs.ones(3).to(bs.bfloat16).__dlpack__()


def test_a_numpy_scalar_stays_alive_with_its_tensor() -> None:
    tensors = [bs.from_numpy(np.float32(i)) for i in range(50)]
    crowd = [np.float32(7) * np.ones(()) for _ in range(1000)]
    assert [t.item() for t in tensors] == list(range(50)) and len(crowd) == 1000


def test_arrays_and_scalars_of_numpy_meet_tensors_in_operators() -> None:
    x = bs.ones(2, 3).requires_grad_()
    array = np.arange(3, dtype=np.float32)
    for y in (x * array, array * x):
        assert isinstance(y, bs.Tensor) and y.requires_grad and y[0].tolist() == [0.0, 1.0, 2.0]
    for scalar in (np.float32(2), np.float64(2), np.int64(2), np.int16(2)):
        assert (x * scalar).dtype is bs.float32 and (scalar - x).sum().item() == 6.0
    assert ((bs.ones(2) > np.zeros(2)) & (bs.ones(2) < np.int32(2))).all()


def test_operators_with_an_equals_sign_write_into_the_tensor() -> None:
    x = bs.tensor([7.0, -7.0])
    same = x
    x //= 2
    assert same.tolist() == [3.0, -4.0]
    x **= 2
    assert same.tolist() == [9.0, 16.0]
    x %= 5
    assert same is x and same.tolist() == [4.0, 1.0]


def test_read_only_arrays_are_copied() -> None:
    array = np.ones(3, dtype=np.float32)
    array.flags.writeable = False
    tensor = bs.from_numpy(array)
    tensor.add_(1)
    assert array[0] == 1.0 and tensor[0].item() == 2.0


@pytest.mark.parametrize(
    ("tensor", "text"),
    [
        (lambda: bs.tensor([1.0, -2.5]), "tensor([ 1.0000, -2.5000])"),
        (lambda: bs.arange(3), "tensor([0, 1, 2])"),
        (lambda: bs.tensor(True), "tensor(True)"),
        (lambda: bs.zeros(0, 3), "tensor([], size=(0, 3))"),
        (lambda: bs.ones(2, requires_grad=True) * 2, "tensor([2., 2.], grad_fn=<mul>)"),
        (lambda: bs.ones(1, dtype=bs.float64), "tensor([1.], dtype=backsweep.float64)"),
    ],
)
def test_a_tensor_shows_itself_as_in_pytorch(tensor: object, text: str) -> None:
    assert repr(tensor()) == text  # type: ignore[operator]


def test_a_large_tensor_is_shown_in_part() -> None:
    assert len(repr(bs.zeros(1000, 1000))) < 2000


def test_tensors_are_keys_by_identity_and_iterate_over_their_first_dim() -> None:
    x = bs.ones(2, 3)
    assert {x: 1}[x] == 1 and len({x, bs.ones(2, 3)}) == 2
    assert len(x) == 2 and [row.shape for row in x] == [(3,), (3,)]
