//! Optimizer steps, in float32: the arithmetic of `cpu/optim`.

use super::Gpu;
use super::kernel::{Grid, Kernel, index, params};
use super::pointwise::Buffer;
use crate::device::cpu::optim::{Adam, Sgd};
use crate::error::Result;

params!(Params {
    n: u32,
    x_at: u32,
    g_at: u32,
    s_at: u32,
    v_at: u32,
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

static OPTIM: Kernel = Kernel::new("optimizer", include_str!("optim.wgsl"), Params::WGSL);

fn places(op: &str, [x, g, s, v]: [&Buffer; 4]) -> Result<Params> {
    let at = |b: &Buffer| index(op, b.offset);
    Ok(Params {
        n: index(op, x.layout.numel())?,
        x_at: at(x)?,
        g_at: at(g)?,
        s_at: at(s)?,
        v_at: at(v)?,
        sign: 1.0,
        decay: 0.0,
        shrink: 1.0,
        rate: 0.0,
        root: 1.0,
        eps: 0.0,
        keep1: 0.0,
        add1: 0.0,
        keep2: 0.0,
        add2: 0.0,
        nesterov: 0,
    })
}

/// x, m and v in place from the gradient; all lie alike.
pub fn adam(gpu: &Gpu, how: Adam, x: &Buffer, g: &Buffer, m: &Buffer, v: &Buffer) -> Result<()> {
    let (correction1, correction2) = (1.0 - how.beta1.powi(how.step), (1.0 - how.beta2.powi(how.step)).sqrt());
    let params = Params {
        sign: if how.maximize { -1.0 } else { 1.0 },
        decay: if how.decoupled { 0.0 } else { how.decay as f32 },
        shrink: if how.decoupled { (1.0 - how.rate * how.decay) as f32 } else { 1.0 },
        rate: (how.rate / correction1) as f32,
        root: (1.0 / correction2) as f32,
        eps: how.eps as f32,
        keep1: how.beta1 as f32,
        add1: (1.0 - how.beta1) as f32,
        keep2: how.beta2 as f32,
        add2: (1.0 - how.beta2) as f32,
        ..places("adam", [x, g, m, v])?
    };
    let constants = [("ADAM", 1), ("MOMENTUM", 0)];
    gpu.run(&OPTIM, &constants, &[x.place, g.place, m.place, v.place], &params, Grid::threads(x.layout.numel()))
}

/// x, and the momentum where there is one, in place from the gradient; all lie alike.
pub fn sgd(gpu: &Gpu, how: Sgd, x: &Buffer, g: &Buffer, momentum: Option<&Buffer>) -> Result<()> {
    let s = momentum.unwrap_or(x);
    let (keep, add) = if how.first { (0.0, 1.0) } else { (how.momentum as f32, (1.0 - how.dampening) as f32) };
    let params = Params {
        sign: if how.maximize { -1.0 } else { 1.0 },
        decay: how.decay as f32,
        rate: how.rate as f32,
        keep1: keep,
        add1: add,
        keep2: how.momentum as f32,
        nesterov: u32::from(how.nesterov),
        ..places("sgd", [x, g, s, x])?
    };
    let constants = [("ADAM", 0), ("MOMENTUM", u32::from(momentum.is_some()))];
    gpu.run(&OPTIM, &constants, &[x.place, g.place, s.place, x.place], &params, Grid::threads(x.layout.numel()))
}
