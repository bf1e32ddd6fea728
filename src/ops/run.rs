//! Runs one op: infers, allocates, converts what the kernel does not take, and hands over to the device.

use super::{Layouts, Op, registry};
use crate::arena;
use crate::arena::ledger::Category;
use crate::device::cpu::pool;
use crate::device::{Device, gpu};
use crate::dtype::{DType, Element};
use crate::error::{self, Error, Result};
use crate::shape::Layout;
use crate::tensor::{Meta, Tensor, scalar_layout};
use smallvec::SmallVec;
use std::sync::Arc;

pub type Outputs = SmallVec<[Tensor; 1]>;

/// Computes an op's outputs, the extra ones included when `recording`.
pub fn compute(op: &dyn Op, x: &[&Tensor], recording: bool) -> Result<Outputs> {
    if op.is_view() {
        if x.len() != 1 {
            return Err(error::arity(op.name(), x.len(), "1"));
        }
        if let Some(views) = op.views(x[0]) {
            return views;
        }
    }
    let mut metas: SmallVec<[&Meta; 4]> = SmallVec::new();
    x.iter().for_each(|t| metas.push(&t.meta));
    let inferred = op.infer(&metas, recording)?;
    let device = inferred.first().map_or(Device::Cpu, |m| m.device);
    if !takes_half(op, device) && (x.iter().any(|t| t.dtype().is_half()) || inferred.iter().any(|m| m.dtype.is_half()))
    {
        return through_f32(op, x, &inferred, recording);
    }
    launch(op, x, inferred)
}

/// True when the kernels of the device read and write 16-bit floats themselves.
pub fn takes_half(op: &dyn Op, device: Device) -> bool {
    match device {
        Device::Cpu => op.takes_half(),
        Device::Gpu(_) => op.gpu_takes_half(),
    }
}

fn launch(op: &dyn Op, x: &[&Tensor], metas: super::Metas) -> Result<Outputs> {
    let mut y = Outputs::new();
    for meta in metas {
        if meta.dtype == DType::F64 && meta.device != Device::Cpu {
            return Err(gpu::no_float64(op.name()));
        }
        y.push(Tensor::empty(meta, Category::Temporary)?);
    }
    if (0..x.len()).all(|i| fits(op.layouts(i), &x[i].meta)) {
        fill(op, x, &y)?;
        return Ok(y);
    }
    let mut copies: SmallVec<[Tensor; 2]> = SmallVec::new();
    let mut which: SmallVec<[Option<usize>; 4]> = SmallVec::new();
    for (i, t) in x.iter().enumerate() {
        let fits = fitting_layout(op.layouts(i), &t.meta)?;
        which.push(match fits {
            None => None,
            Some(layout) => {
                copies.push(relaid(t, layout, Category::Workspace)?);
                Some(copies.len() - 1)
            }
        });
    }
    let laid: SmallVec<[&Tensor; 4]> = x.iter().zip(&which).map(|(&t, w)| w.map_or(t, |i| &copies[i])).collect();
    fill(op, &laid, &y)?;
    Ok(y)
}

/// Fills fresh outputs, which nobody sees when that is given up.
fn fill(op: &dyn Op, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
    if op.writes_inputs() { on_device(op, x, y) } else { pool::stoppable(|| on_device(op, x, y)) }
}

fn on_device(op: &dyn Op, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
    let device = y.first().map_or(Device::Cpu, |t| t.meta.device);
    if arena::on_paper() && device == Device::Cpu {
        return if op.allocates() { op.cpu(x, y) } else { Ok(()) };
    }
    if !arena::on_paper() && x.iter().any(|t| t.storage().is_paper()) {
        return Err(Error::graph(format!(
            "{}: its input was made in a forecast and has no numbers; let the step keep no tensors, or make them again",
            op.name()
        )));
    }
    match device {
        Device::Cpu => op.cpu(x, y),
        Device::Gpu(number) => on_gpu(op, x, y, number),
    }
}

/// Numbers of the host go along as they are, or as copies.
fn on_gpu(op: &dyn Op, x: &[&Tensor], y: &[Tensor], number: u8) -> Result<()> {
    let gpu = gpu::open(number)?;
    if x.iter().all(|t| t.meta.device != Device::Cpu) || op.takes_numbers() {
        return op.gpu(x, y, gpu);
    }
    let mut there: SmallVec<[Tensor; 4]> = SmallVec::new();
    for t in x {
        there.push(match t.meta.device {
            Device::Cpu => super::transfer::moved(t, Device::Gpu(number), Category::Workspace)?,
            Device::Gpu(_) => (*t).clone(),
        });
    }
    let references: SmallVec<[&Tensor; 4]> = there.iter().collect();
    op.gpu(&references, y, gpu)
}

