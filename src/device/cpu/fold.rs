//! Folds over any set of axes of a tensor of any type: sums, products, extrema, norms.
//!
//! A fold maps each element, joins the results of a block in the element's type and the blocks in a wider one, and
//! finishes the total. Each axis is kept or reduced; neighbours of a kind are merged, and the last one decides the loop:
//! along rows when it is reduced, down columns when it is kept. Partition and order are functions of the shape alone, so
//! that neither threads nor strides change a bit; only a channels-last tensor is folded in an order of its own.

use super::convert::Compute;
use super::parts::Parts;
use super::pool;
use super::simd::{Kernel, Lanes, dispatch_f32, dispatch_f64};
use super::view::View;
use crate::real::{Int, Real};
use crate::shape::{Layout, contiguous_strides};
use smallvec::SmallVec;
use std::mem::MaybeUninit;

/// A way to bring many numbers down to one.
pub trait Fold: Copy + Send + Sync + 'static {
    /// What joins with anything to itself.
    const START: f64;
    /// `center` is a number that belongs to the output, such as a mean found before; 0 where the caller gives none.
    fn map<R: Real>(self, x: R, center: R) -> R;
    fn join<R: Real>(a: R, b: R) -> R;
    fn finish<R: Real>(self, total: R, center: R) -> R;
}

/// A type that folds compute in, and the wider type that holds totals.
pub trait Number: Compute {
    type Wide: Real + Send + Sync;
    type Stored: Compute;
    fn widen(self) -> Self::Wide;
    fn narrow(wide: Self::Wide) -> Self;
    fn to_stored(wide: Self::Wide) -> Self::Stored;
    fn from_stored(stored: Self::Stored) -> Self::Wide;
    fn dispatch<K: Kernel<Self, Out = ()>>(kernel: K);
}

macro_rules! number {
    ($t:ty, $wide:ty, $stored:ty, $wrap:expr, $unwrap:expr, $dispatch:expr) => {
        impl Number for $t {
            type Wide = $wide;
            type Stored = $stored;
            #[inline(always)]
            fn widen(self) -> $wide {
                $wrap(self as $stored)
            }
            #[inline(always)]
            fn narrow(wide: $wide) -> $t {
                $unwrap(wide) as $t
            }
            #[inline(always)]
            fn to_stored(wide: $wide) -> $stored {
                $unwrap(wide)
            }
            #[inline(always)]
            fn from_stored(stored: $stored) -> $wide {
                $wrap(stored)
            }
            fn dispatch<K: Kernel<$t, Out = ()>>(kernel: K) {
                $dispatch(kernel)
            }
        }
    };
}
number!(f32, f64, f64, |x| x, |x| x, dispatch_f32);
number!(f64, f64, f64, |x| x, |x| x, dispatch_f64);
number!(i64, Int, i64, Int, |x: Int| x.0, |kernel: K| kernel.run::<Int>());

/// Integers are lanes of one.
impl Lanes for Int {
    type Elem = i64;
    const WIDTH: usize = 1;

    #[inline(always)]
    fn mask_bits(mask: bool) -> u32 {
        mask as u32
    }

    #[inline(always)]
    fn bits_mask(bits: u32) -> bool {
        bits & 1 != 0
    }
    #[inline(always)]
    unsafe fn load(p: *const i64) -> Int {
        // SAFETY: the caller's promise.
        Int(unsafe { *p })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut i64) {
        // SAFETY: the caller's promise.
        unsafe { *p = self.0 }
    }
    #[inline(always)]
    unsafe fn load_first(_: *const i64, _: usize) -> Int {
        Int(0)
    }
    #[inline(always)]
    unsafe fn store_first(self, _: *mut i64, _: usize) {}
    #[inline(always)]
    fn splat(x: i64) -> Int {
        Int(x)
    }
    #[inline(always)]
    fn mul_add(self, a: Int, b: Int) -> Int {
        self * a + b
    }
    #[inline(always)]
    fn sum_lanes(self) -> i64 {
        self.0
    }
    #[inline(always)]
    fn max_lanes(self) -> i64 {
        self.0
    }
    #[inline(always)]
    fn min_lanes(self) -> i64 {
        self.0
    }
}

