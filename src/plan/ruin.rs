//! Local search over lists of steps: ruin and recreate (Schrimpf et al. 2000).
//!
//! A list is damaged in places and followed: what is left of it is done where it can be, what is missing is made on demand, and
//! where something does not fit, what seems worth least goes. What was done is the next list, if it costs no more.

use super::improve::{Dice, Effort};
use super::problem::{Candidate, Problem};
use super::simulate::{NO_GAP, State};
use super::steps::{Step, drop_leftovers, follow};
use super::tape::ValueId;

/// What a list of steps led to: what was done, the ops that came to an end, and the cost of what ran again.
#[derive(Clone, Default)]
struct Made {
    steps: Vec<Step>,
    reached: usize,
    recompute: f64,
    replays: usize,
}

/// How choices are made that the steps leave open; another one each time.
struct Taste {
    /// The chance that values are brought back in the order against that of the tape.
    turned: f64,
    by_distance: bool,
    noise: f64,
}

struct Follower<'a> {
    problem: &'a Problem,
    budget: i64,
    /// More than this much recompute is of no use.
    most: f64,
    taste: Taste,
    dice: Dice,
    /// Of each value: there; there if nothing were dropped; how many ops it is held for, and how many will hold it.
    resident: Vec<bool>,
    usual: Vec<bool>,
    held: Vec<u32>,
    awaited: Vec<u32>,
    gap: Vec<u32>,
    live: i64,
    made: Made,
    /// Ops, replays and values looked at.
    work: usize,
}

