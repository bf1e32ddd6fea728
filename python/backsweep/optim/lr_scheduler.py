"""Learning-rate schedules: each sets the rate of every group from the number of steps taken.

Most are chainable, as in PyTorch: they change the rate that a group has, so that several can act on one
optimizer. Where a rate can also be had from the step alone, `_direct_lr` gives it; SequentialLR starts
a phase by it.
"""

from __future__ import annotations

import math
import types
import warnings
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, SupportsFloat

from .. import errors, memory
from .optimizer import Optimizer

Schedule = Callable[[int], float]


class LRScheduler:
    """The base of schedules; call `step` behind the optimizer's, once a step or once an epoch."""

    _initial = False  # set while the constructor takes the first step

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        """Note the initial rates and take step 0; last_epoch resumes behind a given step."""
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"{type(self).__name__}: {type(optimizer).__name__} is no optimizer; one is needed"
            )
        memory.stateful.add(self)
        self.optimizer = optimizer
        for number, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", group["lr"])
            elif "initial_lr" not in group:
                raise errors.ValueError(
                    f"{type(self).__name__}: last_epoch={last_epoch} resumes, and group {number} has no "
                    f"'initial_lr'; load the optimizer's state first"
                )
        self.base_lrs: list[float] = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self._begin()

    def _begin(self) -> None:
        self._step_count = 0
        self._initial = True
        self.step()
        del self._initial

    def get_last_lr(self) -> list[float]:
        """Give the rate of each group that the last step has set."""
        return list(self._last_lr)

    def get_lr(self) -> list[float]:
        """Work out the rate of each group for step `last_epoch`."""
        raise NotImplementedError(f"{type(self).__name__}: get_lr is missing; define it")

    def _direct_lr(self) -> list[float]:
        return self.get_lr()

    def _rates(self) -> list[float]:
        return [group["lr"] for group in self.optimizer.param_groups]

    def step(self) -> None:
        """Go to the next step, and set the rates."""
        optimizer = self.optimizer
        counted = type(optimizer).step is Optimizer.step
        if self._step_count == 1 and counted and not optimizer._steps:
            warnings.warn(
                f"{type(self).__name__}.step: called before optimizer.step(), which skips the first rate; "
                f"call optimizer.step() first",
                UserWarning,
                stacklevel=2,
            )
        self._step_count += 1
        self.last_epoch += 1
        self._set(self.get_lr())

    def _restart(self) -> None:
        """Go to step 0 in mid-training, whatever the rates are now."""
        self.last_epoch = 0
        self._set(self._direct_lr())

    def _set(self, rates: Sequence[float]) -> None:
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self._last_lr = list(rates)

    def state_dict(self) -> dict[str, Any]:
        """Gather all that changes, and the settings; the optimizer has a state of its own."""
        return {name: value for name, value in self.__dict__.items() if name != "optimizer"}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a state; functions stay as the constructor got them."""
        self.__dict__.update(state_dict)


class LambdaLR(LRScheduler):
    """The initial rate times a function of the step."""

    def __init__(
        self, optimizer: Optimizer, lr_lambda: Schedule | Sequence[Schedule], last_epoch: int = -1
    ) -> None:
        """Take one function for all groups, or one for each."""
        self.lr_lambdas = _per_group("LambdaLR", "lr_lambda", optimizer, lr_lambda)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """Work out the rate of each group."""
        return [base * fn(self.last_epoch) for base, fn in zip(self.base_lrs, self.lr_lambdas, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """Gather all but the functions; of an object that is called, its attributes."""
        state = super().state_dict()
        state["lr_lambdas"] = [
            dict(fn.__dict__)
            if hasattr(fn, "__dict__") and not isinstance(fn, (types.FunctionType, type))
            else None
            for fn in self.lr_lambdas
        ]
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a state; functions stay as the constructor got them."""
        state = dict(state_dict)
        for fn, attributes in zip(self.lr_lambdas, state.pop("lr_lambdas"), strict=True):
            if attributes is not None:
                fn.__dict__.update(attributes)
        super().load_state_dict(state)