/// Columns that are folded together, in a state on the stack.
const TILE: usize = 256;
/// Rows, or vectors of a row, that are joined in the element's type before the total takes them.
const GROUP: usize = 8;
/// Steps of a lane before the total takes it: bounds the rounding error of long rows.
const STEPS: usize = 16;
/// No lanes are wider.
const MOST_LANES: usize = 16;
/// Elements of a row that are converted or gathered at a time: one block of the widest lanes.
const BUFFER: usize = STEPS * GROUP * MOST_LANES;

#[derive(Clone, Copy, Debug)]
struct Axis {
    size: usize,
    x: isize,
    y: isize,
}

/// The loops of one fold, outermost axis first.
#[derive(Debug)]
pub struct Plan {
    kept: SmallVec<[Axis; 6]>,
    reduced: SmallVec<[Axis; 6]>,
    columns: bool,
    outputs: usize,
    elements: usize,
    /// Pieces that the first reduced axis is cut into.
    splits: usize,
    /// Reduced neighbours are one axis in memory.
    chained: bool,
}

impl Plan {
    /// How the flagged axes of a tensor of this layout are folded.
    pub fn of(x: &Layout, flags: &[bool]) -> Plan {
        let shape = x.shape();
        let kept_sizes: SmallVec<[usize; 6]> = shape.iter().zip(flags).filter(|(_, f)| !**f).map(|(&d, _)| d).collect();
        let mut y_strides = contiguous_strides(&kept_sizes).into_iter();
        let mut axes: SmallVec<[(bool, Axis); 6]> = SmallVec::new();
        for ((&size, &stride), &flag) in shape.iter().zip(x.strides()).zip(flags) {
            let y = if flag { 0 } else { y_strides.next().unwrap_or(0) };
            axes.push((flag, Axis { size, x: stride, y }));
        }
        if channels_last(x) {
            axes[1..].rotate_left(1);
        }
        axes.retain(|(_, axis)| axis.size != 1);
        let columns = axes.last().is_some_and(|(flag, _)| !flag);
        let (mut kept, mut reduced): (SmallVec<[Axis; 6]>, SmallVec<[Axis; 6]>) = Default::default();
        let (mut before, mut chained) = (None, true);
        for (flag, axis) in axes {
            let list = if flag { &mut reduced } else { &mut kept };
            match list.last_mut() {
                Some(last) if before == Some(flag) && last.leads_to(&axis) => {
                    *last = Axis { size: last.size * axis.size, ..axis };
                }
                _ => {
                    // Reduced neighbours in pieces would be joined in another order.
                    chained &= !(flag && before == Some(true));
                    list.push(axis);
                }
            }
            before = Some(flag);
        }
        if reduced.is_empty() {
            reduced.push(Axis { size: 1, x: 0, y: 0 });
        }
        // The longest axis outside the inner loop comes first, so that cutting it pays.
        let last = reduced.len() - 1;
        if let Some(longest) = (0..last).max_by_key(|&i| reduced[i].size) {
            reduced[..=longest].rotate_right(1);
        }
        let outputs: usize = kept_sizes.iter().product();
        let elements: usize = reduced.iter().map(|a| a.size).product();
        let splits = splits(outputs, elements, columns).min(reduced[0].size).max(1);
        // Without elements there is nothing to join.
        let chained = chained || outputs == 0 || elements == 0;
        Plan { kept, reduced, columns, outputs, elements, splits, chained }
    }

    /// True when the tensor can be folded where it lies; others are copied first.
    pub fn fits(&self) -> bool {
        self.chained
    }

    /// How many totals of [`Number::Stored`] type `fold` wants as scratch.
    pub fn partials(&self) -> usize {
        if self.splits > 1 { self.splits * self.outputs } else { 0 }
    }

    /// Pieces of output that are folded on their own: one element, or one tile of columns.
    fn units(&self) -> usize {
        match self.kept.last() {
            Some(last) if self.columns && last.size > 0 => self.outputs / last.size * last.size.div_ceil(TILE),
            _ => self.outputs,
        }
    }
}

