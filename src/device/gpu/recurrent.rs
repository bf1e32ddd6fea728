//! LSTM and GRU in float32. Layers of up to 256 units take all steps in one kernel (`Steps`); wider ones a kernel a step
//! (`Step`): a product with the state, and the cell on its sums.

use super::Gpu;
use super::kernel::{Grid, Kernel, index, params};
use super::pointwise::Buffer;
use super::tiles::{Cut, Sizes};
use crate::error::Result;

params!(Params {
    batch: u32,
    m: u32,
    k: u32,
    n: u32,
    splits: u32,
    run: u32,
    hidden: u32,
    later_at: u32,
    w_at: u32,
    bias_at: u32,
    gates_at: u32,
    h_at: u32,
    c_at: u32,
    kept_at: u32,
    y_at: u32,
    carried_at: u32,
    slopes_at: u32,
    apart_at: u32,
});

/// Tells these texts apart from other generated ones.
const TEXT: u32 = 5;

static FIRST: Kernel = Kernel::new(
    "recurrent",
    concat!(include_str!("cells.wgsl"), include_str!("recurrent.wgsl"), include_str!("recurrent_first.wgsl")),
    Params::WGSL,
);

/// What a step reads and writes, all contiguous; what each is stands in `recurrent.wgsl`.
#[derive(Clone, Copy)]
pub struct Step<'a> {
    pub gru: bool,
    /// [gates · hidden, hidden]
    pub w_hh: Buffer<'a>,
    pub gates: Buffer<'a>,
    pub h: Buffer<'a>,
    /// Of an LSTM.
    pub c: Option<Buffer<'a>>,
    pub kept: Buffer<'a>,
    /// h, or its gradient on the way back.
    pub y: Buffer<'a>,
    pub way: Way<'a>,
}

#[derive(Clone, Copy)]
pub enum Way<'a> {
    There { bias: Option<Buffer<'a>> },
    Back { later: Later<'a>, carried: Buffer<'a>, cell: Option<Slopes<'a>> },
}

/// Where the gradient of h comes from.
#[derive(Clone, Copy)]
pub enum Later<'a> {
    /// It is given.
    Known(Buffer<'a>),
    /// From the gradients of the state's share of the gates in the step behind.
    Gates(Buffer<'a>),
}

/// Where the gradients of the sums in the gates go; without them the step is the last, and y is the gradient of the first h.
#[derive(Clone, Copy)]
pub struct Slopes<'a> {
    pub slopes: Buffer<'a>,
    /// Of the state's share, in a GRU.
    pub apart: Option<Buffer<'a>>,
}

impl Step<'_> {
    pub fn run(&self, gpu: &Gpu, op: &'static str) -> Result<()> {
        let number = |v: usize| index(op, v);
        let [batch, hidden] = [0, 1].map(|i| self.y.layout.shape()[i]);
        let (later, known, carried, cell, bias) = match self.way {
            Way::There { bias } => (None, false, None, None, bias),
            Way::Back { later: Later::Known(later), carried, cell } => (Some(later), true, Some(carried), cell, None),
            Way::Back { later: Later::Gates(later), carried, cell } => (Some(later), false, Some(carried), cell, None),
        };
        let gates = if self.gru { 3 } else { 4 };
        let (k, n) = if later.is_some() { (gates * hidden, hidden) } else { (hidden, 4 * hidden) };
        let cut = Cut::new(Sizes { batch: 1, m: batch, k, n }, false, false);
        let at = |b: Option<Buffer>| number(b.map_or(0, |b| b.offset));
        number(4 * batch * hidden)?;
        number(self.w_hh.layout.numel())?;
        gpu.expect_rounds(op, cut.run + cut.run / 8)?;
        let (slopes, apart) = (cell.map(|c| c.slopes), cell.and_then(|c| c.apart));
        let params = Params {
            batch: 1,
            m: number(batch)?,
            k: number(k)?,
            n: number(n)?,
            splits: 1,
            run: number(cut.run)?,
            hidden: number(hidden)?,
            later_at: at(later)?,
            w_at: at(Some(self.w_hh))?,
            bias_at: at(bias)?,
            gates_at: at(Some(self.gates))?,
            h_at: at(Some(self.h))?,
            c_at: at(self.c)?,
            kept_at: at(Some(self.kept))?,
            y_at: at(Some(self.y))?,
            carried_at: at(carried)?,
            slopes_at: at(slopes)?,
            apart_at: at(apart)?,
        };
        let back = u32::from(later.is_some());
        let constants = [
            ("GRU", u32::from(self.gru)),
            ("BACK", back),
            ("CELL", 1 - back + u32::from(cell.is_some())),
            ("HAS_BIAS", u32::from(bias.is_some())),
            ("LEFT_M", 0),
            ("RIGHT_N", back),
        ];
        let place = |b: Option<Buffer>| b.map_or(self.y.place, |b| b.place);
        let bindings = [
            place(later),
            self.w_hh.place,
            place(bias),
            self.gates.place,
            self.h.place,
            place(self.c),
            self.kept.place,
            self.y.place,
            place(carried),
            place(slopes),
            place(apart),
            self.y.place,
        ];
        if known {
            return gpu.run(&FIRST, &constants, &bindings, &params, Grid::threads(batch * hidden));
        }
        let text = || {
            cut.text(
                &constants,
                Params::WGSL,
                concat!(include_str!("cells.wgsl"), include_str!("recurrent.wgsl")),
                None,
            )
        };
        gpu.run_text(op, &cut.key(TEXT, &constants), &text, &bindings, &params, cut.grid())
    }
}

