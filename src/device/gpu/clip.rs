//! The norm of many tensors taken as one vector, and their clipping by it, without a read-back.

use super::Gpu;
use super::kernel::{Grid, Kernel, index, params};
use super::many::{Gathered, Operands, Together, gathered};
use super::places::{place, scratch};
use super::pointwise::Buffer;
use crate::error::Result;

params!(Params { groups: u32, first: u32, tensors: u32, parts: u32, norm_at: u32, most: f32 });

static CLIP: Kernel = Kernel::new("clip", concat!(include_str!("many.wgsl"), include_str!("clip.wgsl")), Params::WGSL);

/// norm (one number) = √Σx² over all tensors; these are then scaled so that it is at most `most`, where that is given.
pub fn norm(gpu: &Gpu, list: &[Operands], most: Option<f64>, norm: &Buffer) -> Result<()> {
    let Gathered { batches, table } = gathered(gpu, "clip_grad_norm_", list)?;
    let parts = batches.iter().map(|b| b.groups).sum();
    let sums = scratch(gpu, parts)?;
    let mut params = Params {
        groups: 0,
        first: 0,
        tensors: 0,
        parts: 0,
        norm_at: index("clip", norm.offset)?,
        most: most.unwrap_or(0.0) as f32,
    };
    params.parts = index("clip", parts)?;
    let mut run = |kind: u32, batch: Option<&Together>| -> Result<()> {
        params.groups = batch.map_or(1, |b| b.groups as u32);
        (params.first, params.tensors) = batch.map_or((0, 0), |b| (b.first as u32, b.tensors as u32));
        // A window that nothing is read through stands for what a kind has not.
        let x = batch.map_or(norm.place, |b| b.windows[0]);
        let bindings = [x, place(&sums), norm.place, place(&table)];
        gpu.run(&CLIP, &[("KIND", kind)], &bindings, &params, Grid::groups(params.groups as usize))
    };
    batches.iter().try_for_each(|batch| run(0, Some(batch)))?;
    run(1, None)?;
    if most.is_some() {
        batches.iter().try_for_each(|batch| run(2, Some(batch)))?;
    }
    Ok(())
}