class StepLR(LRScheduler):
    """The rate times gamma every step_size steps."""

    def __init__(
        self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        """Keep the settings."""
        self.step_size = step_size
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """Work out the rate of each group."""
        due = self.last_epoch != 0 and self.last_epoch % self.step_size == 0
        return [rate * self.gamma if due else rate for rate in self._rates()]

    def _direct_lr(self) -> list[float]:
        return [base * self.gamma ** (self.last_epoch // self.step_size) for base in self.base_lrs]


class MultiStepLR(LRScheduler):
    """The rate times gamma at each milestone."""

    def __init__(
        self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        """Keep the settings; a milestone may be given several times."""
        self.milestones = sorted(milestones)
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """Work out the rate of each group."""
        times = Counter(self.milestones)[self.last_epoch]
        return [rate * self.gamma**times if times else rate for rate in self._rates()]

    def _direct_lr(self) -> list[float]:
        return [base * self.gamma ** bisect_right(self.milestones, self.last_epoch) for base in self.base_lrs]


class ExponentialLR(LRScheduler):
    """The rate times gamma at every step."""

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        """Keep the factor."""
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """Work out the rate of each group."""
        return [rate if self._initial else rate * self.gamma for rate in self._rates()]

    def _direct_lr(self) -> list[float]:
        return [base * self.gamma**self.last_epoch for base in self.base_lrs]


class LinearLR(LRScheduler):
    """The rate times a factor, in a line from start_factor to end_factor within total_iters steps."""

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        """Keep the settings."""
        if not 0 < start_factor <= 1:
            raise errors.ValueError(f"LinearLR: start_factor={start_factor}; a value in (0, 1] is needed")
        if not 0 <= end_factor <= 1:
            raise errors.ValueError(f"LinearLR: end_factor={end_factor}; a value in [0, 1] is needed")
        self.start_factor = start_factor
        self.end_factor = end_factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """Work out the rate of each group."""
        if self.last_epoch == 0:
            return [rate * self.start_factor for rate in self._rates()]
        if self._initial or self.last_epoch > self.total_iters:
            return self._rates()
        rise = self.end_factor - self.start_factor
        before = self.total_iters * self.start_factor + (self.last_epoch - 1) * rise
        return [rate * (1.0 + rise / before) for rate in self._rates()]

    def _direct_lr(self) -> list[float]:
        done = min(self.total_iters, self.last_epoch) / self.total_iters
        factor = self.start_factor + (self.end_factor - self.start_factor) * done
        return [base * factor for base in self.base_lrs]


class CosineAnnealingLR(LRScheduler):
    """The rate along half a cosine, from its start to eta_min within T_max steps.

    Loshchilov and Hutter 2016, arXiv:1608.03983
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1) -> None:
        """Keep the settings."""
        self.T_max = T_max
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """Work out the rate of each group."""
        if self._initial:
            return self._rates()
        if self._step_count == 1 and self.last_epoch > 0:
            return self._direct_lr()
        step, end = self.last_epoch, self.T_max
        if (step - 1 - end) % (2 * end) == 0:  # at eta_min the ratio below is 0/0
            rise = (1 - math.cos(math.pi / end)) / 2
            return [
                rate + (base - self.eta_min) * rise
                for rate, base in zip(self._rates(), self.base_lrs, strict=True)
            ]
        ratio = (1 + math.cos(math.pi * step / end)) / (1 + math.cos(math.pi * (step - 1) / end))
        return [ratio * (rate - self.eta_min) + self.eta_min for rate in self._rates()]

    def _direct_lr(self) -> list[float]:
        height = (1 + math.cos(math.pi * self.last_epoch / self.T_max)) / 2
        return [self.eta_min + (base - self.eta_min) * height for base in self.base_lrs]


class OneCycleLR(LRScheduler):
    """Up to max_lr and far down again, with momentum the other way.   Smith and Topin 2017, arXiv:1708.07120

    Step it once a batch.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | Sequence[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | Sequence[float] = 0.85,
        max_momentum: float | Sequence[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        """Take the length as total_steps, or as epochs and steps_per_epoch."""
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise errors.ValueError(
                    "OneCycleLR: no length is given; total_steps, or epochs and steps_per_epoch, is needed"
                )
            total_steps = epochs * steps_per_epoch
        if total_steps < 1:
            raise errors.ValueError(f"OneCycleLR: a length of {total_steps} steps; 1 or more is needed")
        if not 0 <= pct_start <= 1:
            raise errors.ValueError(f"OneCycleLR: pct_start={pct_start}; a value in [0, 1] is needed")
        if anneal_strategy not in ("cos", "linear"):
            raise errors.ValueError(
                f"OneCycleLR: anneal_strategy {anneal_strategy!r} is unknown; cos or linear is needed"
            )
        self.total_steps = total_steps
        self.anneal_strategy = anneal_strategy
        self.cycle_momentum = cycle_momentum
        # Where each phase ends, and the keys of the group between which rate and momentum go.
        up = (pct_start * total_steps - 1, "initial_lr", "max_lr", "max_momentum", "base_momentum")
        if three_phase:
            down = (2 * pct_start * total_steps - 2, "max_lr", "initial_lr", "base_momentum", "max_momentum")
            out = (total_steps - 1, "initial_lr", "min_lr", "max_momentum", "max_momentum")
            self._phases = [up, down, out]
        else:
            self._phases = [up, (total_steps - 1, "max_lr", "min_lr", "base_momentum", "max_momentum")]

        groups = optimizer.param_groups
        highest = _per_group("OneCycleLR", "max_lr", optimizer, max_lr)
        if last_epoch == -1:
            for group, rate in zip(groups, highest, strict=True):
                group["initial_lr"] = rate / div_factor
                group["max_lr"] = rate
                group["min_lr"] = group["initial_lr"] / final_div_factor
        if cycle_momentum:
            if "momentum" not in optimizer.defaults and "betas" not in optimizer.defaults:
                raise errors.ValueError(
                    f"OneCycleLR: {type(optimizer).__name__} has neither momentum nor betas; "
                    f"cycle_momentum=False is needed"
                )
            least = _per_group("OneCycleLR", "base_momentum", optimizer, base_momentum)
            most = _per_group("OneCycleLR", "max_momentum", optimizer, max_momentum)
            if last_epoch == -1:
                for group, low, high in zip(groups, least, most, strict=True):
                    _set_momentum(group, high)
                    group["base_momentum"], group["max_momentum"] = low, high
        super().__init__(optimizer, last_epoch)

    def _between(self, start: float, end: float, part: float) -> float:
        if self.anneal_strategy == "cos":
            return end + (start - end) / 2.0 * (math.cos(math.pi * part) + 1)
        return (end - start) * part + start

    def get_lr(self) -> list[float]:
        """Work out the rate of each group, and set its momentum."""
        step = self.last_epoch
        if step > self.total_steps:
            raise errors.ValueError(
                f"OneCycleLR: step {step} is behind the end; the cycle has {self.total_steps} steps"
            )
        start = 0.0
        for phase in self._phases:
            end = phase[0]
            if step <= end or phase is self._phases[-1]:
                break
            start = end
        _, lr_start, lr_end, momentum_start, momentum_end = phase
        part = (step - start) / (end - start)
        rates = []
        for group in self.optimizer.param_groups:
            rates.append(self._between(group[lr_start], group[lr_end], part))
            if self.cycle_momentum:
                _set_momentum(group, self._between(group[momentum_start], group[momentum_end], part))
        return rates


class SequentialLR(LRScheduler):
    """One schedule after the other; at each milestone the next one starts, at its own step 0."""

    def __init__(
        self,
        optimizer: Optimizer,
        schedulers: Sequence[LRScheduler],
        milestones: Sequence[int],
        last_epoch: int = -1,
    ) -> None:
        """Take schedules that were made for the same optimizer; there is one milestone less."""
        if not schedulers or len(milestones) != len(schedulers) - 1:
            raise errors.ValueError(
                f"SequentialLR: {len(schedulers)} schedulers and {len(milestones)} milestones; "
                f"one scheduler or more, and one milestone less, are needed"
            )
        for scheduler in schedulers:
            if isinstance(scheduler, ReduceLROnPlateau):
                raise errors.ValueError(
                    "SequentialLR: ReduceLROnPlateau needs a metric; a schedule by step is needed"
                )
            if scheduler.optimizer is not optimizer:
                raise errors.ValueError(
                    f"SequentialLR: {type(scheduler).__name__} was made for another optimizer; "
                    f"the same one is needed"
                )
        self.optimizer = optimizer
        self._schedulers = list(schedulers)
        self._milestones = list(milestones)
        # Each constructor has taken a step: undo them all, then take the one that counts.
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"]
        self._undo()
        self._first()._begin()
        self.last_epoch = last_epoch + 1
        self._last_lr = self._rates()

    def _undo(self) -> None:
        for scheduler in self._schedulers:
            if isinstance(scheduler, SequentialLR):
                scheduler._undo()
            else:
                scheduler.last_epoch -= 1

    def _first(self) -> LRScheduler:
        return self._schedulers[bisect_right(self._milestones, 0)]

    def _begin(self) -> None:
        self._first()._begin()
        self.last_epoch = 0
        self._last_lr = self._rates()

    def _restart(self) -> None:
        self._first()._restart()
        self.last_epoch = 0
        self._last_lr = self._rates()

    def step(self) -> None:
        """Go to the next step of the schedule whose turn it is."""
        self.last_epoch += 1
        place = bisect_right(self._milestones, self.last_epoch)
        scheduler = self._schedulers[place]
        if place > 0 and self._milestones[place - 1] == self.last_epoch:
            scheduler._restart()
        else:
            scheduler.step()
        self._last_lr = self._rates()

    def state_dict(self) -> dict[str, Any]:
        """Gather the place in the sequence, and the state of each schedule."""
        return {
            **super().state_dict(),
            "_schedulers": [scheduler.state_dict() for scheduler in self._schedulers],
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a state."""
        state = dict(state_dict)
        for scheduler, part in zip(self._schedulers, state.pop("_schedulers"), strict=True):
            scheduler.load_state_dict(part)
        super().load_state_dict(state)


class ReduceLROnPlateau(LRScheduler):
    """The rate times factor when a metric has not improved for more than patience steps."""

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float | Sequence[float] = 0.0,
        eps: float = 1e-8,
    ) -> None:
        """Keep the settings; mode says whether "min" or "max" is better."""
        if not factor < 1:
            raise errors.ValueError(f"ReduceLROnPlateau: factor={factor}; a value below 1 is needed")
        if mode not in ("min", "max"):
            raise errors.ValueError(f"ReduceLROnPlateau: mode {mode!r} is unknown; min or max is needed")
        if threshold_mode not in ("rel", "abs"):
            raise errors.ValueError(
                f"ReduceLROnPlateau: threshold_mode {threshold_mode!r} is unknown; rel or abs is needed"
            )
        self.optimizer = optimizer
        self.mode = mode
        self.factor = factor
        self.patience = patience
        self.threshold = threshold
        self.threshold_mode = threshold_mode
        self.cooldown = cooldown
        self.min_lrs = _per_group("ReduceLROnPlateau", "min_lr", optimizer, min_lr)
        self.eps = eps
        self.last_epoch = 0
        self.best = math.inf if mode == "min" else -math.inf
        self.num_bad_epochs = 0
        self.cooldown_counter = 0
        self._last_lr = self._rates()

    def step(self, metrics: SupportsFloat) -> None:  # type: ignore[override]
        """Look at the metric, and reduce the rates if it is time."""
        current = float(metrics)
        self.last_epoch += 1
        if self._is_better(current):
            self.best = current
            self.num_bad_epochs = 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            reduced = [
                max(rate * self.factor, least)
                for rate, least in zip(self._rates(), self.min_lrs, strict=True)
            ]
            for group, rate in zip(self.optimizer.param_groups, reduced, strict=True):
                if group["lr"] - rate > self.eps:
                    group["lr"] = rate
            self.cooldown_counter = self.cooldown
            self.num_bad_epochs = 0
        self._last_lr = self._rates()

    def _is_better(self, current: float) -> bool:
        relative = self.threshold_mode == "rel"
        if self.mode == "min":
            return current < (self.best * (1.0 - self.threshold) if relative else self.best - self.threshold)
        return current > (self.best * (self.threshold + 1.0) if relative else self.best + self.threshold)


def _set_momentum(group: dict[str, Any], momentum: float) -> None:
    if "betas" in group:
        group["betas"] = (momentum, *group["betas"][1:])
    else:
        group["momentum"] = momentum


def _per_group(op: str, name: str, optimizer: Optimizer, value: Any) -> list[Any]:
    count = len(optimizer.param_groups)
    values = list(value) if isinstance(value, (list, tuple)) else [value] * count
    if len(values) != count:
        raise errors.ValueError(
            f"{op}: {len(values)} values of {name}; {count} are needed, one for each group"
        )
    return values
