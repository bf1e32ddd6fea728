//! What to keep: plans for the gaps between two uses of a value, derived from records alone.
//!
//! Knows ids, bytes and costs; no tensor, no graph, no clock. A tape says what a step did; a plan says which values to
//! drop in which gap; the simulator says what that costs and what the peak is, to the byte.

pub mod block;
pub mod chain;
pub mod evict;
pub mod exact;
pub mod gaps;
pub mod improve;
pub mod json;
pub mod menu;
pub mod online;
pub mod problem;
pub mod repeat;
pub mod ruin;
pub mod search;
pub mod simulate;
pub mod steps;
pub mod tape;

pub use search::{bound, ladder, least, methods, plan};
pub use simulate::State;
pub use steps::Step;
use tape::ValueId;

/// How a plan is looked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Search {
    /// Plans that the local search simulates at most; long tapes get fewer.
    pub local_search_evaluations: usize,
    /// Values that are never dropped, and values that are dropped in each gap.
    pub must_keep: Vec<ValueId>,
    pub must_drop: Vec<ValueId>,
    /// The first plan that fits, without a search for a better one.
    pub quick: bool,
    /// Short tapes are solved to the end.
    pub exact: bool,
    /// Repeated blocks are also decided on together.
    pub blocks: bool,
}

impl Default for Search {
    fn default() -> Search {
        Search {
            local_search_evaluations: 30_000,
            must_keep: vec![],
            must_drop: vec![],
            quick: false,
            exact: true,
            blocks: true,
        }
    }
}

/// What to do in each gap, and what comes of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub states: Vec<State>,
    /// Where there are any, they say what is done instead, op by op; all states are those of keeping then.
    pub steps: Vec<Step>,
    /// Replays hold no more than the path they are on.
    pub lean: bool,
    pub peak: u64,
    /// Cost of the forwards that run again, and of the step without them.
    pub recompute: f64,
    pub base: f64,
    /// What found it.
    pub method: &'static str,
}

/// A plan without its states: what it takes and what it costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    pub peak: u64,
    pub recompute: f64,
    pub base: f64,
}

impl Plan {
    pub fn summary(&self) -> Summary {
        Summary { peak: self.peak, recompute: self.recompute, base: self.base }
    }
}

/// No plan fits that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Impossible {
    /// The least budget for which there is a plan.
    pub least: u64,
    /// What that plan costs, and plans for three larger budgets.
    pub ladder: Vec<(u64, Summary)>,
}