impl Axis {
    /// True when the two are one axis in memory.
    fn leads_to(&self, next: &Axis) -> bool {
        self.x == next.x * next.size as isize && self.y == next.y * next.size as isize
    }
}

/// Images with their channels fastest; a matrix of rows cannot be told from its transpose, so those stay in order.
fn channels_last(x: &Layout) -> bool {
    x.rank() >= 4 && !x.is_contiguous() && x.is_channels_last()
}

/// Pieces to cut the reduction into, where there are too few outputs to share.
fn splits(outputs: usize, elements: usize, columns: bool) -> usize {
    const ENOUGH_UNITS: usize = 32;
    const ELEMENTS_IN_A_SPLIT: usize = 64 * 1024;
    let units = if columns { outputs.div_ceil(TILE) } else { outputs };
    if units == 0 || units >= ENOUGH_UNITS {
        return 1;
    }
    (outputs * elements / ELEMENTS_IN_A_SPLIT).min(2 * ENOUGH_UNITS.div_ceil(units))
}

/// Folds `x` into the contiguous `y` by the plan for its layout. `center`, one number an output, is contiguous as well.
/// `scratch` holds [`Plan::partials`] totals.
pub fn fold<E: Number, F: Fold>(
    fold: F,
    plan: &Plan,
    x: &View,
    center: Option<&View>,
    y: &View,
    scratch: &mut [E::Stored],
) {
    assert!(plan.chained, "bug: a fold over a layout that it does not take");
    assert!(y.layout.is_contiguous() && y.numel() == plan.outputs, "bug: a fold into an output of the wrong size");
    assert!(
        center.is_none_or(|c| c.layout.is_contiguous() && c.numel() == plan.outputs),
        "bug: a center of the wrong size"
    );
    let splits = plan.splits;
    assert!(splits == 1 || scratch.len() >= splits * plan.outputs, "bug: a fold without its scratch");
    let units = plan.units();
    if units == 0 {
        return;
    }
    let per_unit = (plan.elements / splits) as f64 * (plan.outputs / units) as f64;
    let step = pool::chunk_rows(units, per_unit * 0.2 + 10.0);
    let chunks = units.div_ceil(step);
    let shared = Parts::new(&mut *scratch);
    pool::run(chunks * splits, &|i| {
        let (split, chunk) = (i / chunks, i % chunks);
        let partials = if splits > 1 { Some(&shared) } else { None };
        let (first, last) = (chunk * step, (chunk * step + step).min(units));
        E::dispatch(Job { fold, plan, x, center, y, split, first, last, partials });
    });
    if splits > 1 {
        finish::<E, F>(fold, plan, center, y, scratch);
    }
}

/// Joins the pieces of each output in their order.
fn finish<E: Number, F: Fold>(fold: F, plan: &Plan, center: Option<&View>, y: &View, partials: &[E::Stored]) {
    for output in 0..plan.outputs {
        let mut total = E::Wide::lit(F::START);
        for split in 0..plan.splits {
            total = F::join(total, E::from_stored(partials[split * plan.outputs + output]));
        }
        let mut middle = [E::default()];
        // SAFETY: one element of `center` and of `y`, both contiguous with `outputs` elements.
        unsafe {
            if let Some(c) = center {
                E::gather(c.bytes_ptr().add(output * c.dtype.bytes()), c.dtype, 0, middle.as_mut_ptr(), 1);
            }
            let result = E::to_stored(fold.finish(total, middle[0].widen()));
            E::Stored::scatter(&result, y.bytes_ptr().add(output * y.dtype.bytes()), y.dtype, 0, 1);
        }
    }
}

struct Job<'a, F, E: Number> {
    fold: F,
    plan: &'a Plan,
    x: &'a View<'a>,
    center: Option<&'a View<'a>>,
    y: &'a View<'a>,
    split: usize,
    first: usize,
    last: usize,
    partials: Option<&'a Parts<'a, E::Stored>>,
}

