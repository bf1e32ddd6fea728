"""The text of every kind of error: `op: what is wrong, with the values; what would be right`.

Each case is a line of code as a user writes it. Nothing here may panic, abort or hang.
"""

from __future__ import annotations

import gc
import json
import struct
from pathlib import Path

import numpy as np
import pytest

import backsweep as bs
import backsweep.nn.functional as F
from backsweep import errors, nn, optim

NAMES = {"bs": bs, "F": F, "nn": nn, "optim": optim, "np": np, "ones": bs.ones}
NAMES["leaf"] = lambda *shape: bs.ones(*shape).requires_grad_()

TABLE = [
    (
        "ones(32, 784) @ ones(512, 10)",
        "ShapeError",
        "matmul: inner dimensions differ: [32, 784] × [512, 10] (784 vs 512)",
    ),
    (
        "ones(2, 3, 4) @ ones(5, 4, 3)",
        "ShapeError",
        "matmul: batch dims of [2, 3, 4] × [5, 4, 3] do not broadcast; before the last two, sizes must be equal "
        "or 1",
    ),
    (
        "bs.tensor(1.0) @ ones(3)",
        "ShapeError",
        "matmul: shapes [] and [3]; each side needs at least 1 dim (help: use *)",
    ),
    (
        "ones(2, 3).long() @ ones(3, 2).long()",
        "DTypeError",
        "matmul: dtype int64 has no gradient or fraction; a floating dtype is needed (help: x.float())",
    ),
    (
        "ones(2, 3) @ ones(3, 2).double()",
        "DTypeError",
        "matmul: dtypes float32 and float64 differ; cast one of them (help: x.to(y.dtype))",
    ),
    (
        "nn.Linear(3, 4)(ones(2, 5))",
        "ShapeError",
        "linear: input [2, 5] with weight [4, 3]; the weight must be [out, in] and the input's last dim in",
    ),
    (
        "ones(2, 3) + ones(4)",
        "ShapeError",
        "add: shapes [2, 3] and [4] do not broadcast; from the right, sizes must be equal or 1",
    ),
    (
        'bs.sqrt("a")',
        "DTypeError",
        "sqrt: 'a' among its operands; tensors and numbers are needed",
    ),
    (
        "F.softmax(ones(2, 5), dim=3)",
        "IndexError",
        "softmax: dim 3 is out of range for [2, 5]; valid dims are -2 to 1",
    ),
    (
        "F.softmax(ones(2, 5).long(), dim=1)",
        "DTypeError",
        "softmax: dtype int64 has no gradient or fraction; a floating dtype is needed (help: x.float())",
    ),
    (
        "ones(2, 3).sum(dim=2)",
        "IndexError",
        "sum: dim 2 is out of range for [2, 3]; valid dims are -2 to 1",
    ),
    (
        "ones(2, 3).sum(dim=(0, 0))",
        "ValueError",
        "sum: dim 0 is named twice in [0, 0]; name each dim once",
    ),
    (
        "ones(0, 3).amax(dim=0)",
        "ShapeError",
        "amax: [0, 3] has no elements there; one or more are needed",
    ),
    (
        "ones(2, 3).reshape(4, 2)",
        "ShapeError",
        "reshape: [2, 3] has 6 elements and cannot become [4, 2]; the numbers of elements must be equal",
    ),
    (
        "ones(2, 3).reshape(-1, -1)",
        "ShapeError",
        "reshape: [2, 3] has 6 elements and cannot become [-1, -1]; at most one size may be -1",
    ),
    (
        "ones(2, 3).reshape(4, -1)",
        "ShapeError",
        "reshape: [2, 3] has 6 elements and cannot become [4, -1]; the -1 would not be a whole number",
    ),
    (
        "ones(2, 3).T.view(6)",
        "ShapeError",
        "view: [3, 2] with strides [1, 3] cannot be seen as [6] without a copy; its elements must lie in order "
        "(help: x.reshape copies)",
    ),
    (
        "ones(2, 3).permute(0, 0)",
        "ValueError",
        "permute: [0, 0] repeats a dim; name each once",
    ),
    (
        "ones(2, 3).transpose(0, 2)",
        "IndexError",
        "transpose: dim 2 is out of range for [2, 3]; valid dims are -2 to 1",
    ),
    (
        "ones(2, 3).expand(4, 3)",
        "ShapeError",
        "expand: [2, 3] cannot become [4, 3]; sizes must be equal, 1 in the tensor, or -1 to keep",
    ),
    (
        "ones(2, 3).squeeze(5)",
        "IndexError",
        "squeeze: dim 5 is out of range for [2, 3]; valid dims are -2 to 1",
    ),
    (
        "bs.cat([])",
        "ValueError",
        "cat: the list of tensors is empty; one tensor or more is needed",
    ),
    (
        "bs.cat([ones(2, 3), ones(2, 4)], 0)",
        "ShapeError",
        "cat: shapes [2, 3] and [2, 4] along dim 0; all other sizes must be equal",
    ),
    (
        "bs.stack([ones(2), ones(3)])",
        "ShapeError",
        "stack: shapes [2] and [3] differ; all shapes must be equal",
    ),
    (
        "ones(5).split([2, 2])",
        "ValueError",
        "split: sizes [2, 2] for dim 0 of [5]; they must sum to 5",
    ),
    (
        "ones(5).chunk(0)",
        "ValueError",
        "chunk: 0 chunks; one or more is needed",
    ),
    (
        "ones(3)[3]",
        "IndexError",
        "index: 3 is out of range for dim 0 of [3]; valid indices are -3 to 2",
    ),
    (
        "ones(3)[0, 0]",
        "IndexError",
        "index: 2 indices for a tensor of shape [3]; 1 at most can be used",
    ),
    (
        "ones(3)[1.5]",
        "IndexError",
        "index: a float; ints, slices, None, ..., masks and integer tensors are needed",
    ),
    (
        "ones(3)[bs.tensor([True, False])]",
        "IndexError",
        "index: a mask of shape [2] on dims of shape [3]; the shapes must be equal",
    ),
    (
        "ones(3)[bs.tensor([0, 7])]",
        "IndexError",
        "index: index 7 is out of range for size 3; valid indices are -3 to 2",
    ),
    (
        "nn.Embedding(4, 2)(bs.tensor([1, 9]))",
        "IndexError",
        "embedding: index 9 is out of range for size 4; valid indices are 0 to 3",
    ),
    (
        "nn.Embedding(4, 2)(bs.tensor([1.0]))",
        "DTypeError",
        "embedding: an index of float32; int64 is needed (help: x.long())",
    ),
    (
        "ones(2, 2).gather(1, bs.tensor([[5]]))",
        "IndexError",
        "gather: index 5 is out of range for size 2; valid indices are 0 to 1",
    ),
    (
        "F.cross_entropy(ones(2, 3), bs.tensor([0, 3]))",
        "IndexError",
        "cross_entropy: target 3 with 3 classes; 0 to 2 or ignore_index -100 is needed",
    ),
    (
        "F.cross_entropy(ones(2, 3), bs.tensor([0, 1, 2]))",
        "ShapeError",
        "cross_entropy: logits [2, 3] with targets [3]; [n, c] with [n] is needed",
    ),
    (
        "F.mse_loss(ones(2, 1), ones(2))",
        "ShapeError",
        "mse_loss: input [2, 1] and target [2]; the shapes must be equal (help: target.reshape(2, 1))",
    ),
    (
        "nn.LayerNorm(4)(ones(2, 3))",
        "ShapeError",
        "layer_norm: normalized_shape [4] for input [2, 3]; its last dims are needed",
    ),
    (
        "nn.Dropout(1.5)",
        "ValueError",
        "Dropout: p=1.5 is no probability; a value from 0 to 1 is needed",
    ),
    (
        "leaf(3).mul(2).backward()",
        "GraphError",
        "backward: a tensor of shape [3] has 3 elements, and a sweep starts from one; pass gradient= of this "
        "shape, or reduce it first (help: loss.mean().backward())",
    ),
    (
        "ones(3).sum().backward()",
        "GraphError",
        "backward: this tensor does not require a gradient and was not made from one that does",
    ),
    (
        "leaf(3).mul(2).backward(ones(2))",
        "ShapeError",
        "backward: gradient has shape [2] for a tensor of [3]; the shapes must be equal",
    ),
    (
        "leaf(2).add_(1)",
        "GraphError",
        "add_: the target is a leaf that requires a gradient; write to it under no_grad, or use add",
    ),
    (
        "(leaf(2, 2) * 1)[0].mul_(2)",
        "GraphError",
        "mul_: the target is a view, and the gradient of what it looks at would be lost; use mul, or clone the "
        "view first",
    ),
    (
        "ones(2).long().requires_grad_()",
        "DTypeError",
        "requires_grad: dtype int64 has no gradient; a floating dtype is needed",
    ),
    (
        "bs.autograd.grad(leaf(1).sum(), [leaf(1)])",
        "GraphError",
        "grad: the outputs do not depend on inputs[0] of shape [1]; leave it out, or pass allow_unused=True to "
        "get None",
    ),
    (
        "ones(1).add_(ones(3))",
        "ShapeError",
        "add_: the result has shape [3] and the target [1]; the target of an in-place op cannot grow",
    ),
    (
        "ones(2).long().add_(ones(2) * 0.5)",
        "DTypeError",
        "add_: the result is float32 and the target int64; use add, or a floating target",
    ),
    (
        "bs.zeros(2**62, 4)",
        "ShapeError",
        "full: a tensor of shape [4611686018427387904, 4] has more elements than memory can address",
    ),
    (
        "bs.zeros(-1)",
        "ShapeError",
        "zeros: shape [-1] has a size below 0; zero or more is needed",
    ),
    (
        "bs.arange(0, 3, 0)",
        "ValueError",
        "arange: 0 to 3 by 0; finite numbers and a step other than 0 are needed",
    ),
    (
        "ones(2).item()",
        "ValueError",
        "item: a tensor of shape [2] has 2 elements; one is needed",
    ),
    (
        "bool(ones(2))",
        "ValueError",
        "bool: a tensor of shape [2] is neither true nor false; use any() or all()",
    ),
    (
        'bs.zeros(2, device="cuda")',
        "DeviceError",
        "zeros: there is no device 'cuda'; 'cpu', 'gpu', 'gpu:1' … or 'auto' is needed",
    ),
    (
        'ones(2).to("tpu")',
        "DeviceError",
        "to: there is no device 'tpu'; 'cpu', 'gpu', 'gpu:1' … or 'auto' is needed",
    ),
    (
        "bs.tensor([[1, 2], [3]])",
        "ShapeError",
        "tensor: nested lists differ at depth 1: length 2 and length 1; all parts at one depth must have one "
        "length",
    ),
    (
        'bs.tensor(["a"])',
        "DTypeError",
        "tensor: 'a' is a str; numbers and lists of them are needed",
    ),
    (
        'bs.from_numpy(np.array(["a"]))',
        "DTypeError",
        "from_numpy: elements of type <U1; bool, uint8, int32, int64, float16, float32 and float64 are taken",
    ),
    (
        "leaf(2).numpy()",
        "GraphError",
        "numpy: this tensor has a history that an array cannot carry; call detach() first",
    ),
    (
        "ones(2).to(bs.bfloat16).numpy()",
        "DTypeError",
        "numpy: NumPy has no bfloat16; convert first (help: x.float())",
    ),
    (
        'bs.memory.limit("12 parsecs").__enter__()',
        "ValueError",
        "memory: '12 parsecs' is no size; an int or a text such as '512 MiB' is needed",
    ),
    (
        "optim.SGD([], lr=0.1)",
        "ValueError",
        "SGD: params is empty; one parameter or more is needed",
    ),
    (
        "optim.SGD([leaf(1)], lr=-1)",
        "ValueError",
        "SGD: lr=-1; 0 or more is needed",
    ),
    (
        "optim.Adam([leaf(1)], betas=(1.5, 0.9))",
        "ValueError",
        "Adam: betas[0]=1.5; a value in [0, 1) is needed",
    ),
    (
        "optim.SGD([leaf(1) * 2], lr=1)",
        "ValueError",
        "SGD: params[0] of group 0 is the result of an operation; a leaf is needed, as only leaves collect "
        "gradients",
    ),
    (
        'nn.Linear(2, 2).load_state_dict({"weight": ones(3, 2), "bias": ones(2)})',
        "ValueError",
        "load_state_dict: the state does not fit Linear: weight has shape [3, 2] where [2, 2] is needed; the "
        "names and shapes of its own state_dict() are needed (help: strict=False loads only the keys that match)",
    ),
    (
        'nn.Linear(2, 2).load_state_dict({"weight": ones(2, 2)})',
        "ValueError",
        "load_state_dict: the state does not fit Linear: missing bias; the names and shapes of its own "
        "state_dict() are needed (help: strict=False loads only the keys that match)",
    ),
    (
        'nn.Linear(2, 2).load_state_dict({"weight": ones(2, 2), "bias": ones(2), "scale": ones(1)})',
        "ValueError",
        "load_state_dict: the state does not fit Linear: unexpected scale; the names and shapes of its own "
        "state_dict() are needed (help: strict=False loads only the keys that match)",
    ),
    (
        'bs.save({"a": ones(1)}, "x", metadata={"a": 1})',
        "DTypeError",
        "save: metadata with something else than texts; texts under texts are needed",
    ),
    (
        "bs.tensor([250], dtype=bs.uint8) + 300",
        "ValueError",
        "add: the number 300 is out of range; uint8 holds 0 to 255",
    ),
    (
        "bs.tensor([1], dtype=bs.int32).masked_fill(bs.tensor([True]), 2**40)",
        "ValueError",
        "where: the number 1099511627776 is out of range; int32 holds -2147483648 to 2147483647",
    ),
    (
        "ones(2) * 2**70",
        "ValueError",
        "number: an integer of more than 64 bits; -2^63 to 2^63 - 1 is needed (help: float(n))",
    ),
    (
        "ones(2, 3).stride(2)",
        "IndexError",
        "stride: dim 2 is out of range for [2, 3]; valid dims are -2 to 1",
    ),
    (
        "bs.tensor(1.0).stride(0)",
        "IndexError",
        "stride: dim 0 is out of range for a 0-d tensor; valid dims are -1 and 0",
    ),
    (
        "ones(2, 3).scatter(1, bs.tensor([[0]]))",
        "ValueError",
        "scatter: src and value are both given, or neither; one of them is needed",
    ),
    (
        "bs.from_dlpack([1, 2])",
        "DTypeError",
        "from_dlpack: a list has no __dlpack__; an array is needed",
    ),
    (
        'bs.save({"a": 1}, "x")',
        "DTypeError",
        "save: 'a' is a int; tensors are saved",
    ),
    (
        "ones(2).clamp()",
        "ValueError",
        "clamp: neither min nor max is given; one bound or both are needed",
    ),
    (
        "bs.where(ones(2), ones(2), ones(2))",
        "DTypeError",
        "where: the mask is float32; a tensor of bools is needed (help: compare first)",
    ),
    (
        "bs.randint(3, 3, (2,))",
        "ValueError",
        "randint: low 3 and high 3; low must be below high",
    ),
    (
        "ones(2).long() ** -1",
        "ValueError",
        "pow: an integer to a negative power is no integer; exponents of 0 or more are needed (help: x.float())",
    ),
    (
        "ones(2).long() // 0",
        "ValueError",
        "floor_divide: an integer divided by 0; divisors other than 0 are needed (help: floats give inf or nan)",
    ),
    (
        "ones(2).long() % bs.tensor([0, 1])",
        "ValueError",
        "remainder: an integer divided by 0; divisors other than 0 are needed (help: floats give inf or nan)",
    ),
    (
        "ones(2) & ones(2)",
        "DTypeError",
        "logical_and: operators & | ^ ~ on float32; bool is needed (help: compare first)",
    ),
    (
        "~ones(2)",
        "DTypeError",
        "logical_not: operators & | ^ ~ on float32; bool is needed (help: compare first)",
    ),
    (
        "list(bs.tensor(1.0))",
        "DTypeError",
        "iter: a 0-d tensor has no parts; use item()",
    ),
    (
        "bs.finfo(bs.int64)",
        "DTypeError",
        "finfo: int64 is no floating dtype; one of float16, bfloat16, float32, float64 is needed",
    ),
    (
        "bs.data.DataLoader(bs.data.TensorDataset(ones(2)), batch_size=0)",
        "ValueError",
        "DataLoader: batch_size=0, num_workers=0, prefetch_factor=2; at least 1, 0 and 1 are needed",
    ),
    (
        "bs.data.TensorDataset(ones(2), ones(3))",
        "ShapeError",
        "TensorDataset: shapes [2], [3]; one tensor or more is needed, all of the same length",
    ),
    (
        "bs.autograd.gradcheck(lambda x: x * x, (leaf(2),))",
        "DTypeError",
        "gradcheck: an input of dtype float32; float64 is needed, as differences lose half the digits",
    ),
    (
        "nn.Sequential(nn.ReLU())[3]",
        "IndexError",
        "Sequential: index 3 is out of range for 1 modules; valid indices are -1 to 0",
    ),
    (
        'bs._core.apply("nonsense", ones(1))',
        "ValueError",
        "apply: there is no op 'nonsense'; op_names() lists what there is",
    ),
    (
        "F.scaled_dot_product_attention(ones(2, 5, 4), ones(2, 7, 5), ones(2, 7, 3))",
        "ShapeError",
        "attention: query [2, 5, 4], key [2, 7, 5], value [2, 7, 3]: the last dims of query and key differ; "
        "[.., t, d], [.., s, d], [.., s, e] is needed",
    ),
    (
        "F.scaled_dot_product_attention(*[ones(2, 5, 4)] * 3, ones(5, 6))",
        "ShapeError",
        "attention: a mask [5, 6] for scores [2, 5, 5]; a shape that broadcasts to the scores is needed",
    ),
    (
        "nn.LSTM(3, 4)(ones(0, 2, 3))",
        "ShapeError",
        "LSTM: input has shape [0, 2, 3], 0 steps; 1 step or more is needed",
    ),
    (
        "bs._core.apply('gru', ones(5, 2, 3), ones(3, 4), ones(12, 3), ones(12, 4))",
        "ShapeError",
        "gru: first h [3, 4] float32 for an input [5, 2, 3] float32 and 4 hidden units; "
        "[2, 4] of the input's dtype is needed",
    ),
    (
        "F.conv2d(ones(1, 3, 8, 8), ones(4, 2, 3, 3))",
        "ShapeError",
        "conv2d: 3 channels of [1, 3, 8, 8] for a weight [4, 2, 3, 3] in 1 groups; 2 channels are needed",
    ),
    (
        "F.conv2d(ones(1, 3, 4, 4), ones(4, 3, 5, 3), padding=(0, 1))",
        "ShapeError",
        "conv2d: a kernel of 5 with dilation 1 on 4 with padding 0, rows of [1, 3, 4, 4]; the kernel must fit",
    ),
    (
        "F.conv2d(ones(1, 3, 4, 4), ones(4, 3, 3, 3), stride=0)",
        "ValueError",
        "conv2d: stride is [0, 0]; 1 or more is needed",
    ),
    (
        "F.conv2d(ones(1, 3, 4, 4), ones(4, 3, 3, 3), padding=2**62)",
        "ValueError",
        "conv2d: padding is [4611686018427387904, 4611686018427387904]; at most 2⁴⁸ is possible",
    ),
    (
        "F.conv2d(ones(1, 3, 4, 4), ones(4, 3, 3, 3), ones(5))",
        "ShapeError",
        "conv2d: a bias [5] for a weight [4, 3, 3, 3]; [4] is needed",
    ),
    (
        "F.conv2d(ones(3, 4), ones(4, 3, 3, 3))",
        "ShapeError",
        "conv2d: input [3, 4] with a weight [4, 3, 3, 3]; 3 or 4 dims and 4 are needed",
    ),
    (
        "F.conv2d(ones(1, 3, 4, 4), ones(4, 3, 3, 3).double())",
        "DTypeError",
        "conv2d: dtypes float32 and float64 differ; cast one of them (help: x.to(y.dtype))",
    ),
    (
        "F.conv_transpose2d(ones(1, 4, 2, 2), ones(4, 3, 3, 3), stride=2, output_padding=2)",
        "ValueError",
        "conv_transpose2d: output_padding (2, 2) with stride (2, 2) and dilation (1, 1); "
        "less than one of the two is needed",
    ),
    (
        "F.max_pool2d(ones(1, 1, 4, 4), 2, padding=2)",
        "ValueError",
        "max_pool2d: padding 2 for a window of 2; at most half the window is needed",
    ),
    (
        "F.max_pool2d(ones(1, 1, 2, 2), 3)",
        "ShapeError",
        "max_pool2d: a window of 3 on 2 with padding 0, rows of [1, 1, 2, 2]; the window must fit",
    ),
    (
        "F.avg_pool2d(ones(1, 1, 2, 2), 2, divisor_override=0)",
        "ValueError",
        "avg_pool2d: divisor_override is 0; a number above zero is needed",
    ),
    (
        "F.batch_norm(ones(1, 3), None, None, training=True)",
        "ShapeError",
        "batch_norm: 1 values a channel of [1, 3]; at least 2 are needed to train (help: model.eval())",
    ),
    (
        "F.batch_norm(ones(2, 3), None, None)",
        "ValueError",
        "batch_norm: no running statistics outside training; both are needed",
    ),
    (
        "F.pad(ones(2, 3), (3, 0), mode='reflect')",
        "ShapeError",
        "pad: 3 and 0 in mode 'reflect' on size 3 of dim 1 of [2, 3]; at most 2 is possible",
    ),
]