/// True when an input will do as it is.
fn fits(wanted: Layouts, meta: &Meta) -> bool {
    match wanted {
        Layouts::Any => true,
        Layouts::ChannelsLast if meta.rank() >= 3 => meta.layout.is_channels_last(),
        _ => meta.layout.is_contiguous(),
    }
}

/// The layout an input must be copied to, or `None` when it will do as it is.
fn fitting_layout(wanted: Layouts, meta: &Meta) -> Result<Option<Arc<Layout>>> {
    if fits(wanted, meta) {
        return Ok(None);
    }
    let last = wanted == Layouts::ChannelsLast && meta.rank() >= 3;
    Ok(Some(if last {
        Layout::channels_last("copy", meta.shape())?
    } else {
        Layout::contiguous("copy", meta.shape())?
    }))
}

/// A copy in another layout.
pub fn relaid(t: &Tensor, layout: Arc<Layout>, category: Category) -> Result<Tensor> {
    converted(t, Meta { layout, ..t.meta.clone() }, category)
}

/// A copy in another layout and element type.
pub fn converted(t: &Tensor, meta: Meta, category: Category) -> Result<Tensor> {
    let copy = Tensor::empty(meta, category)?;
    super::pointwise::copy_into(t, &copy)?;
    Ok(copy)
}

/// Runs the op on f32 copies of its 16-bit inputs, and rounds its outputs back.
fn through_f32(op: &dyn Op, x: &[&Tensor], inferred: &[Meta], recording: bool) -> Result<Outputs> {
    let mut wide: SmallVec<[Tensor; 4]> = SmallVec::new();
    let there = inferred.first().is_some_and(|m| m.device != Device::Cpu);
    for t in x {
        wide.push(if t.dtype().is_half() && there && super::is_number(&t.meta) {
            // Still one number of the host, which may stand beside tensors of any device.
            let first = t.with_layout(scalar_layout(), t.offset());
            let meta = Meta { dtype: DType::F32, ..first.meta.clone() };
            converted(&first, meta, Category::Workspace)?.with_layout(t.layout().clone(), 0)
        } else if t.dtype().is_half() {
            // The same memory order, so that the layouts inferred from the copies are those inferred from the inputs.
            let dense = t.layout().is_dense();
            let layout = if dense { t.layout().clone() } else { Layout::contiguous("copy", t.shape())? };
            let meta = Meta { layout, dtype: DType::F32, device: t.meta.device };
            converted(t, meta, Category::Workspace)?
        } else {
            (*t).clone()
        });
    }
    let references: SmallVec<[&Tensor; 4]> = wide.iter().collect();
    let metas: SmallVec<[&Meta; 4]> = wide.iter().map(|t| &t.meta).collect();
    // Ops that name their result type (a cast, a sum with dtype=) may still infer a half; those widen it here.
    let mut outputs = op.infer(&metas, recording)?;
    for meta in &mut outputs {
        if meta.dtype.is_half() {
            meta.dtype = DType::F32;
        }
    }
    let y = launch(op, &references, outputs)?;
    y.into_iter()
        .zip(inferred)
        .map(|(t, meta)| if t.dtype() == meta.dtype { Ok(t) } else { converted(&t, meta.clone(), Category::Temporary) })
        .collect()
}

/// Runs an op on given outputs, the first of which may be an input's memory.
pub fn into(op: &dyn Op, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
    on_device(op, x, y)
}

/// What the op would cost on these inputs.
pub fn cost(op: &dyn Op, x: &[&Tensor]) -> Result<super::Cost> {
    let metas: SmallVec<[&Meta; 4]> = x.iter().map(|t| &t.meta).collect();
    let y = op.infer(&metas, false)?;
    Ok(op.cost(&metas, &y))
}

/// Applies a registered op outside any graph.
pub fn call(name: &str, x: &[&Tensor], attributes: &[super::args::Attribute]) -> Result<Tensor> {
    let op = registry::build(name, attributes)?;
    Ok(compute(&*op, x, false)?.swap_remove(0))
}

/// Scratch memory of `n` elements, on the bill like everything else.
pub fn workspace<T: Element>(n: usize) -> Result<Tensor> {
    let meta = Meta::contiguous("workspace", &[n], T::DTYPE, Device::Cpu)?;
    Tensor::empty(meta, Category::Workspace)
}