/// Steps an index over axes, innermost fastest; `false` after the last.
#[inline(always)]
fn advance(index: &mut [usize], axes: &[Axis]) -> bool {
    for i in (0..index.len()).rev() {
        index[i] += 1;
        if index[i] < axes[i].size {
            return true;
        }
        index[i] = 0;
    }
    false
}

impl<F: Fold, E: Number> Kernel<E> for Job<'_, F, E> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes<Elem = E>>(self) {
        let mut reduced = self.plan.reduced.clone();
        let size = reduced[0].size;
        let (begin, end) = (size * self.split / self.plan.splits, size * (self.split + 1) / self.plan.splits);
        reduced[0].size = end - begin;
        let start = begin as isize * reduced[0].x;
        let empty = reduced.iter().any(|a| a.size == 0);
        // SAFETY: the plan covers the view, and a job its own units.
        unsafe {
            if self.plan.columns {
                self.columns::<L>(&reduced, start, empty);
            } else {
                self.rows::<L>(&reduced, start, empty);
            }
        }
    }
}

impl<F: Fold, E: Number> Job<'_, F, E> {
    #[inline(always)]
    fn x_at(&self, offset: isize) -> *const u8 {
        self.x.bytes_ptr().wrapping_offset(offset * self.x.dtype.bytes() as isize)
    }

    /// Centers of `n` outputs, `step` apart.
    #[inline(always)]
    unsafe fn centers(&self, at: isize, step: isize, n: usize, to: *mut E) {
        if let Some(c) = self.center {
            let from = c.bytes_ptr().wrapping_offset(at * c.dtype.bytes() as isize);
            // SAFETY: the outputs lie within the center, which has one number for each.
            unsafe { E::gather(from, c.dtype, step, to, n) }
        }
    }

    /// Hands `n` totals over, `step` outputs apart.
    #[inline(always)]
    unsafe fn deliver(&self, at: isize, step: isize, n: usize, totals: &[E::Wide], centers: &[E]) {
        // SAFETY: the outputs lie within `y`, or within this split's partials.
        unsafe {
            if let Some(partials) = self.partials {
                for (i, total) in totals.iter().enumerate().take(n) {
                    let output = (at + i as isize * step) as usize;
                    partials.part(self.split * self.plan.outputs + output, 1)[0] = E::to_stored(*total);
                }
                return;
            }
            let mut stored = [E::Stored::default(); TILE];
            for i in 0..n {
                stored[i] = E::to_stored(self.fold.finish(totals[i], centers[i].widen()));
            }
            let to = self.y.bytes_ptr().offset(at * self.y.dtype.bytes() as isize);
            E::Stored::scatter(stored.as_ptr(), to, self.y.dtype, step, n);
        }
    }

    #[inline(always)]
    unsafe fn rows<L: Lanes<Elem = E>>(&self, reduced: &[Axis], start: isize, empty: bool) {
        let kept = &self.plan.kept;
        let mut index: SmallVec<[usize; 6]> = SmallVec::from_elem(0, kept.len());
        let mut rest = self.first;
        for i in (0..kept.len()).rev() {
            index[i] = rest % kept[i].size;
            rest /= kept[i].size;
        }
        let (outer, inner) = (&reduced[..reduced.len() - 1], reduced[reduced.len() - 1]);
        let mut walk: SmallVec<[usize; 6]> = SmallVec::from_elem(0, outer.len());
        let direct = self.x.dtype == E::DTYPE && (inner.x == 1 || inner.size == 1);
        // Not cleared: that would cost a small fold more than its arithmetic.
        let mut buffer = [const { MaybeUninit::<E>::uninit() }; BUFFER];
        for _ in self.first..self.last {
            let (x, y) =
                index.iter().zip(kept).fold((start, 0), |(x, y), (&i, a)| (x + i as isize * a.x, y + i as isize * a.y));
            let mut center = [E::default()];
            // SAFETY: one center, for this output.
            unsafe { self.centers(y, 0, 1, center.as_mut_ptr()) };
            let mut total = E::Wide::lit(F::START);
            let mut more = !empty;
            while more {
                let offset = walk.iter().zip(outer).fold(x, |x, (&i, a)| x + i as isize * a.x);
                // SAFETY: `inner.size` elements from here, inner.x apart, all inside the view.
                unsafe {
                    if direct {
                        total = row::<F, L>(self.fold, self.x_at(offset).cast(), inner.size, center[0], total);
                    } else {
                        let mut done = 0;
                        while done < inner.size {
                            let n = (STEPS * GROUP * L::WIDTH).min(inner.size - done);
                            E::gather(
                                self.x_at(offset + done as isize * inner.x),
                                self.x.dtype,
                                inner.x,
                                buffer.as_mut_ptr().cast(),
                                n,
                            );
                            total = row::<F, L>(self.fold, buffer.as_ptr().cast(), n, center[0], total);
                            done += n;
                        }
                    }
                }
                more = advance(&mut walk, outer);
            }
            // SAFETY: this job's own output.
            unsafe { self.deliver(y, 0, 1, &[total], &center) };
            advance(&mut index, kept);
        }
    }

    #[inline(always)]
    unsafe fn columns<L: Lanes<Elem = E>>(&self, reduced: &[Axis], start: isize, empty: bool) {
        let (kept, column) = (&self.plan.kept[..self.plan.kept.len() - 1], self.plan.kept[self.plan.kept.len() - 1]);
        let tiles = column.size.div_ceil(TILE);
        let (outer, inner) = (&reduced[..reduced.len() - 1], reduced[reduced.len() - 1]);
        let mut walk: SmallVec<[usize; 6]> = SmallVec::from_elem(0, outer.len());
        let direct = self.x.dtype == E::DTYPE && (column.x == 1 || column.size == 1);
        let mut buffer = [const { [const { MaybeUninit::<E>::uninit() }; TILE] }; GROUP];
        for unit in self.first..self.last {
            let (mut rest, from) = (unit / tiles, unit % tiles * TILE);
            let width = TILE.min(column.size - from);
            let (mut x, mut y) = (start + from as isize * column.x, from as isize * column.y);
            for axis in kept.iter().rev() {
                x += (rest % axis.size) as isize * axis.x;
                y += (rest % axis.size) as isize * axis.y;
                rest /= axis.size;
            }
            let mut centers = [E::default(); TILE];
            // SAFETY: the centers of this job's outputs.
            unsafe { self.centers(y, column.y, width, centers.as_mut_ptr()) };
            let mut totals = [E::Wide::lit(F::START); TILE];
            let mut more = !empty;
            while more {
                let offset = walk.iter().zip(outer).fold(x, |x, (&i, a)| x + i as isize * a.x);
                let mut done = 0;
                while done < inner.size {
                    let n = GROUP.min(inner.size - done);
                    let mut group = [std::ptr::null(); GROUP];
                    for (i, slot) in group.iter_mut().enumerate().take(n) {
                        let from = self.x_at(offset + (done + i) as isize * inner.x);
                        *slot = if direct {
                            from.cast()
                        } else {
                            // SAFETY: `width` elements of this row.
                            unsafe { E::gather(from, self.x.dtype, column.x, buffer[i].as_mut_ptr().cast(), width) };
                            buffer[i].as_ptr().cast()
                        };
                    }
                    // SAFETY: `n` rows of `width` elements.
                    unsafe { join_rows::<F, L>(self.fold, &group[..n], width, &centers, &mut totals) };
                    done += n;
                }
                more = advance(&mut walk, outer);
            }
            // SAFETY: this job's own outputs.
            unsafe { self.deliver(y, column.y, width, &totals, &centers) };
        }
    }
}

