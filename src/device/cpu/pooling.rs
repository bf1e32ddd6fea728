//! Max and average pooling over windows of rows and columns, and their gradients, on dense NHWC data.
//!
//! Adaptive pooling is pooling whose windows are cut from the input evenly; 1-D pooling has one row. Everything is
//! vectorised over the channels, and a gradient gathers from the windows that hold an element, so that each output is
//! written once, in an order that no number of threads changes.

use super::conv::{Float, Shared};
use super::pool;
use super::simd::{Kernel, Lanes};
use std::ops::Range;

/// Nanoseconds to read one element, as a guess for the size of chunks.
const NANOS: f64 = 0.1;

/// Windows along one axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Axis {
    input: usize,
    output: usize,
    /// Elements of a window; of the largest where they differ.
    kernel: usize,
    stride: usize,
    padding: usize,
    dilation: usize,
    adaptive: bool,
}

impl Axis {
    /// Windows of one size. `ceil_mode` adds a last window that starts inside the input or its left padding and ends
    /// beyond. There must be a window; it fits, or is such a last one.
    pub fn new(input: usize, kernel: usize, stride: usize, padding: usize, dilation: usize, ceil_mode: bool) -> Axis {
        let (full, reach) = (input + 2 * padding, dilation * (kernel - 1) + 1);
        let steps = if ceil_mode { full + stride - 1 } else { full };
        assert!(steps >= reach, "bug: no window fits");
        let mut output = (steps - reach) / stride + 1;
        if ceil_mode && (output - 1) * stride >= input + padding {
            output -= 1;
        }
        Axis { input, output, kernel, stride, padding, dilation, adaptive: false }
    }

    /// `output` windows that cover the input evenly and may overlap by one.
    pub fn adaptive(input: usize, output: usize) -> Axis {
        let kernel = if input.is_multiple_of(output.max(1)) { input / output.max(1) } else { input / output + 2 };
        Axis { input, output, kernel, stride: 1, padding: 0, dilation: 1, adaptive: true }
    }

    pub fn output(&self) -> usize {
        self.output
    }

    /// Input, output, kernel, stride, padding and dilation, as other kernels take them.
    pub fn parts(&self) -> [usize; 6] {
        [self.input, self.output, self.kernel, self.stride, self.padding, self.dilation]
    }

    pub fn is_adaptive(&self) -> bool {
        self.adaptive
    }

    /// True when window t lies in the padding, or between its taps.
    pub fn is_empty(&self, t: usize) -> bool {
        self.window(t).1.is_empty()
    }

    /// The position of tap 0 of window t, and the taps that lie inside the input.
    fn window(&self, t: usize) -> (isize, Range<usize>) {
        if self.adaptive {
            let first = t * self.input / self.output;
            return (first as isize, 0..((t + 1) * self.input).div_ceil(self.output) - first);
        }
        let first = (t * self.stride) as isize - self.padding as isize;
        let start = ((-first).max(0) as usize).div_ceil(self.dilation).min(self.kernel);
        let end = ((self.input as isize - first).max(0) as usize).div_ceil(self.dilation);
        (first, start..end.clamp(start, self.kernel))
    }

    /// The elements of window t for an average; with padding, those of the padded input.
    fn count(&self, t: usize, padded: bool) -> usize {
        let (first, taps) = self.window(t);
        if self.adaptive || !padded {
            return taps.len();
        }
        (((self.input + self.padding) as isize - first) as usize).min(self.kernel)
    }

    /// A range that holds all windows that hold element i.
    fn windows(&self, i: usize) -> Range<usize> {
        if self.adaptive {
            return i * self.output / self.input..((i + 1) * self.output).div_ceil(self.input);
        }
        let (at, reach) = (i + self.padding, self.dilation * (self.kernel - 1));
        at.saturating_sub(reach).div_ceil(self.stride)..(at / self.stride + 1).min(self.output)
    }

    /// The tap of window t at element i, if there is one.
    fn tap(&self, t: usize, i: usize) -> Option<usize> {
        let (first, taps) = self.window(t);
        let distance = (i as isize - first) as usize;
        (distance.is_multiple_of(self.dilation) && taps.contains(&(distance / self.dilation)))
            .then_some(distance / self.dilation)
    }
}

