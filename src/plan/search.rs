//! The search for a plan: a portfolio of ways to a first one, the best of which is improved step by step.

use super::chain::{articulations, checkpoints, rotor};
use super::evict::{Cost, Evictor, Score};
use super::exact;
use super::improve::{Dice, Effort, anneal, put_back};
use super::menu::Menu;
use super::online::{self, Heuristic};
use super::problem::{Candidate, Problem};
use super::simulate::{Limit, State};
use super::tape::Tape;
use super::{Impossible, Plan, Search, Summary};
use super::{ruin, steps};

/// Ops and replays that a full search steps over at most: about a second.
const WORK: usize = 60_000_000;

/// Tapes up to this length are also run under the online heuristics, whose time grows with its square.
const ONLINE_OPS: usize = 1_000;

/// Plans that the local search begins with at most.
const SEEDS: usize = 6;

/// The names that plans give as their methods.
pub const METHODS: [&str; 13] = [
    "keep all",
    "drop all",
    "checkpoints",
    "rotor",
    "look ahead",
    "blocks",
    "search",
    "exact",
    "h_DTR",
    "h_local",
    "h_LRU",
    "h_size",
    "h_MSPS",
];

/// Plans of which a quick search takes the best; fewer where it has stepped over so many ops and replays for them.
const QUICK: usize = 3;
const QUICK_WORK: usize = 200_000;

/// Blocks that are decided on as one, in turns; a quick search looks at single ones, on tapes of so many ops at most.
const ROWS: [usize; 3] = [1, 2, 4];
const QUICK_BLOCK_OPS: usize = 5_000;

/// Plans by the block that are improved, and the parts of a search's effort that this takes on top: to put back what fits in
/// each, and to rebuild the best.
const BLOCK_SEEDS: usize = 1;
const BLOCK_SHARES: (f64, f64) = (0.1, 0.1);

/// Ops and replays that a search over lists of steps goes through at most, on top.
const STEPS_WORK: usize = WORK / 3;

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
            steps: found.steps,
        }
    }
}

pub const ONLINE: [(&str, Heuristic); 5] = [
    ("h_DTR", Heuristic::Dtr),
    ("h_local", Heuristic::Local),
    ("h_LRU", Heuristic::Lru),
    ("h_size", Heuristic::Size),
    ("h_MSPS", Heuristic::Msps),
];

/// Every method by itself, for comparison: what it makes of a budget. `None` where it has no plan.
///
/// The online heuristics run by their own rules, which evict in the middle of gaps.
pub fn methods() -> Vec<(&'static str, Box<dyn Fn(&Tape, u64) -> Option<Summary>>)> {
    let mut list: Vec<(&'static str, Box<dyn Fn(&Tape, u64) -> Option<Summary>>)> = vec![];
    let mut add = |name: &'static str, run: fn(&mut Planner, u64, &Candidate)| {
        list.push((name, Box::new(move |tape, budget| alone(tape, budget, run))));
    };
    add("keep all", |planner, _, all| planner.keep(all.clone()));
    add("checkpoints", |planner, budget, _| planner.checkpoints(budget));
    add("rotor", |planner, budget, all| planner.rotor(budget, all));
    add("greedy", |planner, budget, _| {
        let found = planner.fit(State::KEEP, false, budget, SCORES[3]);
        planner.found.extend(found);
    });
    add("look ahead", |planner, budget, _| {
        for score in SCORES {
            let found = planner.fit(State::KEEP, false, budget, score);
            planner.found.extend(found);
        }
    });
    add("blocks", |planner, budget, _| {
        let found = planner.by_block(budget);
        planner.found.extend(found);
    });
    add("backsweep", |planner, budget, _| {
        planner.best(budget);
    });
    for (name, heuristic) in ONLINE {
        let run = move |tape: &Tape, budget| {
            let problem = problem(tape, &Search::default());
            let online = online::run(&problem, budget, heuristic)?;
            Some(Summary { peak: online.peak as u64, recompute: online.recompute, base: problem.script.base_cost })
        };
        list.push((name, Box::new(run)));
    }
    list
}

