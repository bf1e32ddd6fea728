//! Elements by number: taking them, writing them, adding to them; one-hot rows; triangles. As `cpu/slices` and `cpu/lines`.
//!
//! A tensor is seen as [outer, count, inner]; a list of positions names rows of it, or with `lines` an index for each element
//! [outer, positions, inner] names a place on its line. Sums are made in the order of the positions, so that they are those of
//! the CPU. Several contributions to one place are found by sorting the list, not by atomics.

use super::Gpu;
use super::faults::{AXES, Check, PLACE, Valid};
use super::kernel::{Grid, Kernel, index, params};
use super::pointwise::Buffer;
use super::sort::{self, Keys};
use crate::arena::ledger::Category;
use crate::arena::space::Place;
use crate::arena::{self, Block};
use crate::dtype::DType;
use crate::error::{Error, Result};

params!(TakeParams { n: u32, inner: u32, positions: u32, count: u32, x_at: u32, y_at: u32, index_at: u32, site: u32 });
params!(RowParams { n: u32, size: u32, index_at: u32, axis: u32, site: u32 });
params!(MeetParams { n: u32, inner: u32, positions: u32, count: u32, x_at: u32, y_at: u32, skip: u32 });
params!(OneHotParams { n: u32, classes: u32, x_at: u32, site: u32 });
params!(TriangleParams { n: u32, rows: u32, columns: u32, diagonal: i32, x_at: u32, y_at: u32 });

static TAKE: Kernel = Kernel::new(
    "take",
    concat!(include_str!("faults.wgsl"), include_str!("elements.wgsl"), include_str!("take.wgsl")),
    TakeParams::WGSL,
);
static ROWS: Kernel =
    Kernel::new("rows", concat!(include_str!("faults.wgsl"), include_str!("numbers.wgsl")), RowParams::WGSL);
static MEET: Kernel =
    Kernel::new("meet", concat!(include_str!("elements.wgsl"), include_str!("meet.wgsl")), MeetParams::WGSL);
static ONE_HOT: Kernel =
    Kernel::new("one_hot", concat!(include_str!("faults.wgsl"), include_str!("one_hot.wgsl")), OneHotParams::WGSL);
static TRIANGLE: Kernel = Kernel::new(
    "triangle",
    concat!(include_str!("elements.wgsl"), include_str!("triangle.wgsl")),
    TriangleParams::WGSL,
);

/// Up to so many positions are looked through one by one for each element written; more are sorted first.
const SCANNED: usize = 16;

/// What an op by number walks over.
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    pub outer: usize,
    pub count: usize,
    pub inner: usize,
    pub positions: usize,
    pub lines: bool,
}

/// Memory of a GPU, to be dropped once the kernels that use it are recorded.
pub(super) fn scratch(gpu: &Gpu, words: usize) -> Result<Block> {
    arena::alloc_in(gpu.space(), 4 * words.max(1), Category::Workspace)
}

pub(super) fn place(block: &Block) -> Place {
    block.place().expect("bug: scratch of a GPU has no place")
}

/// Threads of kernels that are made with elements.wgsl.
fn moves(n: usize, bytes: usize) -> Grid {
    Grid::threads(if bytes >= 4 { n } else { n.div_ceil(4 / bytes) })
}

/// y = the elements of x that int64 indices of one axis name; all are contiguous.
pub fn take(gpu: &Gpu, walk: Walk, check: Check, x: &Buffer, indices: &Buffer, y: &Buffer) -> Result<()> {
    let at = index(check.op, indices.offset)?;
    run_take(gpu, walk, check, x, (indices.place, at, 0), y)
}

/// y = rows of x by their numbers.
pub fn take_rows(gpu: &Gpu, walk: Walk, check: Check, x: &Buffer, rows: &Block, y: &Buffer) -> Result<()> {
    run_take(gpu, walk, check, x, (place(rows), 0, 1), y)
}

fn run_take(
    gpu: &Gpu,
    walk: Walk,
    check: Check,
    x: &Buffer,
    (list, index_at, checked): (Place, u32, u32),
    y: &Buffer,
) -> Result<()> {
    let (n, op, bytes) = (y.layout.numel(), check.op, y.dtype.bytes());
    if n == 0 {
        return Ok(());
    }
    let number = |v: usize| index(op, v);
    number(x.offset + x.layout.numel())?;
    let params = TakeParams {
        n: number(n)?,
        inner: number(walk.inner)?,
        positions: number(walk.positions)?,
        count: number(walk.count)?,
        x_at: number(x.offset)?,
        y_at: number(y.offset)?,
        index_at,
        site: check.clone().site(),
    };
    let constants = [
        ("FAULTS", 3),
        ("ENDS", u32::from(check.valid == Valid::FromBothEnds)),
        ("BYTES", bytes as u32),
        ("LINES", u32::from(walk.lines)),
        ("CHECKED", checked),
    ];
    gpu.run(&TAKE, &constants, &[x.place, y.place, list, PLACE], &params, moves(n, bytes))
}