/// The sizes of a pooling: images, channels, and windows along rows and columns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pooling {
    pub n: usize,
    pub c: usize,
    pub rows: Axis,
    pub cols: Axis,
}

impl Pooling {
    /// Offsets of [`max_forward`] are below this.
    pub fn window_len(&self) -> usize {
        self.rows.kernel * self.cols.kernel
    }

    /// The kernels trust these sizes.
    fn check(&self, input: usize, output: usize) {
        let of_input = self.n * self.rows.input * self.cols.input * self.c;
        let of_output = self.n * self.rows.output * self.cols.output * self.c;
        assert!(input == of_input && output == of_output, "bug: pooling of tensors of other sizes");
    }

    /// About how many windows hold an element.
    fn overlap(&self) -> usize {
        let along = |axis: &Axis| axis.kernel.div_ceil(axis.stride).min(2 + axis.output);
        if self.rows.adaptive { 1 } else { along(&self.rows) * along(&self.cols) }
    }

    /// Position within its window of the element with an offset, as (row, column).
    pub fn tap(&self, offset: usize) -> (usize, usize) {
        (offset / self.cols.kernel, offset % self.cols.kernel)
    }
}

/// What an average is divided by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Divisor {
    /// The elements of the window that exist.
    Inside,
    /// The elements of the window in the padded input.
    Padded,
    Fixed(usize),
}

impl Divisor {
    fn of(self, s: &Pooling, row: usize, col: usize) -> usize {
        match self {
            Divisor::Fixed(count) => count,
            _ => s.rows.count(row, self == Divisor::Padded) * s.cols.count(col, self == Divisor::Padded),
        }
    }
}

/// How the place of a maximum within its window is kept; it must hold what is below [`Pooling::window_len`].
pub trait Offset: Copy + Send + Sync + 'static {
    fn from_int(x: i32) -> Self;
    fn to_int(self) -> i32;
}

macro_rules! offsets {
    ($($int:ident)*) => {
        $(impl Offset for $int {
            #[inline(always)]
            fn from_int(x: i32) -> $int {
                x as $int
            }

            #[inline(always)]
            fn to_int(self) -> i32 {
                self as i32
            }
        })*
    };
}

offsets!(u8 u16 i32);

/// y = the maximum of each window, and where in its window the first one is; NaN counts as the largest.
/// x is [n, rows, cols, c] with the input sizes of the axes, y and `offsets` with the output sizes.
pub fn max_forward<E: Float, O: Offset>(s: &Pooling, x: &[E], y: &mut [E], offsets: Option<&mut [O]>) {
    s.check(x.len(), y.len());
    assert!(offsets.as_ref().is_none_or(|o| o.len() == y.len()), "bug: offsets of another size");
    let offsets = offsets.map_or(std::ptr::null_mut(), <[O]>::as_mut_ptr);
    let (x, y) = (shared(x), Shared(y.as_mut_ptr()));
    run(s, Side::Output, s.window_len(), Max { x, y, offsets: Shared(offsets) });
}

/// dx from dy: each element of dy goes to where its maximum was. All of dx is written.
pub fn max_backward<E: Float, O: Offset>(s: &Pooling, dy: &[E], offsets: &[O], dx: &mut [E]) {
    s.check(dx.len(), dy.len());
    assert!(offsets.len() == dy.len(), "bug: offsets of another size");
    let (dy, offsets) = (shared(dy), shared(offsets));
    run(s, Side::Input, s.overlap(), MaxBack { dy, offsets, dx: Shared(dx.as_mut_ptr()) });
}

/// y = the elements of x at the offsets that [`max_forward`] found in another tensor: the derivative of a maximum.
pub fn max_pick<E: Float, O: Offset>(s: &Pooling, x: &[E], offsets: &[O], y: &mut [E]) {
    s.check(x.len(), y.len());
    assert!(offsets.len() == y.len(), "bug: offsets of another size");
    let (x, offsets) = (shared(x), shared(offsets));
    run(s, Side::Output, s.window_len(), Pick { x, offsets, y: Shared(y.as_mut_ptr()) });
}

