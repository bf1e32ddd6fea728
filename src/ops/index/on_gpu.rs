//! What the ops by number share on a GPU: operands as the kernels take them.

use super::super::{pointwise, run, transfer};
use crate::arena::Block;
use crate::arena::ledger::Category;
use crate::device::Device;
use crate::device::gpu::Gpu;
use crate::device::gpu::places::{self, Begin, Meeting, Walk};
use crate::dtype::DType;
use crate::error::Result;
use crate::shape::{Dims, Layout};
use crate::tensor::{Meta, Tensor};

/// The sizes before, of and after a dim; a 0-d tensor is seen as [1].
pub fn around(shape: &[usize], dim: usize) -> [usize; 3] {
    let after = shape.get(dim + 1..).map_or(1, |rest| rest.iter().product());
    [shape[..dim.min(shape.len())].iter().product(), shape.get(dim).copied().unwrap_or(1), after]
}

/// The tensor without gaps on the device. Numbers of the host are spread there.
pub fn laid(t: &Tensor, device: Device) -> Result<Tensor> {
    let fresh = || Tensor::empty(Meta::contiguous("index", t.shape(), t.dtype(), device)?, Category::Workspace);
    match t.device() {
        Device::Cpu if t.dtype() == DType::I64 => {
            let near = run::relaid(t, Layout::contiguous("index", t.shape())?, Category::Workspace)?;
            transfer::moved(&near, device, Category::Workspace)
        }
        Device::Gpu(_) if t.layout().is_contiguous() => Ok(t.clone()),
        _ => {
            let copy = fresh()?;
            pointwise::copy_into(t, &copy)?;
            Ok(copy)
        }
    }
}

/// The part of a tensor that has the sizes of another, but for one dim.
pub fn shared(t: &Tensor, sizes: &[usize], dim: usize) -> Tensor {
    let sizes: Dims = (0..sizes.len()).map(|i| if i == dim { t.shape()[i] } else { sizes[i] }).collect();
    t.with_layout(Layout::strided(&sizes, t.layout().strides()), t.offset())
}

/// y begins as x, and meets the elements of `src` at the numbered places.
#[allow(clippy::too_many_arguments)]
pub fn meet(
    gpu: &Gpu,
    op: &'static str,
    walk: Walk,
    meeting: Meeting,
    x: &Tensor,
    y: &Tensor,
    rows: &Block,
    src: &Tensor,
    skip: Option<usize>,
) -> Result<()> {
    if y.dtype().bytes() < 4 && !y.buffer().whole {
        // Words that hold elements of others as well are left to the copy.
        let whole = Tensor::empty(Meta::contiguous(op, y.shape(), y.dtype(), y.device())?, Category::Workspace)?;
        meet(gpu, op, walk, meeting, x, &whole, rows, src, skip)?;
        return pointwise::copy_on(gpu, &whole, y);
    }
    let blank = x.device() == Device::Cpu && x.first().to_bits() == 0;
    if !blank && !x.shares_storage(y) {
        pointwise::copy_on(gpu, x, y)?;
    }
    let begin = if blank { Begin::Zeros } else { Begin::AsItIs };
    places::meet(gpu, op, walk, meeting, begin, &y.buffer(), rows, &src.buffer(), skip)
}
