"""backsweep: train neural networks by one exact backward sweep, and know where every byte of it went."""

from __future__ import annotations

from . import _core, autograd, errors, memory
from . import arithmetic as _arithmetic
from . import comparison as _comparison
from . import display as _display  # noqa: F401  (attaches __repr__)
from . import elementary as _elementary
from . import indexing as _indexing
from . import joining as _joining
from . import linear_algebra as _linear_algebra
from . import random as _random
from . import reduction as _reduction
from . import shape as _shape
from . import tensor as _tensor_methods  # noqa: F401  (attaches methods; `tensor` is a function below)
from ._core import Tensor
from .arithmetic import *  # noqa: F403
from .autograd import enable_grad, is_grad_enabled, no_grad, set_grad_enabled
from .comparison import *  # noqa: F403
from .creation import *  # noqa: F403
from .dtypes import *  # noqa: F403
from .elementary import *  # noqa: F403
from .errors import BacksweepError, DeviceError, DTypeError, GraphError, OutOfMemoryError, ShapeError
from .indexing import *  # noqa: F403
from .io import load, save
from .joining import *  # noqa: F403
from .linear_algebra import *  # noqa: F403
from .random import *  # noqa: F403
from .reduction import *  # noqa: F403
from .shape import *  # noqa: F403

from .nn.functional import log_softmax, softmax  # isort: skip
from . import data, nn, optim  # isort: skip

__version__: str = _core.__version__


def cpu_info() -> dict[str, object]:
    """Threads and instruction set in use."""
    return dict(_core.cpu_info())


Tensor.__array_ufunc__ = None
Tensor.softmax = softmax
Tensor.log_softmax = log_softmax