/// Where [`max_forward`] found each maximum, as row · width + column of the input.
pub fn max_indices<O: Offset>(s: &Pooling, offsets: &[O], indices: &mut [i64]) {
    assert!(offsets.len() == indices.len(), "bug: indices of another size");
    let row_len = s.cols.output * s.c;
    for (index, (offsets, indices)) in
        offsets.chunks(row_len.max(1)).zip(indices.chunks_mut(row_len.max(1))).enumerate()
    {
        let top = s.rows.window(index % s.rows.output).0;
        for (at, (offset, to)) in offsets.iter().zip(indices).enumerate() {
            let (down, across) = s.tap(offset.to_int() as usize);
            let row = top + (down * s.rows.dilation) as isize;
            let col = s.cols.window(at / s.c).0 + (across * s.cols.dilation) as isize;
            *to = (row * s.cols.input as isize + col) as i64;
        }
    }
}

/// y = the average of each window.
pub fn average_forward<E: Float>(s: &Pooling, divisor: Divisor, x: &[E], y: &mut [E]) {
    s.check(x.len(), y.len());
    run(s, Side::Output, s.window_len(), Average { divisor, x: shared(x), y: Shared(y.as_mut_ptr()) });
}

/// dx from dy; all of dx is written.
pub fn average_backward<E: Float>(s: &Pooling, divisor: Divisor, dy: &[E], dx: &mut [E]) {
    s.check(dx.len(), dy.len());
    run(s, Side::Input, s.overlap(), AverageBack { divisor, dy: shared(dy), dx: Shared(dx.as_mut_ptr()) });
}

/// For the inputs of a kernel, which are only read.
fn shared<T>(x: &[T]) -> Shared<T> {
    Shared(x.as_ptr().cast_mut())
}

/// Which side of the pooling a kernel writes.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    Input,
    Output,
}

/// Computes the element at (image, row, col) of the side that is written, for `lanes` channels from `channel`.
trait Cell<E: Float>: Copy + Sync {
    /// # Safety
    /// The element exists; `FULL` says that `lanes` is the width of a register.
    unsafe fn cell<L: Lanes<Elem = E>, const FULL: bool>(self, at: &At, channel: usize, lanes: usize);
}

/// One pixel of the side that is written.
struct At<'a> {
    s: &'a Pooling,
    image: usize,
    row: usize,
    col: usize,
}

impl At<'_> {
    fn input(&self, row: usize, col: usize) -> usize {
        ((self.image * self.s.rows.input + row) * self.s.cols.input + col) * self.s.c
    }

    fn output(&self, row: usize, col: usize) -> usize {
        ((self.image * self.s.rows.output + row) * self.s.cols.output + col) * self.s.c
    }
}

/// Cuts the rows of one side into chunks. `reads` is about how many elements one element takes.
fn run<E: Float>(s: &Pooling, side: Side, reads: usize, cell: impl Cell<E>) {
    let (height, width) = match side {
        Side::Input => (s.rows.input, s.cols.input),
        Side::Output => (s.rows.output, s.cols.output),
    };
    let rows = s.n * height;
    let part = pool::chunk_rows(rows, NANOS * (width * s.c * (reads + 1)) as f64);
    pool::run(rows.div_ceil(part), &|chunk| {
        E::dispatch(Rows { s, height, width, rows: chunk * part..((chunk + 1) * part).min(rows), cell });
    });
}

struct Rows<'a, C> {
    s: &'a Pooling,
    height: usize,
    width: usize,
    /// Counted through all images.
    rows: Range<usize>,
    cell: C,
}

impl<E: Float, C: Cell<E>> Kernel<E> for Rows<'_, C> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes<Elem = E>>(self) {
        let channels = self.s.c;
        for index in self.rows {
            for col in 0..self.width {
                let at = At { s: self.s, image: index / self.height, row: index % self.height, col };
                let mut channel = 0;
                // SAFETY: an element of the side that is written, and channels that exist.
                unsafe {
                    while channel + L::WIDTH <= channels {
                        self.cell.cell::<L, true>(&at, channel, L::WIDTH);
                        channel += L::WIDTH;
                    }
                    if channel < channels {
                        self.cell.cell::<L, false>(&at, channel, channels - channel);
                    }
                }
            }
        }
    }
}

