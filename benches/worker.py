"""One library in one process: does what peers.py writes on standard input, one JSON object a line each way.

A process each keeps thread pools apart; a worker that is not asked sleeps in `readline`. Imports only the
library that is asked for, and ends with the line `{"missing": …}` where that is not installed.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from itertools import cycle
from typing import Any

import numpy as np

from workloads import WORKLOADS, Workload, initial_weights

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

CHECKED_STEPS = 20


class Eager:
    """A library with PyTorch's names: torch itself in three variants, or backsweep."""

    def __init__(self, peer: str, workload: Workload) -> None:
        self.peer = peer
        library = "backsweep" if peer == "backsweep" else "torch"
        self.lib: Any = importlib.import_module(library)
        self.version = str(self.lib.__version__)
        nn = importlib.import_module(f"{library}.nn")
        functional = importlib.import_module(f"{library}.nn.functional")
        optim = importlib.import_module(f"{library}.optim")
        self.model = workload.build(self.lib, nn, functional)
        settings = dict(workload.settings)
        if peer in ("torch_fused", "compile"):
            settings["fused"] = True
        self.optimizer = getattr(optim, workload.optimizer)(self.model.parameters(), **settings)
        self.loss_of = workload.loss_function(functional)
        if peer == "compile":
            self.loss_of = self.lib.compile(self.loss_of)
        self.batches = [
            (self.lib.from_numpy(x), self.lib.from_numpy(y)) for x, y in workload.batches(CHECKED_STEPS)
        ]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(weight.shape) for name, weight in self.model.named_parameters()}

    def load(self, weights: dict[str, Any]) -> None:
        mine = dict(self.model.named_parameters())
        if mine.keys() != weights.keys():
            raise KeyError(f"parameter names differ: {sorted(mine.keys() ^ weights.keys())}")
        with self.lib.no_grad():
            for name, weight in mine.items():
                weight.copy_(self.lib.from_numpy(weights[name]))

    def step(self, x: Any, y: Any) -> Any:
        self.optimizer.zero_grad()
        loss = self.loss_of(self.model, x, y)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def finish(self) -> None:
        pass

    def phases(self, x: Any, y: Any) -> dict[str, float]:
        self.optimizer.zero_grad()
        start = time.perf_counter()
        loss = self.loss_of(self.model, x, y)
        forward = time.perf_counter()
        loss.backward()
        backward = time.perf_counter()
        self.optimizer.step()
        end = time.perf_counter()
        return {"forward": forward - start, "backward": backward - forward, "optimizer": end - backward}

    def kept_bytes(self, x: Any, y: Any) -> int | None:
        """Bytes that a forward keeps for the sweep, without parameters, buffers and the batch."""
        if self.peer == "compile":
            return None  # saved-tensor hooks do not see what a compiled graph keeps
        self.optimizer.zero_grad()
        if self.peer == "backsweep":
            loss = self.loss_of(self.model, x, y)
            kept = int(self.lib.memory.stats()["activation"])
            del loss
            return kept
        own = [*self.model.parameters(), *self.model.buffers(), x, y]
        known = {tensor.untyped_storage().data_ptr() for tensor in own}
        kept_storages: dict[int, int] = {}

        def pack(tensor: Any) -> Any:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in known:
                # Rounded as the allocators of both libraries do.
                kept_storages[storage.data_ptr()] = -(-storage.nbytes() // 64) * 64
            return tensor

        with self.lib.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = self.loss_of(self.model, x, y)
        del loss
        return sum(kept_storages.values())


class Jax:
    """JAX on the CPU, one jitted step with donated buffers."""

    def __init__(self, workload: Workload) -> None:
        import jax  # here, since only a peer's environment need have it

        import jax_models

        self.jax: Any = jax
        self.version = jax.__version__
        self.jitted_step = jax_models.training_step(workload)
        self.initial_state = jax_models.optimizer(workload)[0]
        loss = jax_models.loss_function(workload)
        self.jitted_loss, self.jitted_gradient = jax.jit(loss), jax.jit(jax.value_and_grad(loss))
        self.batches = [jax.device_put(batch) for batch in workload.batches(CHECKED_STEPS)]

    def load(self, weights: dict[str, Any]) -> None:
        self.parameters = {name: self.jax.numpy.array(weight) for name, weight in weights.items()}
        self.state = self.initial_state(self.parameters)

    def step(self, x: Any, y: Any) -> Any:
        self.parameters, self.state, loss = self.jitted_step(self.parameters, self.state, x, y)
        return loss

    def finish(self) -> None:
        self.jax.block_until_ready((self.parameters, self.state))

    def phases(self, x: Any, y: Any) -> dict[str, float]:
        start = time.perf_counter()
        self.jax.block_until_ready(self.jitted_loss(self.parameters, x, y))
        forward = time.perf_counter()
        self.jax.block_until_ready(self.jitted_gradient(self.parameters, x, y))
        both = time.perf_counter() - forward
        return {"forward": forward - start, "backward": both - (forward - start)}

    def kept_bytes(self, x: Any, y: Any) -> int | None:
        return (
            None  # XLA plans the buffers of the whole step; there is no forward that ends with something kept
        )


def answers(peer: str, workload: Workload) -> dict[str, Callable[..., Any]]:
    """The requests that a worker answers, by name."""
    session = Jax(workload) if peer == "jax" else Eager(peer, workload)
    batches = cycle(session.batches)

    def load(path: str) -> dict[str, Any]:
        if not os.path.exists(path) and isinstance(session, Eager):
            np.savez(path, **initial_weights(session.shapes()))  # type: ignore[arg-type]
        weights = dict(np.load(path))
        session.load(weights)
        return {"version": session.version, "parameters": sum(weight.size for weight in weights.values())}

    def losses() -> list[float]:
        return [float(session.step(x, y)) for x, y in session.batches]

    def steps(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            session.step(*next(batches))
        session.finish()
        return time.perf_counter() - start

    def phases(count: int) -> dict[str, float]:
        rows = [session.phases(*next(batches)) for _ in range(count)]
        return {name: float(np.median([row[name] for row in rows])) for name in rows[0]}

    def kept() -> int | None:
        return session.kept_bytes(*session.batches[0])

    def peak() -> int:
        # before `kept` and `phases`, which hold more than a step does
        return peak_process_bytes()

    def faults(count: int) -> float:
        before = minor_faults()
        steps(count)
        return (minor_faults() - before) / count

    return {
        "load": load,
        "losses": losses,
        "steps": steps,
        "phases": phases,
        "kept": kept,
        "peak": peak,
        "faults": faults,
    }


def peak_process_bytes() -> int:
    """The most memory that this process has had resident, libraries and all; 0 where the system does not say."""
    if resource is None:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def minor_faults() -> int:
    """Pages that the system has handed to this process so far."""
    return 0 if resource is None else resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def serve(peer: str, workload: Workload) -> None:
    # libraries print; what they print must not reach the pipe
    pipe = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    try:
        known = answers(peer, workload)
    except ImportError as error:
        print(json.dumps({"missing": str(error)}), file=pipe)
        return
    print(json.dumps({"ready": peer}), file=pipe)
    for line in sys.stdin:
        request, *arguments = json.loads(line)
        print(json.dumps({"answer": known[request](*arguments)}), file=pipe)


if __name__ == "__main__":
    serve(sys.argv[1], WORKLOADS[sys.argv[2]])
