//! One loop for every elementwise formula: any layout, any broadcasting, any mix of element types.
//!
//! The formula's own code is a 1-D loop over runs; all else (order of traversal, gathering strided or converted operands
//! into small buffers, splitting between threads) is shared by all formulas.

use super::convert::Compute;
use super::pool;
use super::simd::{Kernel, Lanes, dispatch_f32};
use super::view::View;
use crate::device::formula::{Formula, MOST};
use crate::dtype::DType;
use crate::real::Int;
use crate::shape::broadcast_strides;
use smallvec::SmallVec;
use std::mem::MaybeUninit;

/// `step` 0 repeats the one element of an operand, 1 reads along.
type Run<E> = unsafe fn(inputs: &[(*const E, usize); MOST], out: *mut E, n: usize);

/// A formula compiled for the three types that kernels compute in.
#[derive(Clone, Copy)]
pub struct Kernels {
    arity: usize,
    f32: Run<f32>,
    f64: Run<f64>,
    i64: Run<i64>,
}

impl Kernels {
    pub const fn of<F: Formula>() -> Kernels {
        let i64 = if F::INTEGERS { F::run_i64 } else { never };
        Kernels { arity: F::ARITY, f32: F::run_f32, f64: F::run_f64, i64 }
    }
}

struct Loop<'a, E> {
    inputs: &'a [(*const E, usize); MOST],
    out: *mut E,
    n: usize,
}

/// A loop over a formula. The formula stands first, so that the loop is compiled with the file that the formula is in.
impl<F: Formula, E: Copy> Kernel<E> for ([F; 0], Loop<'_, E>) {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes<Elem = E>>(self) {
        let Loop { inputs, out, n } = self.1;
        let mut x = [L::lit(0.0); MOST];
        let mut i = 0;
        // SAFETY: the caller of `Run` promised n readable elements behind each operand with step 1, one behind the
        // others, and room for n results; a splat reads the one element that is always there.
        unsafe {
            for (lane, &(ptr, _)) in x.iter_mut().zip(inputs).take(F::ARITY) {
                *lane = L::splat(*ptr);
            }
            while i + L::WIDTH <= n {
                for (lane, &(ptr, step)) in x.iter_mut().zip(inputs).take(F::ARITY) {
                    if step != 0 {
                        *lane = L::load(ptr.add(i));
                    }
                }
                F::eval(x).store(out.add(i));
                i += L::WIDTH;
            }
            let rest = n - i;
            if rest > 0 {
                for (lane, &(ptr, step)) in x.iter_mut().zip(inputs).take(F::ARITY) {
                    if step != 0 {
                        *lane = L::load_first(ptr.add(i), rest);
                    }
                }
                F::eval(x).store_first(out.add(i), rest);
            }
        }
    }
}

/// The three loops of a formula.
trait Runs: Formula {
    unsafe fn run_f32(inputs: &[(*const f32, usize); MOST], out: *mut f32, n: usize) {
        if n > 0 {
            dispatch_f32(([] as [Self; 0], Loop { inputs, out, n }));
        }
    }

    unsafe fn run_f64(inputs: &[(*const f64, usize); MOST], out: *mut f64, n: usize) {
        if n > 0 {
            // One level only: f64 is for checking, and each level costs as much code as all of f32's.
            ([] as [Self; 0], Loop { inputs, out, n }).run::<f64>();
        }
    }

    unsafe fn run_i64(inputs: &[(*const i64, usize); MOST], out: *mut i64, n: usize) {
        let mut x = [Int(0); MOST];
        for i in 0..n {
            for (value, &(ptr, step)) in x.iter_mut().zip(inputs).take(Self::ARITY) {
                // SAFETY: as promised by the caller; step is 0 or 1.
                *value = Int(unsafe { *ptr.add(i * step) });
            }
            // SAFETY: room for n results.
            unsafe { *out.add(i) = Self::eval(x).0 };
        }
    }
}

impl<F: Formula> Runs for F {}

unsafe fn never(_: &[(*const i64, usize); MOST], _: *mut i64, _: usize) {
    panic!("bug: a formula of floats was evaluated in integers");
}

/// Elements of one operand, as the traversal sees them: a byte pointer and a stride for each coalesced axis.
#[derive(Clone)]
struct Operand {
    ptr: *mut u8,
    dtype: DType,
    strides: SmallVec<[isize; 6]>,
}

