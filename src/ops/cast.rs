//! From one element type to another, and copies in row-major order.

use super::args::{Args, text};
use super::laws::{Domain, Exact, Sample};
use super::registry::Entry;
use super::{Back, Layouts, Mask, Metas, Op, OpRef, expect_inputs};
use crate::device::gpu::Gpu;
use crate::dtype::DType;
use crate::error::Result;
use crate::shape::Layout;
use crate::tensor::{Meta, Tensor};
use smallvec::SmallVec;

pub fn register(list: &mut Vec<Entry>) {
    list.push(Entry { name: "cast", build: Cast::build, samples: Cast::samples });
    list.push(Entry { name: "contiguous", build: Contiguous::build, samples: Contiguous::samples });
}

/// Floats round to nearest even; a float becomes an integer by truncation, saturating, NaN to 0; anything but 0 is true.
#[derive(Debug)]
pub struct Cast {
    dtype: DType,
}

impl Cast {
    fn build(args: &mut Args) -> Result<OpRef> {
        Ok(Cast { dtype: args.dtype("dtype")? }.into())
    }

    fn samples() -> Vec<Sample> {
        let of = |dtype: DType, x: Domain| Sample::of(Self::build, &[text(dtype.name())], &[(&[3, 7], x)]);
        vec![
            of(DType::F64, Domain::Any),
            of(DType::F32, Domain::Any),
            of(DType::F32, Domain::Mask),
            of(DType::I64, Domain::Apart),
        ]
    }
}

impl Op for Cast {
    fn name(&self) -> &'static str {
        "cast"
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs("cast", x, 1)?;
        let layout =
            if x[0].layout.is_dense() { x[0].layout.clone() } else { Layout::contiguous("cast", x[0].shape())? };
        Ok(SmallVec::from_iter([Meta { layout, dtype: self.dtype, device: x[0].device }]))
    }
    fn differentiable(&self) -> Mask {
        if self.dtype.is_float() { Mask::MAX } else { 0 }
    }
    fn layouts(&self, _input: usize) -> Layouts {
        Layouts::Any
    }
    fn takes_half(&self) -> bool {
        true
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        super::pointwise::copy_into(x[0], &y[0])
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        super::pointwise::copy_on(gpu, x[0], &y[0])
    }
    fn takes_numbers(&self) -> bool {
        true
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        // The sweep casts a gradient to its input's type.
        let dy = back.dy();
        back.give(0, dy);
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        let convert = |v: &f64| match self.dtype {
            DType::Bool => (*v != 0.0) as u8 as f64,
            d if d.is_float() => *v,
            _ => v.trunc(),
        };
        Some(vec![Exact::new(&x[0].shape, x[0].data.iter().map(convert).collect())])
    }
}

/// A row-major copy.
#[derive(Debug)]
pub struct Contiguous;

impl Contiguous {
    fn build(_: &mut Args) -> Result<OpRef> {
        Ok(OpRef::Static(&Contiguous))
    }

    fn samples() -> Vec<Sample> {
        vec![
            Sample::of(Self::build, &[], &[(&[2, 3, 4], Domain::Any)]),
            Sample::of(Self::build, &[], &[(&[], Domain::Any)]),
        ]
    }
}

impl Op for Contiguous {
    fn name(&self) -> &'static str {
        "contiguous"
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs("contiguous", x, 1)?;
        super::output("contiguous", x, x[0].shape(), x[0].dtype)
    }
    fn layouts(&self, _input: usize) -> Layouts {
        Layouts::Any
    }
    fn takes_half(&self) -> bool {
        true
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        super::pointwise::copy_into(x[0], &y[0])
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        super::pointwise::copy_on(gpu, x[0], &y[0])
    }
    fn takes_numbers(&self) -> bool {
        true
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let dy = back.dy();
        back.give(0, dy);
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        Some(vec![x[0].clone()])
    }
}