/// The numbers of the rows that contiguous int64 indices name, one tensor for each of the leading axes.
pub fn rows(gpu: &Gpu, check: Check, indices: &[Buffer]) -> Result<Block> {
    if indices.len() > AXES {
        return Err(Error::device(format!(
            "{}: {} index tensors; kernels of a GPU take {AXES} (help: x.cpu() for this op)",
            check.op,
            indices.len()
        )));
    }
    let n = indices[0].layout.numel();
    let block = scratch(gpu, n)?;
    let op = check.op;
    let ends = ("ENDS", u32::from(check.valid == Valid::FromBothEnds));
    index(op, check.sizes.iter().product())?;
    for (axis, (indices, &size)) in indices.iter().zip(&check.sizes).enumerate() {
        let params = RowParams {
            n: index(op, n)?,
            size: index(op, size)?,
            index_at: index(op, indices.offset)?,
            axis: axis as u32,
            site: check.clone().site(),
        };
        // Binding 2 shows something else that is not read.
        let bindings = [indices.place, place(&block), indices.place, PLACE];
        let constants = [("FAULTS", 3), ends, ("FIRST", u32::from(axis == 0))];
        gpu.run(&ROWS, &constants, &bindings, &params, Grid::threads(n))?;
    }
    Ok(block)
}

/// How an element meets what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meeting {
    /// Of several, the last one stays.
    Replace,
    Add,
}

/// What y holds before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    Zeros,
    AsItIs,
}

/// y meets the elements of `src` at numbered places; all are contiguous. The row `skip` is left alone.
#[allow(clippy::too_many_arguments)]
pub fn meet(
    gpu: &Gpu,
    op: &'static str,
    walk: Walk,
    meeting: Meeting,
    begin: Begin,
    y: &Buffer,
    rows: &Block,
    src: &Buffer,
    skip: Option<usize>,
) -> Result<()> {
    let (n, bytes) = (y.layout.numel(), y.dtype.bytes());
    if n == 0 {
        return Ok(());
    }
    assert!(bytes >= 4 || y.whole, "bug: a part of a tensor of small elements");
    let number = |v: usize| index(op, v);
    number(src.offset + src.layout.numel())?;
    let params = MeetParams {
        n: number(n)?,
        inner: number(walk.inner)?,
        positions: number(walk.positions)?,
        count: number(walk.count)?,
        x_at: number(src.offset)?,
        y_at: number(y.offset)?,
        skip: skip.map_or(Ok(u32::MAX), number)?,
    };
    // All of them may be of one row.
    gpu.expect_rounds(op, walk.positions + 64)?;
    let sorted = walk.positions > SCANNED;
    let slots;
    let list = if sorted {
        let sizes = if walk.lines { [walk.outer, walk.positions, walk.inner] } else { [1, walk.positions, 1] };
        slots = sort::slots(gpu, op, Keys { place: place(rows), at: 0, dtype: None }, sizes)?;
        place(&slots)
    } else {
        place(rows)
    };
    let sum = if y.dtype == DType::F32 { 1 } else { 2 };
    let constants = [
        ("BYTES", bytes as u32),
        ("LINES", u32::from(walk.lines)),
        ("SORTED", u32::from(sorted)),
        ("BLANK", u32::from(begin == Begin::Zeros)),
        ("MEET", if meeting == Meeting::Add { sum } else { 0 }),
    ];
    gpu.run(&MEET, &constants, &[src.place, y.place, list], &params, moves(n, bytes))
}

/// y [.., classes] of int64: 1 at the place of each class of x, else 0.
pub fn one_hot(gpu: &Gpu, x: &Buffer, classes: usize, y: &Buffer) -> Result<()> {
    let number = |v: usize| index("one_hot", v);
    let site = Check::new("one_hot", &[classes], Valid::Classes).site();
    let n = number(y.layout.numel())?;
    let params = OneHotParams { n, classes: number(classes)?, x_at: number(x.offset)?, site };
    let bindings = [x.place, y.place, x.place, PLACE];
    gpu.run(&ONE_HOT, &[("FAULTS", 3), ("ENDS", 0)], &bindings, &params, Grid::threads(n as usize))
}

/// y = the part of each matrix of x that is on or below (or above) a diagonal, else 0; contiguous.
pub fn triangle(
    gpu: &Gpu,
    x: &Buffer,
    [rows, columns]: [usize; 2],
    diagonal: i64,
    upper: bool,
    y: &Buffer,
) -> Result<()> {
    let (n, bytes) = (y.layout.numel(), y.dtype.bytes());
    let number = |v: usize| index("tril", v);
    let params = TriangleParams {
        n: number(n)?,
        rows: number(rows)?,
        columns: number(columns)?,
        // Beyond these all is kept, or nothing.
        diagonal: diagonal.clamp(-(rows as i64) - 1, columns as i64 + 1) as i32,
        x_at: number(x.offset)?,
        y_at: number(y.offset)?,
    };
    let constants = [("BYTES", bytes as u32), ("UPPER", u32::from(upper))];
    gpu.run(&TRIANGLE, &constants, &[x.place, y.place], &params, moves(n, bytes))
}
