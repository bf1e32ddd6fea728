//! Local search over the states of a plan: exact simulation of each change, a fixed seed, no clock.

use super::problem::{Candidate, Problem};
use super::simulate::{Limit, Outcome, Simulator, State};

/// Numbers that look random, the same every time. Marsaglia 2003, xorshift.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 32) as usize * n.max(1)) >> 32
    }

    pub fn unit(&mut self) -> f64 {
        self.below(1 << 30) as f64 / (1u64 << 30) as f64
    }
}

/// What may be spent on a search: plans simulated, and ops and replays stepped over in them.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    pub evaluations: usize,
    pub work: usize,
}

impl Effort {
    pub fn spend(&mut self, work: usize) {
        self.evaluations = self.evaluations.saturating_sub(1);
        self.work = self.work.saturating_sub(work);
    }

    pub fn is_spent(&self) -> bool {
        self.evaluations == 0 || self.work == 0
    }

    pub fn part(&self, share: f64) -> Effort {
        Effort { evaluations: (self.evaluations as f64 * share) as usize, work: (self.work as f64 * share) as usize }
    }
}

/// Anneals from `start`, which need not fit. Returns the best plan found that fits, if any, and takes from `effort`.
pub fn anneal(
    problem: &Problem,
    sim: &mut Simulator,
    start: &Candidate,
    budget: u64,
    heat: f64,
    seed: u64,
    effort: &mut Effort,
) -> Option<Candidate> {
    let script = &problem.script;
    let fits = |o: &Outcome| !o.stopped && o.peak <= budget;
    let mut best = fits(&start.outcome).then(|| start.clone());
    if problem.choices.is_empty() {
        return best;
    }
    let mut dice = Dice::new(seed);
    let (mut states, mut lean, mut now) = (start.states.clone(), start.lean, start.outcome);
    let unit = script.base_cost.max(f64::MIN_POSITIVE);
    let total = *effort;
    let (mut undo, mut moves) = (vec![], vec![]);
    while !effort.is_spent() {
        let left = (effort.evaluations as f64 / total.evaluations as f64).min(effort.work as f64 / total.work as f64);
        // Tolerated at first: a worse plan, and one that passes the budget a little.
        let warmth = heat * left * left;
        let slack = (budget as f64 * (1.0 + 0.6 * warmth)) as u64;
        let price = |o: &Outcome| {
            let over = o.peak.saturating_sub(budget) as f64 / budget.max(1) as f64;
            o.recompute / unit + if over > 0.0 { 0.02 + 1.5 * over } else { 0.0 }
        };
        let bar = price(&now) + warmth * 0.25 * -dice.unit().max(1e-9).ln() + 1e-12;
        propose(problem, sim, &states, &mut dice, &mut moves);
        let was_lean = lean;
        if dice.below(64) == 0 {
            lean = !lean;
        }
        undo.clear();
        for &(g, state) in &moves {
            undo.push((g, states[g]));
            states[g] = state;
        }
        if moves.iter().all(|&(g, _)| states[g] == undo.iter().find(|u| u.0 == g).map_or(states[g], |u| u.1))
            && lean == was_lean
        {
            effort.spend(1);
            continue;
        }
        let peak = if fits(&now) { slack } else { slack.max(now.peak) };
        let limit = Limit { peak, recompute: bar * unit, replays: problem.limit().replays };
        let outcome = sim.run(script, &states, lean, limit);
        effort.spend(script.ops + outcome.replays);
        if !outcome.stopped && price(&outcome) <= bar {
            now = outcome;
            if fits(&now) && best.as_ref().is_none_or(|b| now.recompute < b.outcome.recompute) {
                best = Some(Candidate { states: states.clone(), lean, outcome: now, steps: vec![], method: "search" });
            }
        } else {
            lean = was_lean;
            for &(g, state) in undo.iter().rev() {
                states[g] = state;
            }
        }
    }
    best
}

