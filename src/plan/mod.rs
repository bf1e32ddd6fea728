//! What to keep: plans for the gaps between two uses of a value, derived from records alone.
//!
//! Knows ids, bytes and costs; no tensor, no graph, no clock. A tape says what a step did; a plan says which values to
//! drop in which gap; the simulator says what that costs and what the peak is, to the byte.

pub mod gaps;
pub mod simulate;
pub mod tape;
pub use simulate::State;
use simulate::{Limit, Script, Simulator};
use tape::Tape;
#[derive(Clone, Debug)]
pub struct Plan {
    pub states: Vec<State>,
    pub peak: u64,
    pub lean: bool,
    pub recompute: f64,
    pub base: f64,
    pub method: &'static str,
}
#[derive(Default)]
pub struct Search {}
pub struct Impossible;
pub fn plan(tape: &Tape, _budget: u64, _how: &Search) -> Result<Plan, Impossible> {
    let s = Script::of(tape).map_err(|e| {
        eprintln!("{e:?}");
        Impossible
    })?;
    let n = s.gaps.len();
    let states: Vec<State> =
        (0..n).map(|i| [State::KEEP, State::LATE, State::DROP, State::late(2)][(i * 7 + i / 3) % 4]).collect();
    let lean = std::env::var("LEAN").is_ok();
    let o = Simulator::default().run(&s, &states, lean, Limit::NONE);
    Ok(Plan { states, lean, peak: o.peak, recompute: o.recompute, base: s.base_cost, method: "test" })
}