@pytest.mark.parametrize(("code", "kind", "text"), TABLE, ids=[f"{i}-{code}" for i, (code, *_) in enumerate(TABLE)])
def test_a_mistake_is_named_with_its_values_and_what_would_be_right(code: str, kind: str, text: str) -> None:
    with pytest.raises(errors.BacksweepError) as caught:
        exec(code, dict(NAMES))
    assert (type(caught.value).__name__, str(caught.value)) == (kind, text)


def test_a_second_backward_says_which_line_freed_what() -> None:
    x = bs.ones(2).requires_grad_()
    y = (x * x).sum()
    y.backward()
    with pytest.raises(errors.GraphError, match=r"the values that sum at test_errors.py:\d+ saved were freed by an earlier"):
        y.backward()
    assert x.grad is not None and x.grad.tolist() == [2.0, 2.0]


def test_a_change_of_a_saved_value_names_both_lines() -> None:
    y = (bs.ones(2).requires_grad_() * 2).exp()
    y.add_(1)
    with pytest.raises(errors.GraphError, match=r"exp at test_errors.py:\d+ saved .* changed in place at test_errors.py:\d+"):
        y.sum().backward()


def test_a_parameter_without_a_gradient_is_reported_once() -> None:
    used, unused = nn.Parameter(bs.ones(2)), nn.Parameter(bs.ones(3))
    optimizer = optim.SGD([("used", used), ("unused", unused)], lr=0.1)
    used.sum().backward()
    with pytest.warns(UserWarning, match=r"SGD.step: no gradient for unused \[3\]"):
        optimizer.step()
    optimizer.step()


