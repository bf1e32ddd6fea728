//! Recurrent layers: the steps of one layer in one direction, and the way back through them.
//!
//! The inputs' share of all steps is one product, made by the caller; here is what must be done step by step: the product
//! with the state before, on a weight that is packed once, and the cell, while the product is still in the cache. A step
//! is one job of the pool; its pieces are blocks of hidden units and of samples, a function of the shape alone.
//!
//! Leaves out the plain RNN, which is composed, and the gradients of weights and inputs: one product each, of the
//! caller.

use super::gemm::pack::Panels;
use super::gemm::tile::{Ahead, Bias, Element, Tile, prefetch};
use super::pool;
use super::simd::{Kernel, Lanes};
use crate::real::Real;
use std::ops::Range;

/// The formulas of a cell for one hidden unit of one sample.
pub trait Cell: Copy + Send + Sync + 'static {
    const GATES: usize;
    /// The last gate has the input's share and the state's apart, so that their gradients differ.
    const APART: bool;
    /// What is carried back from step to step belongs to h; elsewhere it belongs to c.
    const CARRIES_H: bool;

    /// From the shares of input and state in each gate, and the state before: the gates, what is kept, and h.
    fn forward<R: Real>(input: [R; 4], state: [R; 4], h: R, c: R) -> ([R; 4], R, R);

    /// From the gates, what was kept, the state before and the gradients of h and of what is carried: the gradients of
    /// the sums in each gate, that of the state's share of the last gate, and what is carried on.
    fn backward<R: Real>(gates: [R; 4], kept: R, h: R, c: R, dh: R, carried: R) -> ([R; 4], R, R);
}

/// i, f, g, o; keeps c.   Hochreiter & Schmidhuber 1997
#[derive(Clone, Copy, Debug)]
pub struct Lstm;

impl Cell for Lstm {
    const GATES: usize = 4;
    const APART: bool = false;
    const CARRIES_H: bool = false;

    #[inline(always)]
    fn forward<R: Real>(input: [R; 4], state: [R; 4], _h: R, c: R) -> ([R; 4], R, R) {
        let (i, f) = ((input[0] + state[0]).sigmoid(), (input[1] + state[1]).sigmoid());
        let (g, o) = ((input[2] + state[2]).tanh(), (input[3] + state[3]).sigmoid());
        let c = f * c + i * g;
        ([i, f, g, o], c, o * c.tanh())
    }

    #[inline(always)]
    fn backward<R: Real>([i, f, g, o]: [R; 4], kept: R, _h: R, c: R, dh: R, dc: R) -> ([R; 4], R, R) {
        let t = kept.tanh();
        let dc = dc + dh * o * (-(t * t) + 1.0);
        let sums =
            [dc * g * i * (-i + 1.0), dc * c * f * (-f + 1.0), dc * i * (-(g * g) + 1.0), dh * t * o * (-o + 1.0)];
        (sums, R::lit(0.0), dc * f)
    }
}

/// r, z, n; keeps the state's share of n.   Cho et al. 2014, arXiv:1406.1078
#[derive(Clone, Copy, Debug)]
pub struct Gru;

impl Cell for Gru {
    const GATES: usize = 3;
    const APART: bool = true;
    const CARRIES_H: bool = true;

    #[inline(always)]
    fn forward<R: Real>(input: [R; 4], state: [R; 4], h: R, _c: R) -> ([R; 4], R, R) {
        let (r, z) = ((input[0] + state[0]).sigmoid(), (input[1] + state[1]).sigmoid());
        let n = (input[2] + r * state[2]).tanh();
        ([r, z, n, n], state[2], n + z * (h - n))
    }

    #[inline(always)]
    fn backward<R: Real>([r, z, n, _]: [R; 4], kept: R, h: R, _c: R, dh: R, _carried: R) -> ([R; 4], R, R) {
        let dz = dh * (h - n) * z * (-z + 1.0);
        let dn = dh * (-z + 1.0) * (-(n * n) + 1.0);
        ([dn * kept * r * (-r + 1.0), dz, dn, dn], dn * r, dh * z)
    }
}

