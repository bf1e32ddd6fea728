"""Gradients: sweeps, grad modes, functions with a gradient of their own, and checks against finite differences."""

from .function import Function, FunctionContext, once_differentiable
from .grad_mode import enable_grad, inference_mode, is_grad_enabled, no_grad, set_grad_enabled
from .gradcheck import gradcheck, gradgradcheck
from .sweep import backward, grad

__all__ = [
    "Function",
    "FunctionContext",
    "backward",
    "enable_grad",
    "grad",
    "gradcheck",
    "gradgradcheck",
    "inference_mode",
    "is_grad_enabled",
    "no_grad",
    "once_differentiable",
    "set_grad_enabled",
]
