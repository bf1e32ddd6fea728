//! Matrix products, summed in float32.

use super::Gpu;
use super::kernel::{Params as _, Words, index, params};
use super::pointwise::Buffer;
use super::tiles::{self, Cut, Sizes};
use crate::arena::space::Place;
use crate::error::Result;
use crate::shape::broadcast_strides;
use smallvec::SmallVec;

params!(Params {
    m: u32,
    k: u32,
    n: u32,
    batch: u32,
    splits: u32,
    run: u32,
    size1: u32,
    size2: u32,
    a_at: u32,
    a_m: i32,
    a_k: i32,
    a_step0: i32,
    a_step1: i32,
    a_step2: i32,
    b_at: u32,
    b_k: i32,
    b_n: i32,
    b_step0: i32,
    b_step1: i32,
    b_step2: i32,
    bias_at: u32,
    sums_at: u32,
});

/// Tells these texts apart from other generated ones.
const TEXT: u32 = 2;

/// A product worked out.
pub struct Plan<'a> {
    a: &'a Buffer<'a>,
    b: &'a Buffer<'a>,
    bias: Option<&'a Buffer<'a>>,
    sums: Option<&'a Buffer<'a>>,
    y: &'a Buffer<'a>,
    params: Params,
    constants: [(&'static str, u32); 3],
    fours: [bool; 2],
    cut: Cut,
    op: &'static str,
}

/// A product with a bias is not cut along k; beyond this it should be.
pub const LONGEST_WITH_BIAS: usize = 4096;

/// Batch dims that the kernel takes after neighbours have been merged.
pub const BATCH_DIMS: usize = 3;

/// y [.., m, n] = a [.., m, k] · b [.., k, n] + bias [n], and sums [.., m] of the rows of a; y and sums are contiguous. `None`
/// when the batch has too many dims of different strides: then the sides must be copied first.
pub fn plan<'a>(
    op: &'static str,
    a: &'a Buffer,
    b: &'a Buffer,
    [bias, sums]: [Option<&'a Buffer>; 2],
    y: &'a Buffer,
) -> Result<Option<Plan<'a>>> {
    let shape = y.layout.shape();
    let outer = shape.len() - 2;
    let (m, n) = (shape[outer], shape[outer + 1]);
    let k = a.layout.shape()[a.layout.rank() - 1];
    let steps = |x: &Buffer| {
        let own = x.layout.rank() - 2;
        let mut full: SmallVec<[usize; 6]> = SmallVec::from_slice(&shape[..outer]);
        full.extend_from_slice(&x.layout.shape()[own..]);
        broadcast_strides(x.layout, &full)
    };
    let (left, right) = (steps(a), steps(b));
    let mut sizes: SmallVec<[usize; 6]> = SmallVec::new();
    let mut strides: [SmallVec<[isize; 6]>; 2] = [SmallVec::new(), SmallVec::new()];
    for axis in (0..outer).filter(|&i| shape[i] != 1) {
        let size = shape[axis] as isize;
        let here = [left[axis], right[axis]];
        if !sizes.is_empty() && (0..2).all(|i| strides[i].last() == Some(&(here[i] * size))) {
            *sizes.last_mut().expect("bug: an axis to merge into") *= shape[axis];
            (0..2).for_each(|i| *strides[i].last_mut().expect("bug: an axis to merge into") = here[i]);
        } else {
            sizes.push(shape[axis]);
            (0..2).for_each(|i| strides[i].push(here[i]));
        }
    }
    if sizes.len() > BATCH_DIMS {
        return Ok(None);
    }
    while sizes.len() < BATCH_DIMS {
        sizes.insert(0, 1);
        strides.iter_mut().for_each(|s| s.insert(0, 0));
    }
    let batch: usize = sizes.iter().product();
    let number = |v: usize| index(op, v);
    let step = |v: isize| index(op, v.unsigned_abs()).map(|_| v as i32);
    let whole = Sizes { batch, m, k, n };
    let cut = Cut::new(whole, false, bias.is_none());
    let cut = if sums.is_some() { cut.summing_rows(whole) } else { cut };
    let params = Params {
        splits: number(cut.splits)?,
        run: number(cut.run)?,
        m: number(m)?,
        k: number(k)?,
        n: number(n)?,
        batch: number(batch)?,
        size1: number(sizes[1])?,
        size2: number(sizes[2])?,
        a_at: number(a.offset)?,
        a_m: step(left[outer])?,
        a_k: step(left[outer + 1])?,
        a_step0: step(strides[0][0])?,
        a_step1: step(strides[0][1])?,
        a_step2: step(strides[0][2])?,
        b_at: number(b.offset)?,
        b_k: step(right[outer])?,
        b_n: step(right[outer + 1])?,
        b_step0: step(strides[1][0])?,
        b_step1: step(strides[1][1])?,
        b_step2: step(strides[1][2])?,
        bias_at: number(bias.map_or(0, |b| b.offset))?,
        sums_at: number(sums.map_or(0, |b| b.offset))?,
    };
    number(y.offset)?;
    number(y.layout.numel())?;
    let constants = [
        ("LEFT_M", u32::from(left[outer].unsigned_abs() < left[outer + 1].unsigned_abs())),
        ("RIGHT_N", u32::from(right[outer + 1].unsigned_abs() < right[outer].unsigned_abs())),
        ("HAS_BIAS", u32::from(bias.is_some())),
    ];
    // A word of four along an axis of whole words, each of which begins where one does.
    let four = |x: &Buffer, along: (isize, usize), across: isize, batch: &[isize]| {
        let whole = |stride: &isize| stride % 4 == 0;
        along.0 == 1
            && along.1.is_multiple_of(4)
            && whole(&across)
            && x.offset.is_multiple_of(4)
            && batch.iter().all(whole)
    };
    let ([a_m, a_k], [b_k, b_n]) = ([left[outer], left[outer + 1]], [right[outer], right[outer + 1]]);
    let fours = [
        if constants[0].1 == 1 { four(a, (a_m, m), a_k, &strides[0]) } else { four(a, (a_k, k), a_m, &strides[0]) },
        if constants[1].1 == 1 { four(b, (b_n, n), b_k, &strides[1]) } else { four(b, (b_k, k), b_n, &strides[1]) },
    ];
    Ok(Some(Plan { a, b, bias, sums, y, params, constants, fours, cut, op }))
}