/// # Safety
/// `p` is valid for reads of `lanes` elements.
#[inline(always)]
unsafe fn load<L: Lanes, const FULL: bool>(p: *const L::Elem, lanes: usize) -> L {
    // SAFETY: the caller's promise.
    unsafe { if FULL { L::load(p) } else { L::load_first(p, lanes) } }
}

/// # Safety
/// `p` is valid for writes of `lanes` elements.
#[inline(always)]
unsafe fn store<L: Lanes, const FULL: bool>(p: *mut L::Elem, x: L, lanes: usize) {
    // SAFETY: the caller's promise.
    unsafe { if FULL { x.store(p) } else { x.store_first(p, lanes) } }
}

/// Room for the lanes of any register, to convert them one by one.
const WIDEST: usize = 16;

/// # Safety
/// `p` is valid for reads of `lanes` offsets.
#[inline(always)]
unsafe fn load_offsets<L: Lanes<Elem: Float>, O: Offset>(p: *const O, lanes: usize) -> L {
    let mut wide = [<L::Elem>::default(); WIDEST];
    for lane in 0..lanes {
        // SAFETY: the caller's promise.
        wide[lane] = Float::from_int(unsafe { *p.add(lane) }.to_int());
    }
    // SAFETY: no register is wider.
    unsafe { L::load(wide.as_ptr()) }
}

/// # Safety
/// `p` is valid for writes of `lanes` offsets, and the lanes are integers that fit.
#[inline(always)]
unsafe fn store_offsets<L: Lanes<Elem: Float>, O: Offset>(p: *mut O, x: L, lanes: usize) {
    let mut wide = [<L::Elem>::default(); WIDEST];
    // SAFETY: no register is wider; the rest is the caller's promise.
    unsafe {
        x.store(wide.as_mut_ptr());
        for lane in 0..lanes {
            *p.add(lane) = O::from_int(wide[lane].to_int());
        }
    }
}

struct Max<E, O> {
    x: Shared<E>,
    y: Shared<E>,
    /// Null when they are not wanted.
    offsets: Shared<O>,
}

impl<E: Float, O: Offset> Cell<E> for Max<E, O> {
    #[inline(always)]
    unsafe fn cell<L: Lanes<Elem = E>, const FULL: bool>(self, at: &At, channel: usize, lanes: usize) {
        let (top, rows) = at.s.rows.window(at.row);
        let (left, cols) = at.s.cols.window(at.col);
        let mut best = L::lit(f64::NEG_INFINITY);
        let mut place = L::lit((rows.start * at.s.cols.kernel + cols.start) as f64);
        for down in rows {
            let row = (top + (down * at.s.rows.dilation) as isize) as usize;
            for across in cols.clone() {
                let col = (left + (across * at.s.cols.dilation) as isize) as usize;
                // SAFETY: a tap inside the input.
                let x: L = unsafe { load::<L, FULL>(self.x.get().add(at.input(row, col) + channel), lanes) };
                let better = L::or(x.gt(best), x.is_nan());
                best = L::select(better, x, best);
                place = L::select(better, L::lit((down * at.s.cols.kernel + across) as f64), place);
            }
        }
        let out = at.output(at.row, at.col) + channel;
        // SAFETY: the caller's promise.
        unsafe {
            store::<L, FULL>(self.y.get().add(out), best, lanes);
            if !self.offsets.get().is_null() {
                store_offsets(self.offsets.get().add(out), place, lanes);
            }
        }
    }
}

struct MaxBack<E, O> {
    dy: Shared<E>,
    offsets: Shared<O>,
    dx: Shared<E>,
}

impl<E: Float, O: Offset> Cell<E> for MaxBack<E, O> {
    #[inline(always)]
    unsafe fn cell<L: Lanes<Elem = E>, const FULL: bool>(self, at: &At, channel: usize, lanes: usize) {
        let zero = L::splat(E::default());
        let mut sum = zero;
        for row in at.s.rows.windows(at.row) {
            let Some(down) = at.s.rows.tap(row, at.row) else { continue };
            for col in at.s.cols.windows(at.col) {
                let Some(across) = at.s.cols.tap(col, at.col) else { continue };
                let from = at.output(row, col) + channel;
                let here = L::lit((down * at.s.cols.kernel + across) as f64);
                // SAFETY: a window that exists.
                unsafe {
                    let place: L = load_offsets(self.offsets.get().add(from), lanes);
                    let dy: L = load::<L, FULL>(self.dy.get().add(from), lanes);
                    sum = sum + L::select(place.eq(here), dy, zero);
                }
            }
        }
        // SAFETY: the caller's promise.
        unsafe { store::<L, FULL>(self.dx.get().add(at.input(at.row, at.col) + channel), sum, lanes) };
    }
}

