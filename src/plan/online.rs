//! Dynamic tensor rematerialization: evicting on pressure by a score of the past, without a look ahead.
//!
//! Kirisame et al. 2021, arXiv:2006.09616. Here for comparison, and for where its evictions make a good first plan. What
//! it brings back stays until it is evicted again; values that are released, or locked by the running op, are no choice.

use super::problem::Problem;
use super::simulate::{NO_GAP, State};
use super::steps::Step;
use super::tape::ValueId;

/// Which value is evicted: the one with the least score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Heuristic {
    /// Cost with the evicted neighbourhood / (bytes × staleness).
    Dtr,
    /// Own cost / (bytes × staleness).
    Local,
    /// 1 / staleness.
    Lru,
    /// 1 / bytes.
    Size,
    /// Cost with the evicted ancestors / bytes.
    Msps,
}

/// What happened: the peak, the cost of what ran again, each eviction and replay as a step, and the states that come closest.
pub struct Online {
    pub peak: i64,
    pub recompute: f64,
    pub replays: usize,
    pub states: Vec<State>,
    pub steps: Vec<Step>,
}

struct Runtime<'a> {
    problem: &'a Problem,
    heuristic: Heuristic,
    budget: i64,
    users: Vec<Vec<u32>>,
    resident: Vec<bool>,
    locks: Vec<u32>,
    used: Vec<f64>,
    gap: Vec<u32>,
    seen: Vec<u32>,
    stamp: u32,
    clock: f64,
    live: i64,
    brought: Vec<u32>,
    result: Online,
}

/// `None` where it runs out of memory, or into thrash.
pub fn run(problem: &Problem, budget: u64, heuristic: Heuristic) -> Option<Online> {
    let script = &problem.script;
    let count = script.bytes.len();
    let mut users = vec![vec![]; count];
    for p in (0..script.ops).filter(|&p| script.forward[p]) {
        for &v in script.reads.get(p) {
            users[v as usize].push(p as u32);
        }
    }
    let mut r = Runtime {
        problem,
        heuristic,
        budget: i64::try_from(budget).unwrap_or(i64::MAX),
        users,
        resident: vec![false; count],
        locks: vec![0; count],
        used: vec![0.0; count],
        gap: vec![NO_GAP; count],
        seen: vec![0; script.ops],
        stamp: 0,
        clock: 0.0,
        live: script.base,
        brought: vec![],
        result: Online { peak: script.base, recompute: 0.0, replays: 0, states: problem.start.clone(), steps: vec![] },
    };
    let mut away = 0;
    for p in 0..script.ops {
        for &g in script.opens.get(p) {
            let v = script.gaps.all[g as usize].value.0 as usize;
            r.gap[v] = g;
            if problem.start[g as usize] != State::KEEP && r.resident[v] {
                r.resident[v] = false;
                away += script.bytes[v];
            }
        }
        r.live = script.level[p] - away;
        let reads = script.reads.get(p);
        reads.iter().for_each(|&v| r.locks[v as usize] += 1);
        for &v in reads {
            r.bring(v, p, 0)?;
        }
        r.room(script.high[p] - script.level[p], p)?;
        reads.iter().for_each(|&v| r.locks[v as usize] -= 1);
        // What no visit needs any more was held for this op only.
        for v in std::mem::take(&mut r.brought) {
            let g = r.gap[v as usize];
            let needed = g != NO_GAP && (p as u32) < script.gaps.all[g as usize].end;
            if !needed && r.resident[v as usize] && !reads.contains(&v) {
                r.resident[v as usize] = false;
                r.live -= script.bytes[v as usize];
                if p + 1 < script.ops {
                    r.result.steps.push(Step { before: p as u32 + 1, value: ValueId(v), make: false });
                }
            }
        }
        away = script.level[p] - r.live;
        r.clock += script.cost[p];
        for &v in reads.iter().chain(script.makes.get(p)) {
            r.used[v as usize] = r.clock;
        }
        for &v in script.makes.get(p) {
            r.resident[v as usize] = true;
        }
        for &v in script.releases.get(p) {
            r.resident[v as usize] = false;
        }
    }
    Some(r.result)
}