def test_memory_that_cannot_be_had_is_an_error_with_the_state_as_before() -> None:
    gc.collect()  # earlier cases have left tracebacks that hold tensors
    live = bs.memory.stats()["live"]
    with pytest.raises(MemoryError, match=r"full: the system refused 64 TiB with .* live"):
        bs.zeros(2**44)
    assert bs.memory.stats()["live"] == live


def image(header: object, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(dtype: str = "F32", shape: object = (1,), offsets: object = (0, 4)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


FILES = {
    b"": "has 0 bytes and a header said to have 0",
    struct.pack("<Q", 1 << 60) + b"{}": "has 10 bytes and a header said to have 1152921504606846976",
    image(b"{nonsense"): "has a header that is no JSON",
    image([1]): "has a header that is no table of tensors",
    image({"a": entry("X9")}, bytes(4)): "has 'a' of type 'X9'; known are BOOL U8 I32 I64 F16 BF16 F32 F64",
    image({"a": entry(shape=[2])}, bytes(4)): "gives 'a' 4 bytes for 2 elements of 4",
    image({"a": entry(shape=[2], offsets=[0, 8])}, bytes(4)): "has 4 bytes of data and describes 8",
    image({"a": entry(), "b": entry()}, bytes(4)): "leaves a gap or an overlap of bytes before 'b'",
    image({"a": entry()}, bytes(8)): "has 8 bytes of data and describes 4",
    image({"a": entry(shape=[-1])}, bytes(4)): "gives 'a' the shape [-1]",
    image({"a": entry(shape=[1 << 62, 1 << 62], offsets=[0, 4])}, bytes(4)): "gives 'a' the shape",
    image({"a": entry(offsets=["0", 4])}, bytes(4)): "gives 'a' the shape",
    image({"a": entry(shape=[1] * 10_000)}, bytes(4)): "gives 'a' the shape [1, 1",
    image({"a": entry(shape=[0, 1 << 61], offsets=[0, 0])}): "gives 'a' the shape [0, 2305843009213693952] at byte 0",
    image({"a": entry("BOOL", offsets=[0, 1]), "b": entry(offsets=[1, 5])}, bytes(5)): "gives 'b' the shape [1] at byte 1",
    image({"a": entry("BOOL", offsets=[0, 1])}, b"\7"): "has bools in 'a' that are neither 0 nor 1",
    image({"a": entry(["F32"])}, bytes(4)): "has 'a' of type ['F32']",  # type: ignore[arg-type]
    image({"a": {**entry(), "more": 1}}, bytes(4)): "describes 'a' by something else",
    image({"a": entry(), "b": entry(offsets=[8, 12])}, bytes(12)): "leaves a gap or an overlap of bytes before 'b'",
    image({"__metadata__": {"a": 1}}): "has metadata that is no table of texts",
    image(b'{"a": 1, "a": 2}'): "uses a name twice",
    image(b'{"a": {"shape": [' + b"9" * 5000 + b"]}}"): "has a header that is no JSON",
    image(b"[" * 100_000): "has a header that is no JSON",
    image(b'{"\xff": 1}'): "has a header that is no JSON",
    struct.pack("<Q", 17 << 20) + b" " * (17 << 20): "has 17825800 bytes and a header said to have 17825792",
}


@pytest.mark.parametrize(("data", "text"), FILES.items(), ids=range(len(FILES)))
def test_a_corrupt_weight_file_is_refused_by_name(data: bytes, text: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(data)
    with pytest.raises(errors.ValueError) as caught:
        bs.load(path)
    assert str(caught.value).startswith(f"load: '{path}' ") and text in str(caught.value)


@pytest.mark.parametrize("name", ["", "\\u0000", "\\ud800", "x" * 1025])
def test_a_name_that_is_no_plain_text_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(image(b'{"%s": %s}' % (name.encode(), json.dumps(entry()).encode()), bytes(4)))
    with pytest.raises(errors.ValueError, match=r"load: the name .* of a tensor; a text of 1 to 1024 bytes is needed"):
        bs.load(path)


def test_a_truncated_or_bent_weight_file_never_loads_wrong(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    saved = {"a": bs.randn(3, 4), "b": bs.arange(5), "c": bs.randn(2).to(bs.bfloat16)}
    bs.save(saved, path)
    whole = path.read_bytes()
    header_end = 8 + struct.unpack("<Q", whole[:8])[0]
    random = np.random.default_rng(0)
    for _ in range(300):
        bent = bytearray(whole)
        if random.integers(2):
            del bent[int(random.integers(len(bent))) :]
        else:
            bent[int(random.integers(header_end))] ^= int(random.integers(1, 256))
        path.write_bytes(bytes(bent))
        try:
            loaded = bs.load(path)
        except errors.BacksweepError:
            continue
        # A changed name, or a change of spaces: whatever loads has whole tensors of known types.
        assert sum(t.nbytes for t in loaded.values()) == len(whole) - header_end
