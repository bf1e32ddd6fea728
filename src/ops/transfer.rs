//! From one device to another.

use super::args::{Args, text};
use super::laws::{Domain, Exact, Sample};
use super::registry::Entry;
use super::{Back, Layouts, Metas, Op, OpRef, expect_inputs, run};
use crate::arena::ledger::Category;
use crate::device::Device;
use crate::device::gpu::Gpu;
use crate::error::Result;
use crate::shape::Layout;
use crate::tensor::{Meta, Tensor};
use smallvec::SmallVec;
use std::sync::Arc;

pub fn register(list: &mut Vec<Entry>) {
    list.push(Entry { name: "transfer", build: Transfer::build, samples: Transfer::samples });
}

/// A copy on another device; the gradient goes the way back.
#[derive(Debug)]
pub struct Transfer {
    pub to: Device,
}

impl Transfer {
    fn build(args: &mut Args) -> Result<OpRef> {
        Ok(Transfer { to: Device::from_name("to", args.text("device")?)? }.into())
    }

    fn samples() -> Vec<Sample> {
        let of = |x: &[usize], domain: Domain| Sample::of(Self::build, &[text("cpu")], &[(x, domain)]);
        vec![of(&[3, 5], Domain::Any), of(&[], Domain::Any), of(&[0, 2], Domain::Any), of(&[2, 3], Domain::Index(9))]
    }
}

fn dense(x: &Meta) -> Result<Arc<Layout>> {
    if x.layout.is_dense() { Ok(x.layout.clone()) } else { Layout::contiguous("to", x.shape()) }
}

/// A copy on a device, of the same layout where that has no gaps.
pub fn moved(x: &Tensor, to: Device, category: Category) -> Result<Tensor> {
    let y = Tensor::empty(Meta { layout: dense(&x.meta)?, dtype: x.dtype(), device: to }, category)?;
    copy(x, &y)?;
    Ok(y)
}

/// Copies into `y`, which is gapless, from wherever `x` is.
fn copy(x: &Tensor, y: &Tensor) -> Result<()> {
    let near = x.to_host()?;
    match y.device() {
        Device::Cpu => super::pointwise::copy_into(&near, y),
        Device::Gpu(_) if near.layout().strides() == y.layout().strides() => y.upload(&near),
        Device::Gpu(_) => y.upload(&run::relaid(&near, y.layout().clone(), Category::Workspace)?),
    }
}

impl Op for Transfer {
    fn name(&self) -> &'static str {
        "to"
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs("to", x, 1)?;
        Ok(SmallVec::from_iter([Meta { layout: dense(x[0])?, dtype: x[0].dtype, device: self.to }]))
    }
    fn layouts(&self, _input: usize) -> Layouts {
        Layouts::Any
    }
    fn takes_half(&self) -> bool {
        true
    }
    fn takes_numbers(&self) -> bool {
        true
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }
    fn allocates(&self) -> bool {
        true
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        copy(x[0], &y[0])
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        let (from, to) = (x[0], &y[0]);
        if from.device() == to.device() || super::is_number(&from.meta) {
            return super::pointwise::copy_on(gpu, from, to);
        }
        copy(from, to)
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let dy = back.dy();
        let dx = back.apply(Transfer { to: back.input_meta(0).device }, &[dy])?;
        back.give(0, dx);
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        Some(vec![x[0].clone()])
    }
}
