//! A tape made ready for planning: which gaps are free to choose, and what is known of every plan.

use super::repeat;
use super::simulate::{Limit, Outcome, Script, Simulator, State};
use super::steps::Step;
use super::tape::{Tape, ValueId};
use crate::error::Result;

/// The most passes that a search lets a value wait for.
const PASSES: usize = 12;

pub struct Problem {
    pub script: Script,
    /// Of each op: a number that is the same for ops of one name and, but for numbers, one module.
    pub kinds: Vec<u64>,
    /// Of each gap: the search may choose its state. Elsewhere `start` says what it is.
    pub free: Vec<bool>,
    pub start: Vec<State>,
    /// The gaps that are free.
    pub choices: Vec<u32>,
}

/// A plan on the way.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub states: Vec<State>,
    pub lean: bool,
    pub outcome: Outcome,
    pub steps: Vec<Step>,
    pub method: &'static str,
}

impl Problem {
    pub fn of(tape: &Tape, must_keep: &[ValueId], must_drop: &[ValueId]) -> Result<Problem> {
        let script = Script::of(tape)?;
        let count = script.gaps.len();
        let (mut free, mut start) = (vec![true; count], vec![State::KEEP; count]);
        for (values, state) in [(must_keep, State::KEEP), (must_drop, State::DROP)] {
            for &value in values.iter().filter(|v| (v.0 as usize) < script.bytes.len()) {
                for g in script.gaps.of_value(value) {
                    free[g] = false;
                    start[g] = state;
                }
            }
        }
        let choices = (0..count as u32).filter(|&g| free[g as usize]).collect();
        Ok(Problem { script, kinds: repeat::kinds(&tape.ops), free, start, choices })
    }

    /// True when hints say what to do in some gap. Lists of steps know nothing of them.
    pub fn hinted(&self) -> bool {
        self.choices.len() < self.free.len()
    }

    /// All free gaps in one state.
    pub fn all(&self, state: State) -> Vec<State> {
        self.start.iter().zip(&self.free).map(|(s, free)| if *free { state } else { *s }).collect()
    }

    /// The state that lets one pass more go by than those there were.
    pub fn after(&self, passes: u8) -> State {
        if passes as usize >= PASSES { State::DROP } else { State::late(passes as usize + 1) }
    }

    /// Replays beyond which a plan is thrash, whatever its peak.
    pub fn limit(&self) -> Limit {
        Limit { replays: 200 + 20 * self.script.ops, ..Limit::NONE }
    }

    pub fn judge(&self, sim: &mut Simulator, states: Vec<State>, lean: bool, method: &'static str) -> Candidate {
        let outcome = sim.run(&self.script, &states, lean, self.limit());
        Candidate { states, lean, outcome, steps: vec![], method }
    }

    /// No plan has a lower peak: what must be there in each op, nothing else.
    pub fn bound(&self) -> u64 {
        let script = &self.script;
        let mut change = vec![0i64; script.ops + 1];
        for (g, gap) in script.gaps.all.iter().enumerate() {
            if self.free[g] || self.start[g] == State::DROP {
                let bytes = script.bytes[gap.value.0 as usize];
                change[gap.start as usize + 1] += bytes;
                change[gap.end as usize] -= bytes;
            }
        }
        let (mut away, mut bound) = (0, script.base);
        for p in 0..script.ops {
            away += change[p];
            bound = bound.max(script.high[p] - away);
        }
        bound as u64
    }
}
