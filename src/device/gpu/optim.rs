//! Optimizer steps, in float32: the arithmetic of `cpu/optim`, and of the rules that are compositions there, each as one kernel
//! over all parameters.

use super::Gpu;
use super::kernel::{Grid, Kernel, params};
use super::many::{Operands, gathered};
use super::places::place;
use crate::device::cpu::optim::{Adam, Sgd};
use crate::error::Result;

params!(Params {
    groups: u32,
    first: u32,
    tensors: u32,
    sign: f32,
    decay: f32,
    shrink: f32,
    rate: f32,
    root: f32,
    eps: f32,
    keep1: f32,
    add1: f32,
    keep2: f32,
    add2: f32,
    nesterov: u32,
});

static OPTIM: Kernel =
    Kernel::new("optimizer", concat!(include_str!("many.wgsl"), include_str!("optim.wgsl")), Params::WGSL);

/// A rule with its numbers. Operands are the parameter, its gradient, and the states in the order named.
#[derive(Clone, Copy, Debug)]
pub enum Rule {
    /// Momentum, if any.
    Sgd(Sgd),
    /// Means of the gradient and of its square, and the largest of the latter with `amsgrad`.
    Adam { how: Adam, amsgrad: bool },
    /// The sum of squares.
    Adagrad { rate: f64, eps: f64 },
    /// The mean of squares, of gradients and the momentum; where one of the last two is not used, anything may stand for it.
    RmsProp { rate: f64, alpha: f64, eps: f64, momentum: f64, centered: bool },
    /// Means of the squares of gradients and of steps.
    Adadelta { rate: f64, rho: f64, eps: f64 },
    /// The mean of gradients.
    Lion { rate: f64, beta1: f64, beta2: f64 },
}

/// What all rules do to a gradient first. A decay that is apart from it belongs to the rule.
#[derive(Clone, Copy, Debug)]
pub struct Decay {
    pub weight_decay: f64,
    pub maximize: bool,
}

impl Rule {
    /// RULE, MORE, and the numbers.
    fn params(&self, decay: Decay) -> (u32, u32, Params) {
        let plain = Params {
            groups: 0,
            first: 0,
            tensors: 0,
            sign: if decay.maximize { -1.0 } else { 1.0 },
            decay: decay.weight_decay as f32,
            shrink: 1.0,
            rate: 0.0,
            root: 1.0,
            eps: 0.0,
            keep1: 0.0,
            add1: 0.0,
            keep2: 0.0,
            add2: 0.0,
            nesterov: 0,
        };
        match *self {
            Rule::Sgd(how) => {
                let (keep, add) = if how.first { (0.0, 1.0) } else { (how.momentum, 1.0 - how.dampening) };
                let params = Params {
                    rate: how.rate as f32,
                    keep1: keep as f32,
                    add1: add as f32,
                    keep2: how.momentum as f32,
                    nesterov: u32::from(how.nesterov),
                    ..plain
                };
                (0, u32::from(how.first || how.momentum != 0.0), params)
            }
            Rule::Adam { how, amsgrad } => {
                let (first, second) = (1.0 - how.beta1.powi(how.step), (1.0 - how.beta2.powi(how.step)).sqrt());
                let params = Params {
                    decay: if how.decoupled { 0.0 } else { plain.decay },
                    shrink: if how.decoupled { (1.0 - how.rate * how.decay) as f32 } else { 1.0 },
                    rate: (how.rate / first) as f32,
                    root: (1.0 / second) as f32,
                    eps: how.eps as f32,
                    keep1: how.beta1 as f32,
                    add1: (1.0 - how.beta1) as f32,
                    keep2: how.beta2 as f32,
                    add2: (1.0 - how.beta2) as f32,
                    ..plain
                };
                (1, u32::from(amsgrad), params)
            }
            Rule::Adagrad { rate, eps } => (2, 0, Params { rate: rate as f32, eps: eps as f32, ..plain }),
            Rule::RmsProp { rate, alpha, eps, momentum, centered } => {
                let params = Params {
                    rate: rate as f32,
                    eps: eps as f32,
                    keep1: alpha as f32,
                    add1: (1.0 - alpha) as f32,
                    keep2: momentum as f32,
                    ..plain
                };
                (3, u32::from(centered) + 2 * u32::from(momentum > 0.0), params)
            }
            Rule::Adadelta { rate, rho, eps } => {
                let (keep1, add1) = (rho as f32, (1.0 - rho) as f32);
                (4, 0, Params { rate: rate as f32, eps: eps as f32, keep1, add1, ..plain })
            }
            Rule::Lion { rate, beta1, beta2 } => {
                let (add1, add2) = ((1.0 - beta1) as f32, (1.0 - beta2) as f32);
                let shrink = (1.0 - rate * decay.weight_decay) as f32;
                (5, 0, Params { rate: rate as f32, decay: 0.0, shrink, add1, add2, ..plain })
            }
        }
    }
}

/// One step of all parameters, in place.
pub fn step(gpu: &Gpu, op: &'static str, rule: Rule, decay: Decay, list: &[Operands]) -> Result<()> {
    let (number, more, params) = rule.params(decay);
    let gathered = gathered(gpu, op, list)?;
    for together in gathered.batches {
        let (groups, first, tensors) = (together.groups as u32, together.first as u32, together.tensors as u32);
        let params = Params { groups, first, tensors, ..params };
        let mut bindings = together.windows;
        // States that the rule has not are not read.
        bindings.resize(5, bindings[0]);
        bindings.push(place(&gathered.table));
        gpu.run(&OPTIM, &[("RULE", number), ("MORE", more)], &bindings, &params, Grid::groups(together.groups))?;
    }
    Ok(())
}