params!(Whole {
    batch: u32,
    steps: u32,
    first: u32,
    last: u32,
    w_at: u32,
    bias_at: u32,
    gates_at: u32,
    h_at: u32,
    c_at: u32,
    kept_at: u32,
    y_at: u32,
    dy_at: u32,
    end_at: u32,
    carried_at: u32,
    slopes_at: u32,
    apart_at: u32,
    start_at: u32,
});

static ALL: Kernel =
    Kernel::new("recurrent", concat!(include_str!("cells.wgsl"), include_str!("recurrent_all.wgsl")), Whole::WGSL);

/// Units that the threads of a group take, and samples.
pub const WIDEST: usize = 256;
const SAMPLES: usize = 4;
/// Rounds after which even a patient driver may think that a kernel hangs.
const ROUNDS: usize = 1 << 20;

/// All steps, contiguous tensors of `[steps, batch, ..]`; what each is stands in `recurrent_all.wgsl`.
#[derive(Clone, Copy)]
pub struct Steps<'a> {
    pub gru: bool,
    pub reverse: bool,
    /// On the way there with its sides exchanged.
    pub w_hh: Buffer<'a>,
    pub gates: Buffer<'a>,
    /// The first h, and c of an LSTM.
    pub h: Buffer<'a>,
    pub c: Option<Buffer<'a>>,
    pub kept: Buffer<'a>,
    pub y: Buffer<'a>,
    pub back: Option<StepsBack<'a>>,
    pub bias: Option<Buffer<'a>>,
}

/// The gradients of all h and of the last, what is carried, and where the results go.
#[derive(Clone, Copy)]
pub struct StepsBack<'a> {
    pub dy: Buffer<'a>,
    pub end: Buffer<'a>,
    pub carried: Buffer<'a>,
    pub slopes: Buffer<'a>,
    pub apart: Option<Buffer<'a>>,
    pub start: Buffer<'a>,
}

impl Steps<'_> {
    pub fn run(&self, gpu: &Gpu, op: &'static str) -> Result<()> {
        let number = |v: usize| index(op, v);
        let shape = self.y.layout.shape();
        let (steps, batch, hidden) = (shape[0], shape[1], shape[2]);
        let gates = if self.gru { 3 } else { 4 };
        number(self.gates.layout.numel())?;
        let at = |b: Option<Buffer>| number(b.map_or(0, |b| b.offset));
        let back = self.back;
        let offset = |v: Option<usize>| number(v.unwrap_or(0));
        let params = Whole {
            batch: number(batch)?,
            steps: number(steps)?,
            first: 0,
            last: 0,
            w_at: at(Some(self.w_hh))?,
            bias_at: at(self.bias)?,
            gates_at: at(Some(self.gates))?,
            h_at: at(Some(self.h))?,
            c_at: at(self.c)?,
            kept_at: at(Some(self.kept))?,
            y_at: at(Some(self.y))?,
            dy_at: offset(back.map(|b| b.dy.offset))?,
            end_at: offset(back.map(|b| b.end.offset))?,
            carried_at: offset(back.map(|b| b.carried.offset))?,
            slopes_at: offset(back.map(|b| b.slopes.offset))?,
            apart_at: offset(back.and_then(|b| b.apart).map(|b| b.offset))?,
            start_at: offset(back.map(|b| b.start.offset))?,
        };
        // What is not there shows the same as something that is.
        let place = |b: Option<Buffer>| b.map_or(self.kept.place, |b| b.place);
        let bindings = [
            self.w_hh.place,
            place(self.bias),
            self.gates.place,
            self.h.place,
            place(self.c),
            self.kept.place,
            self.y.place,
            place(back.map(|b| b.dy)),
            place(back.map(|b| b.end)),
            place(back.map(|b| b.carried)),
            place(back.map(|b| b.slopes)),
            place(back.and_then(|b| b.apart)),
            place(back.map(|b| b.start)),
        ];
        let constants = [
            ("GRU", u32::from(self.gru)),
            ("BACK", u32::from(back.is_some())),
            ("REVERSE", u32::from(self.reverse)),
            ("HAS_BIAS", u32::from(self.bias.is_some())),
            ("HIDDEN", number(hidden)?),
        ];
        let grid = Grid::groups(batch.div_ceil(SAMPLES));
        // Rounds of a step: the product, and what comes around it.
        let most = gpu.most_rounds().min(ROUNDS) / (if back.is_some() { gates * hidden } else { hidden } + 64);
        let total = if back.is_some() { steps + 1 } else { steps };
        for done in (0..total).step_by(most.max(1)) {
            let until = (done + most.max(1)).min(total);
            let (first, last) = if back.is_some() { (steps - done, steps + 1 - until) } else { (done, until) };
            gpu.run(&ALL, &constants, &bindings, &Whole { first: first as u32, last: last as u32, ..params }, grid)?;
        }
        Ok(())
    }
}