/// Of one layer in one direction; with `reverse` the steps run from the last to the first.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub steps: usize,
    pub batch: usize,
    pub hidden: usize,
    pub reverse: bool,
}

/// All contiguous: `w_hh` [gates·hidden, hidden], `b_hh` [gates·hidden], `h0` [batch, hidden]; `c0` as h0, or empty for a
/// cell without it.
#[derive(Clone, Copy)]
pub struct Weights<'a, T> {
    pub w_hh: &'a [T],
    pub b_hh: Option<&'a [T]>,
    pub h0: &'a [T],
    pub c0: &'a [T],
}

/// `gates` [steps, batch, gates·hidden] holds the inputs' share before and the gates behind; `kept` and `y` [steps, batch,
/// hidden] are written.
pub struct ForwardData<'a, T> {
    pub gates: &'a mut [T],
    pub kept: &'a mut [T],
    pub y: &'a mut [T],
}

/// What the way there left, the gradients of y [steps, batch, hidden] and of the last h [batch, hidden]; written are those
/// of the sums in the gates [steps, batch, gates·hidden], of the state's share of them where it is [`Cell::APART`] (empty
/// elsewhere), and of the first h. `carried` holds the gradient of the last c before and that of the first c behind.
pub struct BackwardData<'a, T> {
    pub gates: &'a [T],
    pub kept: &'a [T],
    pub y: &'a [T],
    pub dy: &'a [T],
    pub dh_n: &'a [T],
    pub d_gates: &'a mut [T],
    pub d_apart: &'a mut [T],
    pub dh0: &'a mut [T],
    pub carried: &'a mut [T],
}

/// Samples in a piece of a step: whole tiles at every level, and a product that stays in the first cache.
const ROWS: usize = 48;

impl Sizes {
    /// The place in time of step `s`.
    fn time(&self, s: usize) -> usize {
        if self.reverse { self.steps - 1 - s } else { s }
    }

    fn panels<T: Element>(&self) -> usize {
        self.hidden.div_ceil(T::tile_shape().columns)
    }

    fn rows(&self) -> usize {
        self.batch.min(ROWS)
    }

    fn packed<T: Element>(&self, gates: usize) -> usize {
        self.panels::<T>() * gates * self.hidden * T::tile_shape().columns
    }

    fn slot<T: Element>(&self, gates: usize) -> usize {
        self.rows() * gates * T::tile_shape().columns
    }

    /// Elements of scratch memory for [`forward`]. Grows with the number of threads.
    pub fn forward_workspace<C: Cell, T: Element>(&self) -> usize {
        self.packed::<T>(C::GATES) + pool::threads() * self.slot::<T>(C::GATES)
    }

    /// Elements of scratch memory for [`backward`]. Grows with the number of threads.
    pub fn backward_workspace<C: Cell, T: Element>(&self) -> usize {
        self.packed::<T>(C::GATES) + pool::threads() * self.slot::<T>(1)
    }

    /// Calls `work` with the samples, the panel of hidden units and the slot of each piece of a step.
    fn each_piece<T: Element>(&self, gates: usize, slots: usize, work: impl Fn(Range<usize>, usize, usize) + Sync) {
        let (blocks, panels) = (self.batch.div_ceil(ROWS), self.panels::<T>());
        let (pieces, columns) = (blocks * panels, T::tile_shape().columns);
        let nanos = (self.rows() * gates * columns) as f64 * (self.hidden as f64 / 40.0 + 1.0);
        let group = pool::chunk_rows(pieces, nanos);
        pool::run_with_slots(pieces.div_ceil(group), slots, &|chunk, slot| {
            for piece in chunk * group..pieces.min((chunk + 1) * group) {
                let (block, panel) = (piece % blocks, piece / blocks);
                work(block * ROWS..self.batch.min((block + 1) * ROWS), panel, slot);
            }
        });
    }
}

/// Memory that the pieces of a job write disjoint parts of.
#[derive(Clone, Copy)]
struct Shared<T>(*mut T);
// SAFETY: a piece has samples and hidden units, and a slot, of its own.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    fn of(memory: &mut [T]) -> Shared<T> {
        Shared(memory.as_mut_ptr())
    }

    #[inline(always)]
    fn at(&self, offset: usize) -> *mut T {
        self.0.wrapping_add(offset)
    }
}

