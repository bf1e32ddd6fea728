//! ReLU with its bits, and the way back.

use super::Gpu;
use super::kernel::{Grid, Kernel, index, params};
use super::pointwise::Buffer;
use crate::dtype::DType;
use crate::error::Result;

params!(Params { n: u32, x_at: u32, y_at: u32, mask_at: u32 });

static RELU: Kernel = Kernel::new("relu", include_str!("relu.wgsl"), Params::WGSL);

fn run(gpu: &Gpu, constants: [u32; 2], x: &Buffer, y: &Buffer, mask: Option<&Buffer>) -> Result<()> {
    let n = y.layout.numel();
    let at = |b: &Buffer| index("relu", b.offset);
    let params = Params { n: index("relu", n)?, x_at: at(x)?, y_at: at(y)?, mask_at: mask.map_or(Ok(0), at)? };
    let constants = [("MASK", constants[0]), ("KEEP", constants[1])];
    gpu.run(&RELU, &constants, &[x.place, y.place, mask.map_or(y.place, |m| m.place)], &params, Grid::threads(n))
}

/// x and y lie alike, without gaps; the mask begins at its storage's start.
pub fn relu(gpu: &Gpu, x: &Buffer, y: &Buffer, mask: Option<&Buffer>) -> Result<()> {
    run(gpu, [u32::from(mask.is_some()), 0], x, y, mask)
}

/// dx = dy where the bit is set or, where `mask` is the float result, that is not 0; else 0.
pub fn keep(gpu: &Gpu, dy: &Buffer, mask: &Buffer, dx: &Buffer) -> Result<()> {
    run(gpu, [0, if mask.dtype == DType::U8 { 1 } else { 2 }], dy, dx, Some(mask))
}