impl<'a> Follower<'a> {
    fn new(problem: &'a Problem, budget: u64) -> Follower<'a> {
        let count = problem.script.bytes.len();
        Follower {
            problem,
            budget: i64::try_from(budget).unwrap_or(i64::MAX),
            most: f64::INFINITY,
            taste: Taste { turned: 0.0, by_distance: true, noise: 0.0 },
            dice: Dice::new(11),
            resident: vec![false; count],
            usual: vec![false; count],
            held: vec![0; count],
            awaited: vec![0; count],
            gap: vec![NO_GAP; count],
            live: 0,
            made: Made::default(),
            work: 0,
        }
    }

    fn run(&mut self, steps: &[Step]) -> Made {
        self.resident.fill(false);
        self.usual.fill(false);
        self.held.fill(0);
        self.awaited.fill(0);
        self.gap.fill(NO_GAP);
        self.work = 0;
        let (mut steps, mut more) = (steps, 0);
        for p in 0..self.problem.script.ops {
            let (now, later) = steps.split_at(steps.partition_point(|s| s.before as usize == p));
            let Some(left) = self.op(p, now, more) else { break };
            (steps, more, self.made.reached) = (later, left, p + 1);
        }
        std::mem::take(&mut self.made)
    }

    /// Op `p`, that begins and ends with more bytes than if nothing were dropped. `None` if it does not fit.
    fn op(&mut self, p: usize, steps: &[Step], more: i64) -> Option<i64> {
        let script = &self.problem.script;
        self.work += 1;
        for &g in script.opens.get(p) {
            self.gap[script.gaps.all[g as usize].value.0 as usize] = g;
        }
        self.live = script.level[p] + more;
        for &Step { value, make, .. } in steps {
            if !make && self.may_go(value.0, p) {
                self.drop(value.0, p);
            } else if make && script.may_run(script.maker[value.0 as usize] as usize, p) {
                self.bring(&[value.0], p)?;
                self.held[value.0 as usize] -= 1;
            }
        }
        let reads = if script.forward[p] { &[] } else { script.reads.get(p) };
        self.bring(reads, p)?;
        self.room(script.high[p] - script.level[p], p)?;
        reads.iter().for_each(|&v| self.held[v as usize] -= 1);
        let mut more = self.live - script.level[p];
        for (values, state) in [(script.makes.get(p), true), (script.releases.get(p), false)] {
            for v in values.iter().map(|&v| v as usize) {
                more -= script.bytes[v] * (i64::from(self.resident[v]) - i64::from(self.usual[v]));
                (self.resident[v], self.usual[v]) = (state, state);
            }
        }
        Some(more)
    }

    fn may_go(&self, v: u32, p: usize) -> bool {
        let (g, v) = (self.gap[v as usize], v as usize);
        let open = g != NO_GAP && p <= self.problem.script.gaps.all[g as usize].end as usize;
        self.resident[v] && self.held[v] == 0 && (open || !self.usual[v])
    }

    fn drop(&mut self, v: u32, p: usize) {
        self.resident[v as usize] = false;
        self.live -= self.problem.script.bytes[v as usize];
        self.made.steps.push(Step { before: p as u32, value: ValueId(v), make: false });
    }

    /// Holds all of the values; makes those that are missing. What is there before its turn may go, and is made again.
    fn bring(&mut self, values: &[u32], p: usize) -> Option<()> {
        let script = &self.problem.script;
        values.iter().for_each(|&v| self.awaited[v as usize] += 1);
        let turned = self.taste.turned > 0.0 && values.len() > 1 && self.dice.unit() < self.taste.turned;
        for i in 0..values.len() {
            let v = values[if turned { values.len() - 1 - i } else { i }];
            if !self.resident[v as usize] {
                let f = script.maker[v as usize] as usize;
                let reads = script.reads.get(f);
                self.bring(reads, p)?;
                self.room(script.rise[f], p)?;
                reads.iter().for_each(|&w| self.held[w as usize] -= 1);
                self.replay(v, p)?;
            }
            self.awaited[v as usize] -= 1;
            self.held[v as usize] += 1;
        }
        Some(())
    }

    fn replay(&mut self, v: u32, p: usize) -> Option<()> {
        let script = &self.problem.script;
        let f = script.maker[v as usize] as usize;
        self.work += 1;
        self.made.replays += 1;
        self.made.recompute += script.cost[f];
        self.made.steps.push(Step { before: p as u32, value: ValueId(v), make: true });
        self.live += script.net[f];
        for &w in script.makes.get(f) {
            if !std::mem::replace(&mut self.resident[w as usize], true) {
                self.live += script.bytes[w as usize];
            }
        }
        let thrash = self.made.replays > self.problem.limit().replays;
        (self.made.recompute <= self.most && !thrash).then_some(())
    }

    /// Drops values until so many bytes more fit; those that are awaited last.
    fn room(&mut self, more: i64, p: usize) -> Option<()> {
        while self.live + more > self.budget {
            let mut least: Option<(bool, f64, u32)> = None;
            for v in 0..self.resident.len() as u32 {
                if self.may_go(v, p) && self.problem.script.bytes[v as usize] > 0 {
                    let worth = (self.awaited[v as usize] > 0, self.worth(v, p), v);
                    if least.is_none_or(|known| worth < known) {
                        least = Some(worth);
                    }
                }
            }
            self.work += self.resident.len() / 4;
            self.drop(least?.2, p);
        }
        Some(())
    }

    /// What it costs to make a value again, by its bytes, and by the number of ops until it is needed.
    fn worth(&mut self, v: u32, p: usize) -> f64 {
        let script = &self.problem.script;
        let cost = script.cost[script.maker[v as usize] as usize] / script.bytes[v as usize] as f64;
        let cost = cost * (1.0 + self.taste.noise * self.dice.unit());
        if !self.usual[v as usize] {
            // No op will read it. It may still spare a replay.
            return cost * 1e-3;
        }
        let end = script.gaps.all[self.gap[v as usize] as usize].end as usize;
        if self.taste.by_distance { cost / (end + 1 - p) as f64 } else { cost }
    }
}

/// Takes steps out of the list, or puts some in.
fn damage(problem: &Problem, made: &Made, dice: &mut Dice) -> Vec<Step> {
    let script = &problem.script;
    let mut steps = made.steps.clone();
    let value = dice.below(script.bytes.len()) as u32;
    match dice.below(8) {
        // All in a stretch.
        0..2 => {
            let most = made.reached / (2 << dice.below(4));
            let length = 1 + dice.below(1 + most);
            let from = dice.below(made.reached + 1);
            steps.retain(|s| !(from..from + length).contains(&(s.before as usize)));
        }
        // Single ones.
        2..4 => {
            for _ in 0..(1 + dice.below(3)).min(steps.len()) {
                steps.remove(dice.below(steps.len()));
            }
        }
        // All of a value, or of one kind.
        4 => {
            let kind = [None, Some(false), Some(true)][dice.below(3)];
            steps.retain(|s| s.value.0 != value || kind == Some(s.make));
        }
        5 => {
            let chance = 2 + dice.below(7);
            steps.retain(|_| dice.below(chance) > 0);
        }
        _ => {
            for _ in 0..1 + dice.below(2) {
                let before = dice.below(script.ops.min(made.reached + 1)) as u32;
                let value = dice.below(script.bytes.len()) as u32;
                let make = dice.below(2) == 0;
                let from = steps.partition_point(|s| s.before < before);
                let count = steps[from..].partition_point(|s| s.before == before);
                steps.insert(from + dice.below(count + 1), Step { before, value: ValueId(value), make });
            }
        }
    }
    steps
}

/// The drops of a plan; what it makes again is made on demand.
pub fn steps_of(problem: &Problem, plan: &Candidate) -> Vec<Step> {
    if !plan.steps.is_empty() {
        return plan.steps.clone();
    }
    let gaps = problem.script.gaps.all.iter().zip(&plan.states).filter(|(_, state)| **state != State::KEEP);
    let mut steps: Vec<Step> =
        gaps.map(|(gap, _)| Step { before: gap.start + 1, value: gap.value, make: false }).collect();
    steps.sort_by_key(|s| s.before);
    steps
}

/// The cheapest list of steps found that fits, if any. The one to begin with need not fit.
pub fn search(problem: &Problem, begin: &[Step], budget: u64, effort: &mut Effort) -> Option<Candidate> {
    let script = &problem.script;
    let mut follower = Follower::new(problem, budget);
    let mut dice = Dice::new(12);
    let fits = |made: &Made| made.reached == script.ops;
    let mut now = follower.run(begin);
    let mut best = fits(&now).then(|| now.clone());
    let total = *effort;
    while !effort.is_spent() && !script.bytes.is_empty() {
        let steps = damage(problem, &now, &mut dice);
        follower.taste = Taste {
            turned: [0.0, 0.25][dice.below(2)],
            by_distance: dice.below(4) > 0,
            noise: [0.0, 0.3, 1.0, 3.0][dice.below(4)],
        };
        // At first a costlier list is tolerated; where none fits yet, one that comes as far.
        let left = (effort.evaluations as f64 / total.evaluations as f64).min(effort.work as f64 / total.work as f64);
        let slack = 0.03 * script.base_cost * left * left * -dice.unit().max(1e-9).ln();
        follower.most = if fits(&now) { now.recompute + slack + 1e-12 } else { f64::INFINITY };
        let made = follower.run(&steps);
        effort.spend(follower.work);
        if made.reached < now.reached {
            continue;
        }
        now = made;
        if fits(&now) && best.as_ref().is_none_or(|best| now.recompute < best.recompute) {
            best = Some(now.clone());
        }
    }
    let mut steps = best?.steps;
    drop_leftovers(script, &mut steps);
    let outcome = follow(script, &steps)?;
    let plan = Candidate { states: problem.start.clone(), lean: false, outcome, steps, method: "search" };
    (outcome.peak <= budget).then_some(plan)
}