impl Plan<'_> {
    pub fn scratch_bytes(&self) -> usize {
        self.cut.scratch_bytes()
    }

    pub fn run(&self, gpu: &Gpu, scratch: Option<Place>) -> Result<()> {
        let product = tiles::Product {
            op: self.op,
            cut: self.cut,
            key: self.cut.key(TEXT, &self.constants),
            constants: SmallVec::from_slice(&self.constants),
            params: Params::WGSL,
            operands: include_str!("matmul.wgsl"),
            words: self.params.words(),
            fours: self.fours,
        };
        let order = [(1, 0), (1, 0), (self.y.layout.numel(), 1)];
        product.run(gpu, [self.a, self.b], [self.bias, self.sums], self.y, scratch, order)
    }
}

/// A product of float16 to try an adapter with: [m, k] · [k, n], each side with its rows or its columns side by side, cut in two
/// along k. The sums of the two lie one behind the other.
pub struct Trial {
    pub sizes: Sizes,
    pub text: String,
    pub words: Words,
    pub groups: u32,
}

pub fn trial(sizes: Sizes, turned: bool, with: tiles::With) -> Trial {
    let cut = Cut::in_two(sizes);
    let [m, k, n] = [sizes.m, sizes.k, sizes.n].map(|size| size as i32);
    let params = Params {
        m: m as u32,
        k: k as u32,
        n: n as u32,
        batch: 1,
        splits: cut.splits as u32,
        run: cut.run as u32,
        size1: 1,
        size2: 1,
        a_at: 0,
        a_m: if turned { 1 } else { k },
        a_k: if turned { m } else { 1 },
        a_step0: 0,
        a_step1: 0,
        a_step2: 0,
        b_at: 0,
        b_k: if turned { 1 } else { n },
        b_n: if turned { k } else { 1 },
        b_step0: 0,
        b_step1: 0,
        b_step2: 0,
        bias_at: 0,
        sums_at: 0,
    };
    let constants = [("LEFT_M", u32::from(turned)), ("RIGHT_N", u32::from(!turned)), ("HAS_BIAS", 0)];
    let product = tiles::Product {
        op: "matmul",
        cut,
        key: SmallVec::new(),
        constants: SmallVec::from_slice(&constants),
        params: Params::WGSL,
        operands: include_str!("matmul.wgsl"),
        words: params.words(),
        fours: [true, true],
    };
    Trial { sizes, text: product.text_of_parts(with), words: product.words, groups: cut.grid().x }
}