/// Runs the steps.
pub fn forward<C: Cell, T: Element>(sizes: Sizes, weights: Weights<T>, data: ForwardData<T>, workspace: &mut [T]) {
    let Sizes { steps, batch, hidden, .. } = sizes;
    let (state, columns) = (batch * hidden, T::tile_shape().columns);
    let Weights { w_hh, b_hh, h0, c0 } = weights;
    assert!(
        w_hh.len() == C::GATES * hidden * hidden && h0.len() == state && (C::CARRIES_H || c0.len() == state),
        "bug: recurrent weights or states of other sizes"
    );
    assert!(
        data.gates.len() == steps * state * C::GATES
            && data.kept.len() == steps * state
            && data.y.len() == steps * state
            && workspace.len() >= sizes.forward_workspace::<C, T>(),
        "bug: recurrent results of other sizes"
    );
    if state == 0 {
        return;
    }
    let (packed, scratch) = workspace.split_at_mut(sizes.packed::<T>(C::GATES));
    let panel = C::GATES * hidden * columns;
    pack_panels(packed, panel, |panel, to| {
        for gate in 0..C::GATES {
            let lines = columns.min(hidden - panel * columns);
            let from = w_hh[(gate * hidden + panel * columns) * hidden..].as_ptr();
            let to = to[gate * hidden * columns..].as_mut_ptr();
            let (line_stride, depth_stride) = (hidden as isize, 1);
            let panel =
                Panels { from, line_stride, depth_stride, lines, each: columns, depth: hidden, to, width: columns };
            // SAFETY: `lines` rows of the weight, and as many panels as gates.
            unsafe { panel.pack() };
        }
    });
    let (slots, slot_size) = (pool::threads(), sizes.slot::<T>(C::GATES));
    let scratch = Shared::of(scratch);
    let (gates, kept, y) = (Shared::of(data.gates), Shared::of(data.kept), Shared::of(data.y));
    for s in 0..steps {
        let t = sizes.time(s);
        let (h, c) = match s {
            0 => (h0.as_ptr(), c0.as_ptr()),
            _ => {
                let before = sizes.time(s - 1) * state;
                (y.at(before).cast_const(), kept.at(before).cast_const())
            }
        };
        let (h, c) = (Shared(h.cast_mut()), Shared(c.cast_mut()));
        sizes.each_piece::<T>(C::GATES, slots, |rows, panel_at, slot| {
            let (first, units) = (panel_at * columns, columns.min(hidden - panel_at * columns));
            let product = scratch.at(slot * slot_size);
            for gate in 0..C::GATES {
                let sums = gates.at(t * state * C::GATES + gate * hidden + first);
                ask_for(sums, C::GATES * hidden, &rows, units);
            }
            // SAFETY: the sizes were checked; the piece's samples and units are its own, and so is the slot.
            unsafe {
                for gate in 0..C::GATES {
                    Step {
                        a: h.at(rows.start * hidden),
                        a_stride: hidden,
                        depth: hidden,
                        b: packed[panel_at * panel + gate * hidden * columns..].as_ptr(),
                        bias: b_hh.map(|b| b[gate * hidden + first..].as_ptr()),
                        c: product.add(gate * columns),
                        c_stride: C::GATES * columns,
                    }
                    .run(rows.len(), units);
                }
                T::dispatch(ForwardPiece::<C, T> {
                    rows,
                    first,
                    units,
                    hidden,
                    product,
                    gates: gates.at(t * state * C::GATES),
                    kept: kept.at(t * state),
                    y: y.at(t * state),
                    h: h.at(0),
                    c: c.at(0),
                    cell: std::marker::PhantomData,
                });
            }
        });
    }
}