/// The lanes' places, as numbers.
#[inline(always)]
fn places<L: Lanes>() -> L
where
    L::Elem: Compute,
{
    let mut places = [L::Elem::default(); MOST_LANES];
    for (i, place) in places.iter_mut().enumerate().take(L::WIDTH) {
        *place = L::Elem::from_f64(i as f64);
    }
    // SAFETY: WIDTH ≤ MOST_LANES elements.
    unsafe { L::load(places.as_ptr()) }
}

/// Joins `n` elements of a row to a total.
///
/// # Safety
/// `x` is valid for reads of `n` elements.
#[inline(always)]
unsafe fn row<F: Fold, L: Lanes<Elem: Number>>(
    fold: F,
    x: *const L::Elem,
    n: usize,
    center: L::Elem,
    total: <L::Elem as Number>::Wide,
) -> <L::Elem as Number>::Wide {
    let (start, center) = (L::lit(F::START), L::splat(center));
    let (mut total, mut i) = (total, 0);
    while i < n {
        let end = n.min(i + STEPS * GROUP * L::WIDTH);
        let mut lanes = [start; GROUP];
        // SAFETY: i + WIDTH ≤ n for whole vectors, and n - i < WIDTH elements for the rest.
        unsafe {
            while i + GROUP * L::WIDTH <= end {
                for (k, lane) in lanes.iter_mut().enumerate() {
                    *lane = F::join(*lane, fold.map(L::load(x.add(i + k * L::WIDTH)), center));
                }
                i += GROUP * L::WIDTH;
            }
            while i + L::WIDTH <= end {
                lanes[0] = F::join(lanes[0], fold.map(L::load(x.add(i)), center));
                i += L::WIDTH;
            }
            if i < end {
                let inside = places::<L>().lt(L::lit((end - i) as f64));
                let mapped = fold.map(L::load_first(x.add(i), end - i), center);
                lanes[1] = F::join(lanes[1], L::select(inside, mapped, start));
                i = end;
            }
        }
        total = F::join(total, across::<F, L>(lanes));
    }
    total
}

