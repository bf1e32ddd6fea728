//! Kernels over many tensors at once, such as all parameters of a model: one dispatch, however many there are.
//!
//! A binding shows the part of a slab in which an operand of all tensors lies; a table in memory says where each begins. Tensors
//! whose operands lie in other slabs, or too far apart for one binding, make a dispatch of their own, with rows of its own in
//! the one table: what it takes does not depend on where tensors lie. Windows of operands may
//! overlap: each byte is touched through one of them.

use super::Gpu;
use super::kernel::index;
use super::places::{place, scratch};
use super::pointwise::Buffer;
use crate::arena::Block;
use crate::arena::space::{GRAIN, Place};
use crate::error::Result;
use smallvec::SmallVec;

/// Elements that a group works on.
pub(super) const SHARE: usize = 1024;
/// Words of a row of the table: first group, elements, where up to five operands begin, and how many groups the tensors before
/// it in the list have, in whatever dispatch they are.
const ROW: usize = 8;

/// The operands of one tensor, float32 and laid out alike; the same number for all.
pub type Operands<'a> = SmallVec<[Buffer<'a>; 5]>;

/// Tensors that one dispatch works on.
pub(super) struct Together {
    pub windows: SmallVec<[Place; 6]>,
    /// The first of its rows in the table.
    pub first: usize,
    pub tensors: usize,
    pub groups: usize,
}

/// All dispatches, and the table of their rows.
pub(super) struct Gathered {
    pub batches: Vec<Together>,
    pub table: Block,
}

struct Open<'a, 'b> {
    windows: SmallVec<[Place; 6]>,
    /// With the groups before each.
    members: Vec<(usize, &'a Operands<'b>)>,
}

/// A window that shows what `window` does, and a block besides; `None` where there is none.
fn widened(window: Place, block: Place, most: usize) -> Option<Place> {
    let start = window.offset.min(block.offset);
    let end = (window.offset + window.bytes).max(block.offset + block.bytes);
    let fits = window.slab == block.slab && end - start <= most;
    fits.then_some(Place { slab: window.slab, offset: start, bytes: end - start })
}

/// Sorts tensors into as few dispatches as their places allow, in a fixed order. Empty ones are left out.
pub(super) fn gathered(gpu: &Gpu, op: &'static str, list: &[Operands]) -> Result<Gathered> {
    let most = gpu.largest_binding();
    let mut open: Vec<Open> = vec![];
    let mut before = 0;
    for operands in list.iter().filter(|o| o[0].layout.numel() > 0) {
        let fitting = open.iter_mut().find_map(|open| {
            let pairs = open.windows.iter().zip(operands.iter());
            let wider: Option<SmallVec<[Place; 6]>> = pairs.map(|(w, b)| widened(*w, b.place, most)).collect();
            wider.map(|wider| (open, wider))
        });
        match fitting {
            Some((open, wider)) => {
                open.windows = wider;
                open.members.push((before, operands));
            }
            None => {
                let windows = operands.iter().map(|b| b.place).collect();
                open.push(Open { windows, members: vec![(before, operands)] });
            }
        }
        before += operands[0].layout.numel().div_ceil(SHARE);
    }
    let mut words: Vec<u32> = vec![];
    let batches = open.into_iter().map(|open| together(op, open, &mut words)).collect::<Result<_>>()?;
    let table = scratch(gpu, words.len())?;
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    gpu.upload(place(&table), 0, &bytes)?;
    Ok(Gathered { batches, table })
}

/// Appends the rows of a dispatch.
fn together(op: &'static str, open: Open, words: &mut Vec<u32>) -> Result<Together> {
    let (first, mut groups) = (words.len() / ROW, 0);
    for (before, operands) in &open.members {
        let n = operands[0].layout.numel();
        words.push(index(op, groups)?);
        words.push(index(op, n)?);
        for (buffer, window) in operands.iter().zip(&open.windows) {
            words.push(index(op, (buffer.place.offset - window.offset) / 4 + buffer.offset)?);
        }
        words.resize(words.len().next_multiple_of(ROW) - 1, 0);
        words.push(index(op, *before)?);
        groups += n.div_ceil(SHARE);
    }
    index(op, groups)?;
    debug_assert!(open.windows.iter().all(|w| w.offset.is_multiple_of(GRAIN)));
    Ok(Together { windows: open.windows, first, tensors: open.members.len(), groups })
}