/// Runs the way back.
pub fn backward<C: Cell, T: Element>(sizes: Sizes, weights: Weights<T>, data: BackwardData<T>, workspace: &mut [T]) {
    let Sizes { steps, batch, hidden, .. } = sizes;
    let (state, columns, depth) = (batch * hidden, T::tile_shape().columns, C::GATES * hidden);
    let Weights { w_hh, h0, c0, .. } = weights;
    let BackwardData { gates, kept, y, dy, dh_n, d_gates, d_apart, dh0, carried } = data;
    assert!(
        w_hh.len() == depth * hidden && h0.len() == state && (C::CARRIES_H || c0.len() == state),
        "bug: recurrent weights or states of other sizes"
    );
    assert!(
        [kept.len(), y.len(), dy.len()] == [steps * state; 3]
            && [gates.len(), d_gates.len()] == [steps * state * C::GATES; 2]
            && d_apart.len() == if C::APART { d_gates.len() } else { 0 }
            && [dh_n.len(), dh0.len(), carried.len()] == [state; 3]
            && workspace.len() >= sizes.backward_workspace::<C, T>(),
        "bug: recurrent gradients of other sizes"
    );
    if state == 0 {
        return;
    }
    if C::CARRIES_H {
        carried.fill(T::ZERO);
    }
    let (packed, scratch) = workspace.split_at_mut(sizes.packed::<T>(C::GATES));
    pack_panels(packed, depth * columns, |panel, to| {
        let (lines, from) = (columns.min(hidden - panel * columns), w_hh[panel * columns..].as_ptr());
        let (line_stride, depth_stride, to) = (1, hidden as isize, to.as_mut_ptr());
        let panel = Panels { from, line_stride, depth_stride, lines, each: columns, depth, to, width: columns };
        // SAFETY: `lines` columns of the weight, and a whole panel.
        unsafe { panel.pack() };
    });
    let (slots, slot_size) = (pool::threads(), sizes.slot::<T>(1));
    let (scratch, carried, dh0) = (Shared::of(scratch), Shared::of(carried), Shared::of(dh0));
    let (d_gates, d_apart) = (Shared::of(d_gates), Shared::of(d_apart));
    let by_state = if C::APART { d_apart } else { d_gates };
    // Stage s runs the cell of step s - 1; the last, stage 0, leaves the gradient of the first h.
    for s in (0..=steps).rev() {
        let behind = (s < steps).then(|| sizes.time(s) * state * C::GATES);
        let now = s.checked_sub(1).map(|s| sizes.time(s) * state);
        let (h, c) = match s {
            0 | 1 => (h0, c0),
            _ => (&y[sizes.time(s - 2) * state..], &kept[sizes.time(s - 2) * state..]),
        };
        sizes.each_piece::<T>(C::GATES, slots, |rows, panel, slot| {
            let (first, units) = (panel * columns, columns.min(hidden - panel * columns));
            let dh = scratch.at(slot * slot_size);
            if let Some(now) = now {
                for gate in 0..C::GATES {
                    let at = now * C::GATES + gate * hidden + first;
                    ask_for(gates[at..].as_ptr(), C::GATES * hidden, &rows, units);
                    ask_for(d_gates.at(at), C::GATES * hidden, &rows, units);
                }
                for read in [kept, dy] {
                    ask_for(read[now + first..].as_ptr(), hidden, &rows, units);
                }
            }
            // SAFETY: the sizes were checked; the piece's samples and units are its own, and so is the slot. The
            // gradients read by the product were written in the stage before.
            unsafe {
                match behind {
                    None => {
                        for (i, row) in rows.clone().enumerate() {
                            let from = dh_n[row * hidden + first..][..units].as_ptr();
                            from.copy_to_nonoverlapping(dh.add(i * columns), units);
                        }
                    }
                    Some(behind) => Step {
                        a: by_state.at(behind + rows.start * depth),
                        a_stride: depth,
                        depth,
                        b: packed[panel * depth * columns..].as_ptr(),
                        bias: None,
                        c: dh,
                        c_stride: columns,
                    }
                    .run(rows.len(), units),
                }
                let Some(now) = now else {
                    for (i, row) in rows.enumerate() {
                        for j in 0..units {
                            let at = row * hidden + first + j;
                            let rest = if C::CARRIES_H { *carried.at(at) } else { T::ZERO };
                            *dh0.at(at) = *dh.add(i * columns + j) + rest;
                        }
                    }
                    return;
                };
                T::dispatch(BackwardPiece::<C, T> {
                    rows,
                    first,
                    units,
                    hidden,
                    dh,
                    dy: dy[now..].as_ptr(),
                    gates: gates[now * C::GATES..].as_ptr(),
                    kept: kept[now..].as_ptr(),
                    h: h.as_ptr(),
                    c: c.as_ptr(),
                    carried: carried.at(0),
                    d_gates: d_gates.at(now * C::GATES),
                    d_apart: d_apart.at(if C::APART { now * C::GATES } else { 0 }),
                    cell: std::marker::PhantomData,
                });
            }
        });
    }
}

