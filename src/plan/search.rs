//! The search for a plan: a portfolio of ways to a first one, the best of which is improved step by step.

use super::evict::{Cost, Evictor, Score};
use super::improve::{Effort, anneal, put_back};
use super::problem::{Candidate, Problem};
use super::simulate::State;
use super::tape::Tape;
use super::{Impossible, Plan, Search};

/// Ops and replays that a full search steps over at most: about a second.
const WORK: usize = 60_000_000;

pub const SCORES: [Score; 7] = [
    Score::new(Cost::Own, true, true),
    Score::new(Cost::Closure, true, true),
    Score::new(Cost::Own, true, false),
    Score::new(Cost::Closure, true, false),
    Score::new(Cost::Unit, true, false),
    Score::new(Cost::Unit, false, true),
    Score::new(Cost::Unit, true, true),
];

fn problem(tape: &Tape, how: &Search) -> Problem {
    Problem::of(tape, &how.must_keep, &how.must_drop).unwrap_or_else(|e| panic!("bug: {}", e.text()))
}

/// The cheapest plan found whose peak is within the budget.
pub fn plan(tape: &Tape, budget: u64, how: &Search) -> Result<Plan, Impossible> {
    let problem = problem(tape, how);
    let found = if problem.bound() <= budget { Planner::new(&problem, how).best(budget) } else { None };
    found.map(|c| problem.plan(c)).ok_or_else(|| impossible(&problem, how))
}

/// The plan with the lowest peak found.
pub fn least(tape: &Tape) -> Plan {
    let how = Search::default();
    let problem = problem(tape, &how);
    let found = Planner::new(&problem, &how).least();
    problem.plan(found)
}

/// No plan has a lower peak.
pub fn bound(tape: &Tape) -> u64 {
    problem(tape, &Search::default()).bound()
}

/// A plan for each budget, in the order given. More bytes never cost more time.
pub fn ladder(tape: &Tape, budgets: &[u64]) -> Vec<(u64, Option<Plan>)> {
    rungs(&problem(tape, &Search::default()), budgets, &Search::default())
}

fn rungs(problem: &Problem, budgets: &[u64], how: &Search) -> Vec<(u64, Option<Plan>)> {
    let mut order: Vec<usize> = (0..budgets.len()).collect();
    order.sort_by_key(|&i| budgets[i]);
    let mut rungs: Vec<(u64, Option<Plan>)> = budgets.iter().map(|&b| (b, None)).collect();
    let mut planner = Planner::new(problem, how);
    for i in order {
        let budget = budgets[i];
        planner.best(budget);
        rungs[i].1 = planner.known(budget).map(|c| problem.plan(c.clone()));
    }
    rungs
}

fn impossible(problem: &Problem, how: &Search) -> Impossible {
    let quick = Search { quick: true, ..how.clone() };
    let mut planner = Planner::new(problem, &quick);
    let least = planner.least().outcome.peak;
    let most = problem.judge(&mut planner.evictor.sim, problem.start.clone(), false, "keep all").outcome.peak;
    let step = most.saturating_sub(least) / 4;
    let mut ladder = vec![];
    for budget in (0..4).map(|i| least + i * step) {
        planner.best(budget);
        ladder.extend(planner.known(budget).map(|c| (budget, problem.plan(c.clone()).summary())));
    }
    Impossible { least, ladder }
}

impl Problem {
    pub fn plan(&self, found: Candidate) -> Plan {
        Plan {
            lean: found.lean,
            peak: found.outcome.peak,
            recompute: found.outcome.recompute,
            base: self.script.base_cost,
            method: found.method,
            states: found.states,
        }
    }
}

/// Looks for plans of one tape, and remembers those it found.
pub struct Planner<'a> {
    problem: &'a Problem,
    quick: bool,
    evaluations: usize,
    pub evictor: Evictor,
    found: Vec<Candidate>,
}

