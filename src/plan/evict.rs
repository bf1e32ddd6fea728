//! Plans by looking ahead: a step is simulated under a cap, and where it passes the cap, values are dropped.
//!
//! What is dropped in the middle of a gap is dropped from its beginning, so each round ends with states that the next
//! round simulates exactly. States only rise, so the rounds come to an end.

use super::problem::Problem;
use super::simulate::{Limit, Outcome, Run, Simulator, State};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Which value goes first: the one with the least score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// What bringing it back costs: its own forward, all that is missing for it, or one unit.
    pub cost: Cost,
    pub by_bytes: bool,
    /// Divided by the number of ops until it is needed.
    pub by_distance: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cost {
    Own,
    Closure,
    Unit,
}

impl Score {
    pub const fn new(cost: Cost, by_bytes: bool, by_distance: bool) -> Score {
        Score { cost, by_bytes, by_distance }
    }
}

/// Forwards looked at for one score.
const CLOSURE: usize = 48;
const ROUNDS: usize = 40;

#[derive(Default)]
pub struct Evictor {
    pub sim: Simulator,
    /// Gaps whose values may be dropped. They are ranked when room is needed for the first time since: most never are.
    offered: Vec<u32>,
    heap: BinaryHeap<Reverse<(Rank, u32)>>,
    seen: Vec<u32>,
    stamp: u32,
    stack: Vec<u32>,
    /// Ops and replays that the last fit stepped over.
    pub work: usize,
}

#[derive(Clone, Copy, PartialEq)]
struct Rank(f64);

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Rank) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Eq for Rank {}

impl Ord for Rank {
    fn cmp(&self, other: &Rank) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl Evictor {
    /// Raises states until the peak is within the cap. `None` if that is not enough.
    pub fn fit(
        &mut self,
        problem: &Problem,
        states: &mut [State],
        lean: bool,
        cap: u64,
        score: Score,
        limit: Limit,
    ) -> Option<Outcome> {
        let script = &problem.script;
        let cap = i64::try_from(cap).unwrap_or(i64::MAX);
        self.work = 0;
        for _ in 0..ROUNDS {
            let (mut over, mut stuck) = (false, false);
            self.offered.clear();
            self.heap.clear();
            let mut run = self.sim.begin(script);
            for p in 0..script.ops {
                let replays = run.live.replays;
                self.sim.step(script, states, lean, limit, &mut run, p);
                self.work += 1 + run.live.replays - replays;
                if run.live.recompute > limit.recompute || run.live.replays > limit.replays {
                    return None;
                }
                self.offered.extend(script.opens.get(p));
                self.offered.append(&mut self.sim.kept);
                if run.top > cap {
                    over = true;
                    stuck |= !self.make_room(problem, states, score, &mut run, p, cap);
                }
            }
            if !over {
                return Some(run.outcome(false));
            }
            if stuck {
                return None;
            }
        }
        None
    }

    /// Ranks what was offered and is still there.
    fn rank_offered(&mut self, problem: &Problem, p: usize, score: Score) {
        let script = &problem.script;
        let mut offered = std::mem::take(&mut self.offered);
        for g in offered.drain(..) {
            let gap = script.gaps.all[g as usize];
            let v = gap.value.0 as usize;
            let open = self.sim.resident[v] && self.sim.gap_now[v] == g && gap.end as usize > p;
            if open && problem.free[g as usize] && script.bytes[v] > 0 {
                let rank = self.rank(problem, g, p, score);
                self.heap.push(Reverse((rank, g)));
            }
        }
        self.offered = offered;
    }

    /// Drops values until op `p` would have fitted.
    fn make_room(
        &mut self,
        problem: &Problem,
        states: &mut [State],
        score: Score,
        run: &mut Run,
        p: usize,
        cap: i64,
    ) -> bool {
        let script = &problem.script;
        self.rank_offered(problem, p, score);
        let mut over = run.top - cap;
        while over > 0 {
            let Some(Reverse((old, g))) = self.heap.pop() else { return false };
            let gap = script.gaps.all[g as usize];
            let v = gap.value.0 as usize;
            if !self.sim.resident[v] || self.sim.gap_now[v] != g || gap.end as usize <= p {
                continue;
            }
            let rank = self.rank(problem, g, p, score);
            if rank > old && self.heap.peek().is_some_and(|Reverse((next, _))| rank > *next) {
                self.heap.push(Reverse((rank, g)));
                continue;
            }
            states[g as usize] = problem.after(self.sim.passes[g as usize]);
            self.sim.resident[v] = false;
            run.away += script.bytes[v];
            over -= script.bytes[v];
        }
        true
    }

    fn rank(&mut self, problem: &Problem, g: u32, p: usize, score: Score) -> Rank {
        let script = &problem.script;
        let gap = script.gaps.all[g as usize];
        let v = gap.value.0;
        let mut rank = match score.cost {
            Cost::Own => script.cost[script.maker[v as usize] as usize],
            Cost::Closure => self.closure(problem, v),
            Cost::Unit => 1.0,
        };
        if score.by_bytes {
            rank /= script.bytes[v as usize] as f64;
        }
        if score.by_distance {
            rank /= (gap.end as usize).saturating_sub(p).max(1) as f64;
        }
        Rank(rank)
    }

    /// Cost of the forwards that bring a value back, if it were missing now.
    fn closure(&mut self, problem: &Problem, v: u32) -> f64 {
        let script = &problem.script;
        if self.seen.len() != script.ops {
            self.seen = vec![0; script.ops];
            self.stamp = 0;
        }
        self.stamp += 1;
        self.stack.clear();
        let f = script.maker[v as usize];
        self.seen[f as usize] = self.stamp;
        self.stack.push(f);
        let (mut cost, mut count) = (0.0, 0);
        while let Some(f) = self.stack.pop() {
            cost += script.cost[f as usize];
            count += 1;
            if count > CLOSURE {
                break;
            }
            for &w in script.reads.get(f as usize) {
                let f = script.maker[w as usize];
                if !self.sim.resident[w as usize] && self.seen[f as usize] != self.stamp {
                    self.seen[f as usize] = self.stamp;
                    self.stack.push(f);
                }
            }
        }
        cost
    }
}