fn pack_panels<T: Element>(packed: &mut [T], size: usize, pack: impl Fn(usize, &mut [T]) + Sync) {
    let count = packed.len() / size;
    let parts = super::parts::Parts::new(packed);
    let group = pool::chunk_rows(count, size as f64 * 0.3);
    pool::run(count.div_ceil(group), &|chunk| {
        for panel in chunk * group..count.min((chunk + 1) * group) {
            // SAFETY: each panel is packed once.
            pack(panel, unsafe { parts.part(panel * size, size) });
        }
    });
}

/// c = a · b (+ bias) for one packed panel b.
struct Step<T> {
    a: *const T,
    a_stride: usize,
    depth: usize,
    b: *const T,
    bias: Option<*const T>,
    c: *mut T,
    c_stride: usize,
}

impl<T: Element> Step<T> {
    unsafe fn run(&self, rows: usize, columns: usize) {
        let shape = T::tile_shape();
        let mut row = 0;
        // Tiles of nearly equal size: one of a few rows waits for its own sums.
        for left in (1..=rows.div_ceil(shape.rows)).rev() {
            let here = (rows - row).div_ceil(left);
            // SAFETY: the promise of the caller: whole matrices, and a panel of the tile's width.
            unsafe {
                T::tile(&Tile {
                    rows: here,
                    columns,
                    depth: self.depth,
                    runs: &[0],
                    a: self.a.add(row * self.a_stride),
                    a_row_stride: self.a_stride as isize,
                    a_depth_stride: 1,
                    b: self.b,
                    b_stride: shape.columns as isize,
                    c: self.c.add(row * self.c_stride),
                    c_stride: self.c_stride as isize,
                    alpha: T::ONE,
                    accumulate: false,
                    bias: self.bias.map_or(Bias::None, Bias::Columns),
                    ahead: Ahead::nothing(self.b),
                });
            }
            row += here;
        }
    }
}

/// Samples by which the cell asks again: those that came first have by then been pushed out to the second cache.
const AHEAD: usize = 2;

/// Asks for `columns` elements of each row, `stride` apart. The cell reads its samples far apart, at distances that no
/// prefetcher follows and that compete for one place in the cache; the product before it gives them time to arrive.
fn ask_for<T>(p: *const T, stride: usize, rows: &Range<usize>, columns: usize) {
    for row in rows.clone() {
        for j in (0..columns).step_by(64 / size_of::<T>()) {
            prefetch(p.wrapping_add(row * stride + j));
        }
    }
}

/// `n` lanes from memory, or all.
#[inline(always)]
unsafe fn load<L: Lanes>(p: *const L::Elem, n: usize) -> L {
    // SAFETY: the promise of the caller.
    unsafe { if n < L::WIDTH { L::load_first(p, n) } else { L::load(p) } }
}

#[inline(always)]
unsafe fn store<L: Lanes>(x: L, p: *mut L::Elem, n: usize) {
    // SAFETY: the promise of the caller.
    unsafe { if n < L::WIDTH { x.store_first(p, n) } else { x.store(p) } }
}

/// The cell on some samples and hidden units of one step; the pointers begin at the step.
struct ForwardPiece<C, T> {
    rows: Range<usize>,
    first: usize,
    units: usize,
    hidden: usize,
    product: *const T,
    gates: *mut T,
    kept: *mut T,
    y: *mut T,
    h: *const T,
    c: *const T,
    cell: std::marker::PhantomData<C>,
}