// SAFETY: each thread works on ranges of its own.
unsafe impl Sync for Operand {}

/// The axes of a launch in the output's memory order, outermost first, neighbours merged where all operands allow it.
struct Axes {
    sizes: SmallVec<[usize; 6]>,
    inputs: SmallVec<[Option<Operand>; MOST]>,
    out: Operand,
}

fn axes(inputs: &[Option<View>], out: &View) -> Axes {
    let shape = out.shape();
    let strides: SmallVec<[Option<crate::shape::Strides>; MOST]> =
        inputs.iter().map(|x| x.as_ref().map(|x| broadcast_strides(x.layout, shape))).collect();
    let mut order: SmallVec<[usize; 6]> = (0..shape.len()).filter(|&i| shape[i] != 1).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(out.strides()[i].unsigned_abs()));
    let mut result = Axes {
        sizes: SmallVec::new(),
        inputs: inputs
            .iter()
            .map(|x| x.as_ref().map(|x| Operand { ptr: x.bytes_ptr(), dtype: x.dtype, strides: SmallVec::new() }))
            .collect(),
        out: Operand { ptr: out.bytes_ptr(), dtype: out.dtype, strides: SmallVec::new() },
    };
    for &axis in &order {
        let size = shape[axis];
        let here = |i: usize| strides[i].as_ref().map_or(0, |s| s[axis]);
        let merges = !result.sizes.is_empty()
            && result.out.strides.last() == Some(&(out.strides()[axis] * size as isize))
            && result
                .inputs
                .iter()
                .enumerate()
                .all(|(i, x)| x.as_ref().is_none_or(|x| *x.strides.last().unwrap() == here(i) * size as isize));
        let put = |list: &mut SmallVec<[isize; 6]>, stride: isize| {
            if merges {
                *list.last_mut().unwrap() = stride;
            } else {
                list.push(stride);
            }
        };
        put(&mut result.out.strides, out.strides()[axis]);
        for (i, x) in result.inputs.iter_mut().enumerate() {
            if let Some(x) = x {
                put(&mut x.strides, here(i));
            }
        }
        match result.sizes.last_mut() {
            Some(last) if merges => *last *= size,
            _ => result.sizes.push(size),
        }
    }
    result
}

/// Elements a thread takes at a time: a function of nothing, so that results never depend on the threads.
const CHUNK: usize = 16 * 1024;
/// Elements converted or gathered at a time, in buffers on the stack.
const BUFFER: usize = 512;

/// y = f(inputs), every operand broadcast to the shape of `out`. An absent input reads as NaN: a formula that does not
/// declare an operand must not depend on it.
pub fn launch(kernels: &Kernels, compute: DType, inputs: &[Option<View>], out: &View) {
    debug_assert_eq!(inputs.len(), kernels.arity);
    if out.numel() == 0 {
        return;
    }
    match compute {
        DType::F32 => launch_as(kernels.f32, inputs, out),
        DType::F64 => launch_as(kernels.f64, inputs, out),
        _ => launch_as(kernels.i64, inputs, out),
    }
}

fn launch_as<E: Compute>(run: Run<E>, inputs: &[Option<View>], out: &View) {
    if let Some(operands) = small_and_plain(inputs, out) {
        // SAFETY: every operand has the output's elements in the output's order, or is one element with step 0.
        return unsafe { run(&operands, out.bytes_ptr().cast(), out.numel()) };
    }
    sweep(run, &axes(inputs, out), out.numel());
}

/// The operands of a launch that is one short run without conversions. Most small ops are; the general walk would cost
/// them more than their arithmetic.
fn small_and_plain<E: Compute>(inputs: &[Option<View>], out: &View) -> Option<[(*const E, usize); MOST]> {
    if out.numel() > CHUNK || out.dtype != E::DTYPE || !out.layout.is_dense() {
        return None;
    }
    let mut operands = [(std::ptr::from_ref(E::NAN), 0); MOST];
    for (slot, x) in operands.iter_mut().zip(inputs) {
        let Some(x) = x else { continue };
        let step = if x.numel() == 1 {
            0
        } else if std::ptr::eq(x.layout, out.layout) || x.layout == out.layout {
            1
        } else {
            return None;
        };
        if x.dtype != E::DTYPE {
            return None;
        }
        *slot = (x.bytes_ptr().cast_const().cast(), step);
    }
    Some(operands)
}

