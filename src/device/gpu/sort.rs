//! Order along a dim, as `cpu/sort`: runs are sorted in the memory of a group, then merged in pairs. What is sorted are keys
//! with the places of their elements, which never tie, so the result is stable and there is one only.

use super::Gpu;
use super::kernel::{Grid, Kernel, index, params};
use super::places::{place, scratch};
use super::pointwise::Buffer;
use crate::arena::Block;
use crate::arena::space::Place;
use crate::dtype::DType;
use crate::error::Result;
use std::sync::LazyLock;

params!(Params {
    n: u32,
    inner: u32,
    lines: u32,
    first: u32,
    x_at: u32,
    y_at: u32,
    // Runs of each line where they are made, and the length of one where they are merged.
    runs: u32,
    run: u32,
});
params!(SearchParams { n: u32, m: u32, each: u32, x_at: u32, values_at: u32 });

static SORT: Kernel = Kernel::new(
    "sort",
    concat!(include_str!("keys.wgsl"), include_str!("slots.wgsl"), include_str!("sort.wgsl")),
    Params::WGSL,
);
static MERGE: Kernel =
    Kernel::new("merge", concat!(include_str!("slots.wgsl"), include_str!("merge.wgsl")), Params::WGSL);
static SEARCH: LazyLock<Kernel> = LazyLock::new(|| {
    let keys = include_str!("keys.wgsl");
    let of_values = keys.replace("fn key(", "fn value_key(").replace("x[", "values[");
    let text = [include_str!("search.wgsl"), keys, &of_values].concat();
    Kernel::new("searchsorted", text.leak(), SearchParams::WGSL)
});

/// The longest run that a group sorts.
const RUN: usize = 1024;

/// What is sorted: elements of a type, or unsigned numbers.
#[derive(Clone, Copy)]
pub(super) struct Keys {
    pub place: Place,
    pub at: usize,
    pub dtype: Option<DType>,
}

fn key_type(dtype: Option<DType>) -> u32 {
    match dtype {
        Some(DType::F32) => 0,
        Some(DType::I32) => 1,
        Some(DType::U8 | DType::Bool) => 2,
        Some(DType::I64) => 3,
        None => 4,
        Some(other) => panic!("bug: {} elements are sorted as float32", other.name()),
    }
}

/// The order of each line of x [outer, n, inner], contiguous: `places` [outer, first, inner] of int64.
pub fn order(
    gpu: &Gpu,
    op: &'static str,
    x: &Buffer,
    sizes: [usize; 3],
    descending: bool,
    places: &Buffer,
) -> Result<()> {
    let keys = Keys { place: x.place, at: x.offset, dtype: Some(x.dtype) };
    let lines = sizes[0] * sizes[2];
    if lines * sizes[1] > 0 && places.layout.numel() > 0 {
        let first = places.layout.numel() / lines;
        sorted(gpu, op, keys, sizes, descending, Some((first, places)))?;
    }
    Ok(())
}

/// Keys with their places in order, line by line, two words each. `sizes` are not empty.
pub(super) fn slots(gpu: &Gpu, op: &'static str, keys: Keys, sizes: [usize; 3]) -> Result<Block> {
    Ok(sorted(gpu, op, keys, sizes, false, None)?.expect("bug: slots were sorted into nothing"))
}

fn sorted(
    gpu: &Gpu,
    op: &'static str,
    keys: Keys,
    [outer, n, inner]: [usize; 3],
    descending: bool,
    wanted: Option<(usize, &Buffer)>,
) -> Result<Option<Block>> {
    let lines = outer * inner;
    let stride = if keys.dtype == Some(DType::I64) { 3 } else { 2 };
    let number = |v: usize| index(op, v);
    number(lines * n * stride)?;
    let size = n.next_power_of_two().clamp(2, RUN);
    let runs = n.div_ceil(size);
    let mut params = Params {
        n: number(n)?,
        inner: number(inner)?,
        lines: number(lines)?,
        first: number(wanted.map_or(0, |(first, _)| first))?,
        x_at: number(keys.at)?,
        y_at: number(wanted.map_or(0, |(_, places)| places.offset))?,
        runs: number(runs)?,
        run: number(size)?,
    };
    let stride = ("STRIDE", stride as u32);
    let last = |run: usize| wanted.filter(|_| run >= n);
    let target = |run: usize| -> Result<(Option<Block>, Place)> {
        match last(run) {
            Some((_, places)) => Ok((None, places.place)),
            None => scratch(gpu, lines * n * stride.1 as usize).map(|block| {
                let at = place(&block);
                (Some(block), at)
            }),
        }
    };
    let (mut block, mut from) = target(size)?;
    let constants = [
        ("TYPE", key_type(keys.dtype)),
        stride,
        ("PLACES", u32::from(last(size).is_some())),
        ("SIZE", size as u32),
        ("DESCENDING", u32::from(descending)),
    ];
    gpu.run(&SORT, &constants, &[keys.place, from], &params, Grid::groups(lines * runs))?;
    let mut run = size;
    while run < n {
        let (next, to) = target(2 * run)?;
        params.run = number(run)?;
        let constants = [stride, ("PLACES", u32::from(last(2 * run).is_some()))];
        gpu.run(&MERGE, &constants, &[from, to], &params, Grid::threads(lines * n))?;
        // What has been merged may be handed out again: whoever gets it comes later.
        (block, from) = (next, to);
        run *= 2;
    }
    Ok(block)
}

/// Where `values` belong in the sorted rows of x [.., n], or in its one row; all contiguous.
pub fn search(gpu: &Gpu, x: &Buffer, n: usize, values: &Buffer, each: usize, right: bool, y: &Buffer) -> Result<()> {
    let number = |v: usize| index("searchsorted", v);
    let m = values.layout.numel();
    number(x.offset + x.layout.numel())?;
    let params = SearchParams {
        n: number(n)?,
        m: number(m)?,
        each: number(each.max(1))?,
        x_at: number(x.offset)?,
        values_at: number(values.offset)?,
    };
    let constants =
        [("TYPE", key_type(Some(x.dtype))), ("RIGHT", u32::from(right)), ("ONE", u32::from(x.layout.numel() == n))];
    gpu.run(&SEARCH, &constants, &[x.place, values.place, y.place], &params, Grid::threads(m))
}