impl<C: Cell, T: Element> Kernel<T> for ForwardPiece<C, T> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes<Elem = T>>(self) {
        let columns = T::tile_shape().columns;
        for (i, row) in self.rows.clone().enumerate() {
            for j in (0..self.units).step_by(L::WIDTH) {
                let (n, at) = (self.units - j, row * self.hidden + self.first + j);
                let gates = self.gates.wrapping_add(row * C::GATES * self.hidden + self.first + j);
                for gate in 0..C::GATES {
                    prefetch(gates.wrapping_add((AHEAD * C::GATES + gate) * self.hidden));
                }
                let product = self.product.wrapping_add(i * C::GATES * columns + j);
                let mut input = [L::lit(0.0); 4];
                let mut state = input;
                // SAFETY: `n` units, or a register of them, in each tensor.
                unsafe {
                    for gate in 0..C::GATES {
                        input[gate] = load(gates.add(gate * self.hidden), n);
                        state[gate] = load(product.add(gate * columns), n);
                    }
                    let h = if C::CARRIES_H { load(self.h.add(at), n) } else { input[0] };
                    let c = if C::CARRIES_H { input[0] } else { load(self.c.add(at), n) };
                    let (active, kept, y) = C::forward::<L>(input, state, h, c);
                    for gate in 0..C::GATES {
                        store(active[gate], gates.add(gate * self.hidden), n);
                    }
                    store(kept, self.kept.add(at), n);
                    store(y, self.y.add(at), n);
                }
            }
        }
    }
}

/// As [`ForwardPiece`], for the way back.
struct BackwardPiece<C, T> {
    rows: Range<usize>,
    first: usize,
    units: usize,
    hidden: usize,
    dh: *const T,
    dy: *const T,
    gates: *const T,
    kept: *const T,
    h: *const T,
    c: *const T,
    carried: *mut T,
    d_gates: *mut T,
    d_apart: *mut T,
    cell: std::marker::PhantomData<C>,
}

impl<C: Cell, T: Element> Kernel<T> for BackwardPiece<C, T> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes<Elem = T>>(self) {
        let columns = T::tile_shape().columns;
        for (i, row) in self.rows.clone().enumerate() {
            for j in (0..self.units).step_by(L::WIDTH) {
                let (n, at) = (self.units - j, row * self.hidden + self.first + j);
                let wide = row * C::GATES * self.hidden + self.first + j;
                for gate in 0..C::GATES {
                    let ahead = wide + (AHEAD * C::GATES + gate) * self.hidden;
                    prefetch(self.gates.wrapping_add(ahead));
                    prefetch(self.d_gates.wrapping_add(ahead));
                }
                let mut gates = [L::lit(0.0); 4];
                // SAFETY: `n` units, or a register of them, in each tensor.
                unsafe {
                    for (gate, value) in gates.iter_mut().enumerate().take(C::GATES) {
                        *value = load(self.gates.add(wide + gate * self.hidden), n);
                    }
                    let carried: L = load(self.carried.add(at), n);
                    let mut dh: L = load(self.dh.add(i * columns + j), n);
                    dh = dh + load::<L>(self.dy.add(at), n);
                    if C::CARRIES_H {
                        dh = dh + carried;
                    }
                    let kept = load(self.kept.add(at), n);
                    let h = if C::CARRIES_H { load(self.h.add(at), n) } else { dh };
                    let c = if C::CARRIES_H { dh } else { load(self.c.add(at), n) };
                    let (sums, apart, carried) = C::backward::<L>(gates, kept, h, c, dh, carried);
                    store(carried, self.carried.add(at), n);
                    for gate in 0..C::GATES {
                        store(sums[gate], self.d_gates.add(wide + gate * self.hidden), n);
                        if C::APART {
                            let own = if gate + 1 == C::GATES { apart } else { sums[gate] };
                            store(own, self.d_apart.add(wide + gate * self.hidden), n);
                        }
                    }
                }
            }
        }
    }
}