struct Pick<E, O> {
    x: Shared<E>,
    offsets: Shared<O>,
    y: Shared<E>,
}

impl<E: Float, O: Offset> Cell<E> for Pick<E, O> {
    #[inline(always)]
    unsafe fn cell<L: Lanes<Elem = E>, const FULL: bool>(self, at: &At, channel: usize, lanes: usize) {
        let out = at.output(at.row, at.col) + channel;
        let (top, left) = (at.s.rows.window(at.row).0, at.s.cols.window(at.col).0);
        for lane in 0..lanes {
            // SAFETY: the caller's promise; an offset names an element of its window.
            unsafe {
                let (down, across) = at.s.tap((*self.offsets.get().add(out + lane)).to_int() as usize);
                let row = (top + (down * at.s.rows.dilation) as isize) as usize;
                let col = (left + (across * at.s.cols.dilation) as isize) as usize;
                // Whatever the offsets say, nothing outside x is read.
                assert!(row < at.s.rows.input && col < at.s.cols.input, "bug: an offset beyond its window");
                *self.y.get().add(out + lane) = *self.x.get().add(at.input(row, col) + channel + lane);
            }
        }
    }
}

struct Average<E> {
    divisor: Divisor,
    x: Shared<E>,
    y: Shared<E>,
}

impl<E: Float> Cell<E> for Average<E> {
    #[inline(always)]
    unsafe fn cell<L: Lanes<Elem = E>, const FULL: bool>(self, at: &At, channel: usize, lanes: usize) {
        let (top, rows) = at.s.rows.window(at.row);
        let (left, cols) = at.s.cols.window(at.col);
        let mut sum = L::splat(E::default());
        for down in rows {
            let row = (top + (down * at.s.rows.dilation) as isize) as usize;
            for across in cols.clone() {
                let col = (left + (across * at.s.cols.dilation) as isize) as usize;
                // SAFETY: a tap inside the input.
                sum = sum + unsafe { load::<L, FULL>(self.x.get().add(at.input(row, col) + channel), lanes) };
            }
        }
        let mean = sum / L::lit(self.divisor.of(at.s, at.row, at.col) as f64);
        // SAFETY: the caller's promise.
        unsafe { store::<L, FULL>(self.y.get().add(at.output(at.row, at.col) + channel), mean, lanes) };
    }
}

struct AverageBack<E> {
    divisor: Divisor,
    dy: Shared<E>,
    dx: Shared<E>,
}

impl<E: Float> Cell<E> for AverageBack<E> {
    #[inline(always)]
    unsafe fn cell<L: Lanes<Elem = E>, const FULL: bool>(self, at: &At, channel: usize, lanes: usize) {
        let mut sum = L::splat(E::default());
        for row in at.s.rows.windows(at.row).filter(|&row| at.s.rows.tap(row, at.row).is_some()) {
            for col in at.s.cols.windows(at.col).filter(|&col| at.s.cols.tap(col, at.col).is_some()) {
                // SAFETY: a window that exists.
                let dy: L = unsafe { load::<L, FULL>(self.dy.get().add(at.output(row, col) + channel), lanes) };
                sum = sum + dy / L::lit(self.divisor.of(at.s, row, col) as f64);
            }
        }
        // SAFETY: the caller's promise.
        unsafe { store::<L, FULL>(self.dx.get().add(at.input(at.row, at.col) + channel), sum, lanes) };
    }
}

macro_rules! copies {
    ($($name:ident<$($type:ident),*>)*) => {
        $(impl<$($type),*> Clone for $name<$($type),*> {
            fn clone(&self) -> Self {
                *self
            }
        }

        impl<$($type),*> Copy for $name<$($type),*> {})*
    };
}

copies!(Max<E, O> MaxBack<E, O> Pick<E, O> Average<E> AverageBack<E>);

#[cfg(test)]
mod tests;