fn any_state(dice: &mut Dice) -> State {
    match dice.below(16) {
        0..5 => State::KEEP,
        5..10 => State::LATE,
        10..13 => State::DROP,
        13..15 => State::late(2),
        _ => State::late(3 + dice.below(3)),
    }
}

/// A change of one gap, of two, or of a few neighbours.
fn propose(problem: &Problem, _sim: &Simulator, states: &[State], dice: &mut Dice, moves: &mut Vec<(usize, State)>) {
    let count = problem.choices.len();
    let at = dice.below(count);
    let gap = |i: usize| problem.choices[i.min(count - 1)] as usize;
    moves.clear();
    match dice.below(10) {
        0..4 => moves.push((gap(at), any_state(dice))),
        4..6 => {
            // Two neighbours change places.
            let other = at + 1 + dice.below(4);
            let (a, b) = (gap(at), gap(other));
            moves.extend([(a, states[b]), (b, states[a])]);
        }
        6..8 => {
            let (a, b) = (gap(at), gap(dice.below(count)));
            if dice.below(2) == 0 {
                moves.extend([(a, states[b]), (b, states[a])]);
            } else {
                moves.extend([(a, any_state(dice)), (b, any_state(dice))]);
            }
        }
        8 => {
            let (a, b) = (gap(at), gap((at + dice.below(9)).saturating_sub(4)));
            moves.extend([(a, any_state(dice)), (b, any_state(dice))]);
        }
        _ => {
            let state = any_state(dice);
            moves.extend((at..(at + 2 + dice.below(4)).min(count)).map(|i| (gap(i), state)));
        }
    }
}

/// Puts back what fits after all: free gaps in the order given go to KEEP, one by one, where that costs no peak.
pub fn put_back(problem: &Problem, sim: &mut Simulator, plan: &mut Candidate, budget: u64, effort: &mut Effort) {
    let script = &problem.script;
    let mut order: Vec<u32> =
        problem.choices.iter().copied().filter(|&g| plan.states[g as usize] != State::KEEP).collect();
    let worth = |g: u32| {
        let v = script.gaps.all[g as usize].value.0 as usize;
        script.cost[script.maker[v] as usize] / (script.bytes[v] as f64 + 1.0)
    };
    order.sort_by(|&a, &b| worth(b).total_cmp(&worth(a)).then(a.cmp(&b)));
    let mut tops = profile(problem, sim, plan);
    for g in order {
        if effort.is_spent() {
            return;
        }
        let gap = script.gaps.all[g as usize];
        let room = tops[gap.start as usize + 1..gap.end as usize].iter().max().map_or(0, |top| budget as i64 - top);
        let old = plan.states[g as usize];
        // Where it is away all the time it takes its bytes; what came back late has room already for a part.
        if old == State::DROP && room < script.bytes[gap.value.0 as usize] / 2 {
            continue;
        }
        plan.states[g as usize] = State::KEEP;
        let limit = Limit { peak: budget, recompute: plan.outcome.recompute, replays: problem.limit().replays };
        let outcome = sim.run(script, &plan.states, plan.lean, limit);
        effort.spend(script.ops + outcome.replays);
        if !outcome.stopped && outcome.recompute < plan.outcome.recompute {
            plan.outcome = outcome;
            tops = profile(problem, sim, plan);
            effort.spend(script.ops + outcome.replays);
        } else {
            plan.states[g as usize] = old;
        }
    }
}

/// The highest live bytes of each op.
pub fn profile(problem: &Problem, sim: &mut Simulator, plan: &Candidate) -> Vec<i64> {
    let mut run = sim.begin(&problem.script);
    let mut tops = Vec::with_capacity(problem.script.ops);
    for p in 0..problem.script.ops {
        sim.step(&problem.script, &plan.states, plan.lean, Limit::NONE, &mut run, p);
        tops.push(run.top);
    }
    tops
}