impl<'a> Planner<'a> {
    pub fn new(problem: &'a Problem, how: &Search) -> Planner<'a> {
        let (quick, evaluations) = (how.quick, how.local_search_evaluations);
        Planner { problem, quick, evaluations, evictor: Evictor::default(), found: vec![] }
    }

    fn keep(&mut self, found: Candidate) {
        if !found.outcome.stopped {
            self.found.push(found);
        }
    }

    /// The cheapest plan known that fits.
    pub fn known(&self, budget: u64) -> Option<&Candidate> {
        let fits = self.found.iter().filter(|c| c.outcome.peak <= budget);
        fits.min_by(|a, b| a.outcome.recompute.total_cmp(&b.outcome.recompute))
    }

    fn fit(&mut self, start: State, lean: bool, budget: u64, score: Score) -> Option<Candidate> {
        let mut states = self.problem.all(start);
        let limit = self.problem.limit();
        let outcome = self.evictor.fit(self.problem, &mut states, lean, budget, score, limit)?;
        Some(Candidate { states, lean, outcome, method: "look ahead" })
    }

    pub fn best(&mut self, budget: u64) -> Option<Candidate> {
        let problem = self.problem;
        let all = problem.judge(&mut self.evictor.sim, problem.start.clone(), false, "keep all");
        if all.outcome.peak <= budget {
            self.keep(all.clone());
            return Some(all);
        }
        for lean in [false, true] {
            for score in SCORES {
                if let Some(found) = self.fit(State::KEEP, lean, budget, score) {
                    self.keep(found);
                    if self.quick {
                        return self.known(budget).cloned();
                    }
                }
            }
        }
        for lean in [true, false] {
            for state in [State::DROP, State::LATE] {
                let found = problem.judge(&mut self.evictor.sim, problem.all(state), lean, "drop all");
                self.keep(found);
            }
        }
        if self.known(budget).is_none() {
            self.least();
        }
        if !self.quick {
            self.search(budget);
        }
        self.known(budget).cloned()
    }

    fn search(&mut self, budget: u64) {
        let problem = self.problem;
        let mut effort = Effort { evaluations: self.evaluations, work: WORK };
        let sim = &mut self.evictor.sim;
        let mut seeds: Vec<Candidate> = self.found.iter().filter(|c| c.outcome.peak <= budget).cloned().collect();
        seeds.sort_by(|a, b| a.outcome.recompute.total_cmp(&b.outcome.recompute));
        seeds.truncate(4);
        if seeds.is_empty() {
            seeds.extend(self.found.iter().min_by_key(|c| c.outcome.peak).cloned());
        }
        let mut more = vec![];
        for (i, seed) in seeds.iter().enumerate() {
            let mut part = effort.part(1.0 / (seeds.len() - i) as f64);
            let before = part;
            let mut seed = seed.clone();
            if seed.outcome.peak <= budget {
                put_back(problem, sim, &mut seed, budget, &mut part);
            }
            let heat = if i % 2 == 0 { 0.1 } else { 0.3 };
            more.extend(anneal(problem, sim, &seed, budget, heat, i as u64 + 1, &mut part));
            more.push(seed);
            effort.evaluations -= before.evaluations - part.evaluations;
            effort.work -= before.work - part.work;
        }
        for found in more {
            if found.outcome.peak <= budget {
                self.keep(found);
            }
        }
    }

    /// Lowers the cap until nothing fits any more.
    pub fn least(&mut self) -> Candidate {
        let problem = self.problem;
        for lean in [true, false] {
            for state in [State::KEEP, State::DROP, State::LATE] {
                let found = problem.judge(&mut self.evictor.sim, problem.all(state), lean, "drop all");
                self.keep(found);
            }
        }
        let lowest = |this: &Self| this.found.iter().map(|c| c.outcome.peak).min().unwrap_or(u64::MAX);
        let (mut low, mut high) = (problem.bound(), lowest(self));
        while low < high {
            let cap = low + (high - low) / 2;
            let mut fitted = false;
            for (lean, score) in [(true, SCORES[0]), (true, SCORES[3]), (true, SCORES[4]), (false, SCORES[0])] {
                if let Some(found) = self.fit(State::KEEP, lean, cap, score) {
                    self.keep(found);
                    fitted = true;
                    break;
                }
            }
            (low, high) = if fitted { (low, lowest(self).min(cap)) } else { (cap + 1, high) };
        }
        self.found.iter().min_by_key(|c| c.outcome.peak).cloned().expect("bug: keeping all values is a plan")
    }
}