impl Runtime<'_> {
    fn bring(&mut self, v: u32, p: usize, depth: usize) -> Option<()> {
        let script = &self.problem.script;
        if self.resident[v as usize] || self.problem.script.forward[p] {
            return Some(());
        }
        // A stack of its own would be needed beyond; DTR fails there as well.
        if depth > 4000 || self.result.replays > self.problem.limit().replays {
            return None;
        }
        let f = script.maker[v as usize] as usize;
        let inputs = script.reads.get(f);
        inputs.iter().for_each(|&w| self.locks[w as usize] += 1);
        for &w in inputs {
            self.bring(w, p, depth + 1)?;
        }
        self.room(script.rise[f], p)?;
        self.result.recompute += script.cost[f];
        self.result.replays += 1;
        self.result.steps.push(Step { before: p as u32, value: ValueId(v), make: true });
        self.clock += script.cost[f];
        self.live += script.net[f];
        for &w in script.makes.get(f) {
            if !std::mem::replace(&mut self.resident[w as usize], true) {
                self.live += script.bytes[w as usize];
                self.brought.push(w);
            }
            self.used[w as usize] = self.clock;
        }
        for &w in inputs {
            self.locks[w as usize] -= 1;
            self.used[w as usize] = self.clock;
        }
        Some(())
    }

    /// Evicts until so many bytes more fit.
    fn room(&mut self, more: i64, p: usize) -> Option<()> {
        let script = &self.problem.script;
        while self.live + more > self.budget {
            let mut best: Option<(f64, usize)> = None;
            for v in 0..self.resident.len() {
                let g = self.gap[v];
                if !self.resident[v] || self.locks[v] > 0 || g == NO_GAP || script.bytes[v] == 0 {
                    continue;
                }
                let gap = script.gaps.all[g as usize];
                let open = (gap.start as usize) < p && p < gap.end as usize;
                if open && self.problem.free[g as usize] {
                    let score = self.score(v);
                    if best.is_none_or(|(least, _)| score < least) {
                        best = Some((score, v));
                    }
                }
            }
            let (_, v) = best?;
            self.resident[v] = false;
            self.live -= script.bytes[v];
            self.result.steps.push(Step { before: p as u32, value: ValueId(v as u32), make: false });
            self.result.states[self.gap[v] as usize] = State::LATE;
        }
        self.result.peak = self.result.peak.max(self.live + more);
        Some(())
    }

    fn score(&mut self, v: usize) -> f64 {
        let script = &self.problem.script;
        let own = script.cost[script.maker[v] as usize];
        let (bytes, stale) = (script.bytes[v] as f64, self.clock - self.used[v] + 1e-12);
        match self.heuristic {
            Heuristic::Dtr => self.neighbourhood(v, true) / (bytes * stale),
            Heuristic::Local => own / (bytes * stale),
            Heuristic::Lru => 1.0 / stale,
            Heuristic::Size => 1.0 / bytes,
            Heuristic::Msps => self.neighbourhood(v, false) / bytes,
        }
    }

    /// Cost of the value and of the evicted values that hang together with it, upwards and, if asked, downwards.
    fn neighbourhood(&mut self, v: usize, both: bool) -> f64 {
        let script = &self.problem.script;
        let own = script.maker[v];
        let mut cost = script.cost[own as usize];
        for down in [false, true] {
            if down && !both {
                break;
            }
            self.stamp += 1;
            self.seen[own as usize] = self.stamp;
            let mut stack = vec![own];
            while let Some(f) = stack.pop() {
                let near = |g: u32, w: u32, seen: &mut Vec<u32>| {
                    let evicted = !self.resident[w as usize] && script.maker[w as usize] != own;
                    evicted && std::mem::replace(&mut seen[g as usize], self.stamp) != self.stamp
                };
                let from = stack.len();
                if down {
                    for &w in script.makes.get(f as usize) {
                        for &user in &self.users[w as usize] {
                            for &made in script.makes.get(user as usize) {
                                if self.gap[made as usize] != NO_GAP && near(user, made, &mut self.seen) {
                                    stack.push(user);
                                }
                            }
                        }
                    }
                } else {
                    for &w in script.reads.get(f as usize) {
                        if near(script.maker[w as usize], w, &mut self.seen) {
                            stack.push(script.maker[w as usize]);
                        }
                    }
                }
                cost += stack[from..].iter().map(|&f| script.cost[f as usize]).sum::<f64>();
            }
        }
        cost
    }
}