fn sweep<E: Compute>(run: Run<E>, axes: &Axes, total: usize) {
    let inner = axes.sizes.last().copied().unwrap_or(1);
    if total <= CHUNK {
        // SAFETY: rows 0..total / inner, whole, are the whole launch.
        return unsafe { rows(run, axes, 0, total / inner, 0, inner) };
    }
    if inner >= CHUNK {
        let pieces = inner.div_ceil(CHUNK);
        pool::run(total / inner * pieces, &|i| {
            let (row, piece) = (i / pieces, i % pieces);
            let start = piece * CHUNK;
            // SAFETY: each piece of each row exactly once.
            unsafe { rows(run, axes, row, row + 1, start, CHUNK.min(inner - start)) };
        });
    } else {
        let (count, step) = (total / inner, CHUNK / inner);
        pool::run(count.div_ceil(step), &|i| {
            // SAFETY: each row exactly once.
            unsafe { rows(run, axes, i * step, ((i + 1) * step).min(count), 0, inner) };
        });
    }
}

/// Runs elements `start .. start + n` of the inner axis for the rows `first .. last` of the outer axes.
///
/// # Safety
/// The range lies within the axes, and no other thread writes it.
unsafe fn rows<E: Compute>(run: Run<E>, axes: &Axes, first: usize, last: usize, start: usize, n: usize) {
    let rank = axes.sizes.len();
    let outer = rank.saturating_sub(1);
    let mut index: SmallVec<[usize; 6]> = SmallVec::from_elem(0, outer);
    let mut rest = first;
    for axis in (0..outer).rev() {
        index[axis] = rest % axes.sizes[axis];
        rest /= axes.sizes[axis];
    }
    let inner = |o: &Operand| if rank == 0 { 0 } else { o.strides[rank - 1] };
    let at = |o: &Operand, index: &[usize]| {
        let outer: isize = index.iter().zip(&o.strides).map(|(&i, &s)| i as isize * s).sum();
        let offset = (outer + start as isize * inner(o)) * o.dtype.bytes() as isize;
        // SAFETY: an element of the operand.
        unsafe { o.ptr.offset(offset) }
    };
    let direct_in = |o: &Operand| o.dtype == E::DTYPE && (inner(o) == 0 || inner(o) == 1);
    let direct_out = axes.out.dtype == E::DTYPE && (inner(&axes.out) == 1 || n == 1);
    let all_direct = direct_out && axes.inputs.iter().flatten().all(direct_in);
    let block = if all_direct { n } else { BUFFER };
    let mut buffers = [const { [const { MaybeUninit::<E>::uninit() }; BUFFER] }; MOST + 1];
    for _ in first..last {
        let out_row = at(&axes.out, &index);
        let mut done = 0;
        while done < n {
            let count = block.min(n - done);
            let mut operands = [(std::ptr::from_ref(E::NAN), 0); MOST];
            for ((slot, buffer), x) in operands.iter_mut().zip(&mut buffers).zip(&axes.inputs) {
                let Some(x) = x else { continue };
                let stride = inner(x);
                // SAFETY: `done < n` elements along the inner axis.
                let ptr = unsafe { at(x, &index).offset(done as isize * stride * x.dtype.bytes() as isize) };
                *slot = if direct_in(x) {
                    (ptr.cast_const().cast(), stride as usize)
                } else {
                    let many = if stride == 0 { 1 } else { count };
                    // SAFETY: `many` elements of the operand, and at most BUFFER.
                    unsafe { E::gather(ptr, x.dtype, stride, buffer.as_mut_ptr().cast(), many) };
                    (buffer.as_ptr().cast(), (stride != 0) as usize)
                };
            }
            let stride = inner(&axes.out);
            // SAFETY: as for the inputs.
            let out_ptr = unsafe { out_row.offset(done as isize * stride * axes.out.dtype.bytes() as isize) };
            // SAFETY: operands hold `count` elements (or one with step 0), the target has room for `count`.
            unsafe {
                if direct_out {
                    run(&operands, out_ptr.cast(), count);
                } else {
                    let buffer = buffers[MOST].as_mut_ptr().cast::<E>();
                    run(&operands, buffer, count);
                    E::scatter(buffer, out_ptr, axes.out.dtype, stride, count);
                }
            }
            done += count;
        }
        for axis in (0..outer).rev() {
            index[axis] += 1;
            if index[axis] < axes.sizes[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
}
