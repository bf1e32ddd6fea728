//! ReLU: y = max(x, 0). Keeps one bit an element, or nothing of its own where another op keeps y; the derivative at 0 is 0.

use super::args::Args;
use super::laws::{Domain, Exact, Sample};
use super::registry::Entry;
use super::{Back, Layouts, Mask, Metas, Op, OpRef, Saves, expect_inputs};
use crate::arena::ledger::Category;
use crate::arena::on_paper;
use crate::device::cpu::bits;
use crate::device::gpu::{Gpu, relu as on_gpu};
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::run::relaid;
use crate::shape::Layout;
use crate::tensor::{Meta, Tensor};
use smallvec::SmallVec;
use std::sync::Arc;

pub fn register(list: &mut Vec<Entry>) {
    list.push(Entry { name: "relu", build: Relu::build, samples: Relu::samples });
}

#[derive(Debug)]
pub struct Relu;

impl Relu {
    fn build(_: &mut Args) -> Result<OpRef> {
        Ok(OpRef::Static(&Relu))
    }

    fn samples() -> Vec<Sample> {
        let of = |shape: &[usize]| Sample::of(Self::build, &[], &[(shape, Domain::Apart)]);
        vec![of(&[3, 5]), of(&[]), of(&[0, 3]), of(&[2, 3, 4, 5]), of(&[71])]
    }
}

/// The input's memory order where it has no gaps, so that channels-last stays so.
fn dense(x: &Meta) -> Result<Arc<Layout>> {
    if x.layout.is_dense() { Ok(x.layout.clone()) } else { Layout::contiguous("relu", x.shape()) }
}

/// The tensor itself when it lies as `layout` says, else a copy that does.
fn in_order(x: &Tensor, layout: &Arc<Layout>) -> Result<Tensor> {
    let lies = x.layout().strides() == layout.strides();
    if lies { Ok(x.clone()) } else { relaid(x, layout.clone(), Category::Workspace) }
}

impl Op for Relu {
    fn name(&self) -> &'static str {
        "relu"
    }
    fn infer(&self, x: &[&Meta], recording: bool) -> Result<Metas> {
        expect_inputs("relu", x, 1)?;
        super::expect_float("relu", x[0])?;
        let mut y: Metas = SmallVec::from_iter([Meta { layout: dense(x[0])?, ..x[0].clone() }]);
        if recording {
            y.push(Meta::contiguous("relu", &[x[0].numel().div_ceil(8)], DType::U8, x[0].device)?);
        }
        Ok(y)
    }
    fn saves(&self, _needs: Mask) -> Saves {
        Saves::outputs(0b10)
    }
    fn reads_first(&self) -> bool {
        true
    }
    fn cheap(&self) -> bool {
        true
    }
    fn is_relu(&self) -> bool {
        true
    }
    fn layouts(&self, _input: usize) -> Layouts {
        Layouts::Any
    }
    fn allocates(&self) -> bool {
        true
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        let x = in_order(x[0], y[0].layout())?;
        let spare;
        let mask = match y.get(1) {
            Some(mask) => mask.view().out::<u8>(),
            None => {
                spare = super::run::workspace::<u8>(x.numel().div_ceil(8))?;
                spare.view().out::<u8>()
            }
        };
        if on_paper() {
            return Ok(());
        }
        match x.dtype() {
            DType::F64 => bits::relu(x.view().slice::<f64>(), y[0].view().out::<f64>(), mask),
            _ => bits::relu(x.view().slice::<f32>(), y[0].view().out::<f32>(), mask),
        }
        Ok(())
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        let x = in_order(x[0], y[0].layout())?;
        let mask = y.get(1).map(Tensor::buffer);
        on_gpu::relu(gpu, &x.buffer(), &y[0].buffer(), mask.as_ref())
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let (dy, mask) = (back.dy(), back.output(usize::from(back.has_output(1)))?);
        let keep = Keep { layout: back.output_meta(0).layout.clone() };
        let dx = back.apply(keep, &[dy, mask])?;
        back.give(0, dx);
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        Some(vec![Exact::new(&x[0].shape, x[0].data.iter().map(|v| v.max(0.0)).collect())])
    }
}

/// dy where a bit is set, or where y is not 0; else 0. Bits and y lie in the order of `layout`. Linear in dy, so it is its
/// own derivative.
#[derive(Debug)]
struct Keep {
    layout: Arc<Layout>,
}

impl Op for Keep {
    fn name(&self) -> &'static str {
        "relu"
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs("relu", x, 2)?;
        Ok(SmallVec::from_iter([Meta { layout: self.layout.clone(), ..x[0].clone() }]))
    }
    fn saves(&self, _needs: Mask) -> Saves {
        Saves::inputs(0b10)
    }
    fn differentiable(&self) -> Mask {
        1
    }
    fn layouts(&self, _input: usize) -> Layouts {
        Layouts::Any
    }
    fn allocates(&self) -> bool {
        true
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        let dy = in_order(x[0], &self.layout)?;
        if on_paper() {
            return Ok(());
        }
        let (dy, mask, dx) = (dy.view(), x[1].view(), y[0].view());
        match x[1].dtype() {
            DType::U8 if x[0].dtype() == DType::F64 => bits::keep(dy.slice::<f64>(), mask.slice(), dx.out()),
            DType::U8 => bits::keep(dy.slice::<f32>(), mask.slice(), dx.out()),
            DType::F64 => bits::keep_positive(dy.slice::<f64>(), mask.slice(), dx.out()),
            _ => bits::keep_positive(dy.slice::<f32>(), mask.slice(), dx.out()),
        }
        Ok(())
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        let dy = in_order(x[0], &self.layout)?;
        on_gpu::keep(gpu, &dy.buffer(), &x[1].buffer(), &y[0].buffer())
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let (ddx, mask) = (back.dy(), back.input(1)?);
        let again = back.apply(Keep { layout: self.layout.clone() }, &[ddx, mask])?;
        back.give(0, again);
        Ok(())
    }
    fn reference(&self, _x: &[Exact]) -> Option<Vec<Exact>> {
        None
    }
}