/// All lanes as one number, by halving.
#[inline(always)]
fn across<F: Fold, L: Lanes<Elem: Number>>(lanes: [L; GROUP]) -> <L::Elem as Number>::Wide {
    let [a, b, c, d, e, f, g, h] = lanes;
    let (left, right) = (F::join(F::join(a, b), F::join(c, d)), F::join(F::join(e, f), F::join(g, h)));
    let mut narrow = [L::Elem::default(); MOST_LANES];
    // SAFETY: WIDTH ≤ MOST_LANES elements.
    unsafe { F::join(left, right).store(narrow.as_mut_ptr()) };
    let mut wide = [<L::Elem as Number>::Wide::lit(0.0); MOST_LANES];
    for i in 0..L::WIDTH {
        wide[i] = narrow[i].widen();
    }
    let mut half = L::WIDTH / 2;
    while half > 0 {
        for i in 0..half {
            wide[i] = F::join(wide[i], wide[i + half]);
        }
        half /= 2;
    }
    wide[0]
}

/// # Safety
/// `p` is valid for reads of `n` ≤ WIDTH elements.
#[inline(always)]
unsafe fn load_some<L: Lanes>(p: *const L::Elem, n: usize) -> L {
    // SAFETY: the caller's promise.
    unsafe { if n == L::WIDTH { L::load(p) } else { L::load_first(p, n) } }
}

/// Joins up to GROUP rows, element by element, to the totals of `width` columns.
///
/// # Safety
/// Each row is valid for reads of `width` ≤ TILE elements.
#[inline(always)]
unsafe fn join_rows<F: Fold, L: Lanes<Elem: Number>>(
    fold: F,
    rows: &[*const L::Elem],
    width: usize,
    centers: &[L::Elem; TILE],
    totals: &mut [<L::Elem as Number>::Wide; TILE],
) {
    let mut narrow = [L::Elem::default(); MOST_LANES];
    let mut column = 0;
    while column < width {
        let n = L::WIDTH.min(width - column);
        // SAFETY: column + n ≤ width; TILE is a multiple of WIDTH, so the centers can be read whole.
        unsafe {
            let center = L::load(centers.as_ptr().add(column));
            let mut joined = fold.map(load_some::<L>(rows[0].add(column), n), center);
            for &row in &rows[1..] {
                joined = F::join(joined, fold.map(load_some::<L>(row.add(column), n), center));
            }
            joined.store(narrow.as_mut_ptr());
        }
        for i in 0..n {
            totals[column + i] = F::join(totals[column + i], narrow[i].widen());
        }
        column += n;
    }
}