fn alone(tape: &Tape, budget: u64, run: fn(&mut Planner, u64, &Candidate)) -> Option<Summary> {
    let how = Search::default();
    let problem = problem(tape, &how);
    let mut planner = Planner::new(&problem, &how);
    let all = problem.judge(&mut planner.evictor.sim, problem.start.clone(), false, "keep all");
    if all.outcome.peak <= budget {
        planner.keep(all);
    } else if problem.bound() <= budget {
        run(&mut planner, budget, &all);
    }
    planner.known(budget).map(|c| problem.plan(c.clone()).summary())
}

/// Looks for plans of one tape, and remembers those it found.
pub struct Planner<'a> {
    problem: &'a Problem,
    quick: bool,
    exact: bool,
    blocks: bool,
    evaluations: usize,
    pub evictor: Evictor,
    found: Vec<Candidate>,
    /// Looked for once, when they are wanted first.
    menus: Option<Vec<Menu>>,
}

impl<'a> Planner<'a> {
    pub fn new(problem: &'a Problem, how: &Search) -> Planner<'a> {
        let Search { quick, exact, blocks, local_search_evaluations: evaluations, .. } = *how;
        let (evictor, found, menus) = (Evictor::default(), vec![], None);
        Planner { problem, quick, exact, blocks, evaluations, evictor, found, menus }
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

    /// The cheapest that says what becomes of each gap, from which a search can begin.
    fn improvable(&self, budget: u64) -> Option<Candidate> {
        let fits = self.found.iter().filter(|c| c.outcome.peak <= budget && c.steps.is_empty());
        fits.min_by(|a, b| a.outcome.recompute.total_cmp(&b.outcome.recompute)).cloned()
    }

    fn fit(&mut self, start: State, lean: bool, budget: u64, score: Score) -> Option<Candidate> {
        self.fit_from(self.problem.all(start), lean, budget, score, "look ahead")
    }

    fn fit_from(
        &mut self,
        mut states: Vec<State>,
        lean: bool,
        budget: u64,
        score: Score,
        method: &'static str,
    ) -> Option<Candidate> {
        let limit = self.problem.limit();
        let outcome = self.evictor.fit(self.problem, &mut states, lean, budget, score, limit)?;
        Some(Candidate { states, lean, outcome, steps: vec![], method })
    }

    /// √n, and other numbers of, checkpoints, as they are or with more dropped.
    pub fn checkpoints(&mut self, budget: u64) {
        let cuts = articulations(self.problem);
        let root = (cuts.len() as f64).sqrt().round().max(1.0) as usize;
        for every in [root, root / 2, root * 2, 1] {
            if !cuts.is_empty() && every > 0 {
                let states = checkpoints(self.problem, &cuts, every);
                let found = self.problem.judge(&mut self.evictor.sim, states.clone(), false, "checkpoints");
                self.keep(found);
                let found = self.fit_from(states, false, budget, SCORES[0], "checkpoints");
                found.into_iter().for_each(|c| self.keep(c));
            }
        }
    }

    /// The optimal schedule of the chain of blocks, for a few sizes of what else is alive.
    pub fn rotor(&mut self, budget: u64, all: &Candidate) {
        // Bytes of values at the peak of keeping all, less what is over the budget, is what a chain may take.
        let least = self.problem.bound().min(budget);
        for share in [1.0, 0.85, 0.7, 0.5] {
            let most = (all.outcome.peak - least) as f64;
            let room = (budget - least) as f64 * share + most * 0.02;
            let Some(states) = rotor(self.problem, room as i64) else { continue };
            let found = self.problem.judge(&mut self.evictor.sim, states.clone(), false, "rotor");
            self.keep(found);
            let found = self.fit_from(states, false, budget, SCORES[0], "rotor");
            found.into_iter().for_each(|c| self.keep(c));
        }
    }

    fn online(&mut self, budget: u64) {
        for (name, heuristic) in ONLINE {
            if let Some(online) = online::run(self.problem, budget, heuristic) {
                let found = self.fit_from(online.states, false, budget, SCORES[0], name);
                found.into_iter().for_each(|c| self.keep(c));
                let followed = steps::follow(&self.problem.script, &online.steps);
                if let Some(outcome) = followed.filter(|_| !self.problem.hinted()) {
                    let states = self.problem.start.clone();
                    self.keep(Candidate { states, lean: false, outcome, steps: online.steps, method: name });
                }
            }
        }
    }

    /// As many of the repeated blocks as it takes make a choice that saves more, the first of them first, or the last.
    fn by_block(&mut self, budget: u64) -> Vec<Candidate> {
        let problem = self.problem;
        let rows = if self.quick { &ROWS[..1] } else { &ROWS[..] };
        let menus = self.menus.take().unwrap_or_else(|| Menu::all(problem, rows));
        let mut found = vec![];
        for (menu, last_first) in menus.iter().flat_map(|m| [(m, false), (m, true)]) {
            if self.quick && last_first {
                continue;
            }
            // The fewest steps that fit, between those known not to and those that may.
            let (mut low, mut high) = (0, menu.steps() + 1);
            while high - low > 1 {
                let middle = low + (high - low) / 2;
                let states = menu.states(problem, middle, last_first);
                let plan = problem.judge(&mut self.evictor.sim, states, false, "blocks");
                if !plan.outcome.stopped && plan.outcome.peak <= budget {
                    high = middle;
                    found.push(plan);
                } else {
                    low = middle;
                }
            }
            // One step less, and what is over the budget value by value.
            let scores = if self.quick { &SCORES[..1] } else { &SCORES[..4] };
            for &score in scores {
                let states = menu.states(problem, low, last_first);
                found.extend(self.fit_from(states, false, budget, score, "blocks"));
            }
        }
        self.menus = Some(menus);
        found.sort_by(|a, b| a.outcome.recompute.total_cmp(&b.outcome.recompute));
        found
    }

    /// Plans by the block, the best of them improved. On top of a search without them, so that it is no worse with them.
    fn search_blocks(&mut self, budget: u64) {
        let effort = Effort { evaluations: self.evaluations, work: WORK };
        let before = self.known(budget).map_or(f64::INFINITY, |c| c.outcome.recompute);
        for mut seed in self.by_block(budget).into_iter().take(BLOCK_SEEDS) {
            put_back(self.problem, &mut self.evictor.sim, &mut seed, budget, &mut effort.part(BLOCK_SHARES.0));
            self.keep(seed);
        }
        if self.known(budget).is_some_and(|c| c.outcome.recompute < before) {
            self.rebuild(budget, &mut effort.part(BLOCK_SHARES.1));
        }
    }

    pub fn best(&mut self, budget: u64) -> Option<Candidate> {
        let problem = self.problem;
        let all = problem.judge(&mut self.evictor.sim, problem.start.clone(), false, "keep all");
        if all.outcome.peak <= budget {
            self.keep(all.clone());
            return Some(all);
        }
        let (mut found_here, mut work) = (0, 0);
        for lean in [false, true] {
            for score in SCORES {
                if let Some(found) = self.fit(State::KEEP, lean, budget, score) {
                    self.keep(found);
                    found_here += 1;
                }
                work += self.evictor.work;
                if self.quick && (found_here == QUICK || found_here > 0 && work > QUICK_WORK) {
                    break;
                }
            }
            if self.quick && found_here > 0 {
                if self.blocks && problem.script.ops <= QUICK_BLOCK_OPS {
                    let best = self.by_block(budget).into_iter().next();
                    best.into_iter().for_each(|c| self.keep(c));
                }
                return self.known(budget).cloned();
            }
        }
        for lean in [true, false] {
            for state in [State::DROP, State::LATE] {
                let found = problem.judge(&mut self.evictor.sim, problem.all(state), lean, "drop all");
                self.keep(found);
            }
        }
        self.checkpoints(budget);
        if !self.quick {
            self.rotor(budget, &all);
            if problem.script.ops <= ONLINE_OPS {
                self.online(budget);
            }
        }
        if self.known(budget).is_none() {
            self.least();
        }
        let most = self.known(budget).map_or(f64::INFINITY, |c| c.outcome.recompute);
        let solved = if self.exact { exact::solve(problem, budget, most) } else { None };
        match solved {
            Some(better) => self.found.extend(better),
            None if !self.quick => {
                self.search(budget);
                self.search_steps(budget);
                if self.blocks {
                    self.search_blocks(budget);
                }
                // With a cheaper plan to beat there is less to look at: now it may come to an end.
                let most = self.known(budget).map_or(f64::INFINITY, |c| c.outcome.recompute);
                let solved = if self.exact { exact::solve(problem, budget, most) } else { None };
                self.found.extend(solved.flatten());
            }
            None => {}
        }
        self.known(budget).cloned()
    }

    fn search(&mut self, budget: u64) {
        let problem = self.problem;
        // Short tapes are simulated so fast that more can be tried.
        let more = if problem.script.ops <= 512 { 4 } else { 1 };
        let effort = Effort { evaluations: self.evaluations * more, work: WORK };
        let (mut rebuilding, effort) = (effort.part(0.4), effort.part(0.6));
        // What runs the step several times over is simulated slowly, and is far from the best: rebuilding helps at once.
        if self.improvable(budget).is_some_and(|c| c.outcome.recompute > problem.script.base_cost) {
            let mut part = rebuilding.part(0.25);
            rebuilding = rebuilding.part(0.75);
            self.rebuild(budget, &mut part);
        }
        let sim = &mut self.evictor.sim;
        let fits = |c: &&Candidate| c.outcome.peak <= budget && c.steps.is_empty();
        let mut seeds: Vec<Candidate> = self.found.iter().filter(fits).cloned().collect();
        seeds.sort_by(|a, b| a.outcome.recompute.total_cmp(&b.outcome.recompute));
        seeds.dedup_by(|a, b| a.outcome.recompute == b.outcome.recompute);
        if seeds.is_empty() {
            seeds.extend(self.found.iter().filter(|c| c.steps.is_empty()).cloned());
            seeds.sort_by_key(|c| c.outcome.peak);
        }
        seeds.truncate(SEEDS);
        for (i, mut seed) in seeds.clone().into_iter().enumerate() {
            let mut part = effort.part(0.75 / (seeds.len() as f64));
            if seed.outcome.peak <= budget {
                put_back(problem, sim, &mut seed, budget, &mut part);
            }
            let heat = [0.1, 0.3, 1.0, 0.03][i % 4];
            let better = anneal(problem, sim, &seed, budget, heat, i as u64 + 1, &mut part);
            self.found.extend(better);
            if seed.outcome.peak <= budget {
                self.found.push(seed);
            }
        }
        self.rebuild(budget, &mut rebuilding);
        // The rest goes to the best of them.
        if let Some(best) = self.improvable(budget) {
            let mut part = effort.part(0.25);
            let sim = &mut self.evictor.sim;
            self.found.extend(anneal(problem, sim, &best, budget, 0.05, 99, &mut part));
        }
    }

    /// Where there is a better way that gaps cannot say.
    fn search_steps(&mut self, budget: u64) {
        let problem = self.problem;
        if problem.script.ops <= ONLINE_OPS && !problem.hinted() {
            let mut effort = Effort { evaluations: self.evaluations, work: STEPS_WORK };
            let begin = self.known(budget).map_or(vec![], |c| ruin::steps_of(problem, c));
            self.found.extend(ruin::search(problem, &begin, budget, &mut effort));
        }
    }

    /// Keeps all of what a plan drops in a stretch of the tape, and lets it be fitted again.
    fn rebuild(&mut self, budget: u64, effort: &mut Effort) {
        let Some(mut best) = self.improvable(budget) else { return };
        let (problem, script) = (self.problem, &self.problem.script);
        let mut dice = Dice::new(7);
        let count = problem.choices.len();
        while !effort.is_spent() {
            let mut states = best.states.clone();
            let most = count / (4 << dice.below(5));
            let length = 1 + dice.below(most.max(3));
            let from = dice.below(count);
            let way = dice.below(4);
            for i in from..(from + length).min(count) {
                let g = problem.choices[i] as usize;
                states[g] = match way {
                    0..2 => State::KEEP,
                    2 => states[g].min(State::LATE),
                    _ if dice.below(3) == 0 => State::KEEP,
                    _ => states[g],
                };
            }
            let score = SCORES[dice.below(4)];
            let limit = Limit { recompute: best.outcome.recompute, ..problem.limit() };
            let lean = if dice.below(8) == 0 { !best.lean } else { best.lean };
            let outcome = self.evictor.fit(problem, &mut states, lean, budget, score, limit);
            effort.spend(self.evictor.work.max(4 * script.ops));
            if let Some(outcome) = outcome.filter(|o| o.recompute < best.outcome.recompute) {
                best = Candidate { states, lean, outcome, steps: vec![], method: "search" };
            }
        }
        self.keep(best);
    }

    /// Lowers the cap, between the bound and the lowest peak so far, for as long as one of these ways finds a plan.
    fn lower(&mut self, ways: &[(bool, Score)]) {
        let lowest = |this: &Self| this.found.iter().map(|c| c.outcome.peak).min().unwrap_or(u64::MAX);
        let (mut low, mut high) = (self.problem.bound(), lowest(self));
        while low < high {
            let cap = low + (high - low) / 2;
            let found = ways.iter().find_map(|&(lean, score)| self.fit(State::KEEP, lean, cap, score));
            let fitted = found.is_some();
            found.into_iter().for_each(|c| self.keep(c));
            (low, high) = if fitted { (low, lowest(self).min(cap)) } else { (cap + 1, high) };
        }
    }

    /// The plan with the lowest peak that can be found.
    pub fn least(&mut self) -> Candidate {
        let problem = self.problem;
        for lean in [true, false] {
            for state in [State::KEEP, State::DROP, State::LATE] {
                let found = problem.judge(&mut self.evictor.sim, problem.all(state), lean, "drop all");
                self.keep(found);
            }
        }
        self.lower(&[(true, SCORES[0]), (true, SCORES[3]), (true, SCORES[4]), (false, SCORES[0])]);
        if !self.quick {
            // What none of these can do at one cap, one of them may do at a lower one.
            for (lean, score) in SCORES.iter().flat_map(|s| [(true, *s), (false, *s)]) {
                self.lower(&[(lean, score)]);
            }
        }
        // Short tapes tell how low it goes at all.
        let lowest = |this: &Self| this.found.iter().map(|c| c.outcome.peak).min().unwrap_or(u64::MAX);
        let (mut low, mut high) = (problem.bound(), lowest(self));
        while self.exact && low < high {
            let cap = low + (high - low) / 2;
            match exact::solve(problem, cap, f64::INFINITY) {
                Some(Some(found)) => {
                    high = found.outcome.peak;
                    self.found.push(found);
                }
                Some(None) => low = cap + 1,
                None => break,
            }
        }
        self.found.iter().min_by_key(|c| c.outcome.peak).cloned().expect("bug: keeping all values is a plan")
    }
}
