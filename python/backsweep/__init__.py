"""backsweep: train neural networks by one exact backward sweep, and know where every byte of it went."""

from __future__ import annotations

from . import _core, autograd, errors, memory
from . import arithmetic as _arithmetic
from . import comparison as _comparison
from . import display as _display
from . import elementary as _elementary
from . import indexing as _indexing
from . import joining as _joining
from . import linear_algebra as _linear_algebra
from . import random as _random
from . import reduction as _reduction
from . import shape as _shape
from . import subscript as _subscript
from . import tensor as _tensor_methods
from ._core import Tensor
from .arithmetic import *
from .attach import method as _method
from .autograd import enable_grad, is_grad_enabled, no_grad, set_grad_enabled
from .checkpoint import *
from .comparison import *
from .contraction import *
from .creation import *
from .dtypes import *
from .elementary import *
from .errors import BacksweepError, DeviceError, DTypeError, GraphError, OutOfMemoryError, ShapeError
from .indexing import *
from .io import load, save
from .joining import *
from .linear_algebra import *
from .random import *
from .reduction import *
from .shape import *

from .nn.functional import log_softmax, softmax  # isort: skip
from . import data, nn, optim, profiler  # isort: skip

__version__: str = _core.__version__


def cpu_info() -> dict[str, object]:
    """Threads and instruction set in use."""
    return dict(_core.cpu_info())


_method(softmax)
_method(log_softmax)
