//! Short tapes are solved to the end: the cheapest way through all sets of values that can be there, in any order.
//!
//! What comes out is no choice for each gap but a list of steps: before which op which value is dropped or made again. It
//! finds what gaps cannot say, such as a value dropped in the middle of one, and that no plan can be cheaper.

use super::gaps::Gaps;
use super::problem::{Candidate, Problem};
use super::simulate::Script;
use super::steps::{Step, drop_leftovers, follow};
use super::tape::ValueId;
use rustc_hash::FxHashMap;
use std::collections::BinaryHeap;

/// Values at most: there are 2ⁿ sets.
pub const VALUES: usize = 18;
/// Sets looked at, over all ops, before it gives up: a fraction of a second.
const ENTRIES: usize = 1_500_000;

type Set = u32;

/// A set that was reached, and how.
#[derive(Clone, Copy)]
struct Entry {
    set: Set,
    from: u32,
    step: Option<Step>,
}

/// By cost, the least on top; then in the order of being found.
#[derive(PartialEq)]
struct Next {
    cost: f64,
    entry: u32,
}

impl Eq for Next {}

impl PartialOrd for Next {
    fn partial_cmp(&self, other: &Next) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Next {
    fn cmp(&self, other: &Next) -> std::cmp::Ordering {
        other.cost.total_cmp(&self.cost).then(other.entry.cmp(&self.entry))
    }
}

fn members(set: Set) -> impl Iterator<Item = u32> {
    (0..Set::BITS).filter(move |v| set >> v & 1 == 1)
}

fn set(values: &[u32]) -> Set {
    values.iter().fold(0, |set, v| set | 1 << v)
}

struct Solver<'a> {
    script: &'a Script,
    budget: i64,
    /// Of each op: its reads and makes, as sets.
    reads: Vec<Set>,
    makes: Vec<Set>,
    entries: Vec<Entry>,
}

impl Solver<'_> {
    fn bytes(&self, set: Set) -> i64 {
        members(set).map(|v| self.script.bytes[v as usize]).sum()
    }

    /// All that is reached before op `p` from the sets given, by dropping what may go and running makers again.
    fn spread(&mut self, p: usize, usual: Set, held: Set, begin: Vec<Next>, most: f64) -> Option<Vec<Next>> {
        let script = self.script;
        let forwards: Vec<usize> = (0..p).filter(|&f| script.may_run(f, p)).collect();
        let mut best: FxHashMap<Set, f64> =
            begin.iter().map(|n| (self.entries[n.entry as usize].set, n.cost)).collect();
        let mut heap: BinaryHeap<Next> = begin.into();
        let mut reached = vec![];
        while let Some(Next { cost, entry }) = heap.pop() {
            let set = self.entries[entry as usize].set;
            if cost > best[&set] {
                continue;
            }
            let live = script.level[p] - self.bytes(usual & !set) + self.bytes(set & !usual);
            let room = self.budget - live;
            let mut tight = script.high[p] - script.level[p] > room;
            let mut reach = |this: &mut Self, next: Set, cost: f64, step: Step| {
                if cost < most && best.get(&next).is_none_or(|known| cost < *known) {
                    best.insert(next, cost);
                    this.entries.push(Entry { set: next, from: entry, step: Some(step) });
                    heap.push(Next { cost, entry: this.entries.len() as u32 - 1 });
                }
            };
            for &f in &forwards {
                if self.reads[f] & !set != 0 || self.makes[f] & !set == 0 {
                    continue;
                }
                if script.rise[f] > room {
                    tight = true;
                    continue;
                }
                let value = ValueId(self.makes[f].trailing_zeros());
                reach(self, set | self.makes[f], cost + script.cost[f], Step { before: p as u32, value, make: true });
            }
            // Dropping costs nothing, so it can wait until something does not fit.
            if tight {
                for v in members(set & !held) {
                    reach(self, set & !(1 << v), cost, Step { before: p as u32, value: ValueId(v), make: false });
                }
            }
            reached.push(Next { cost, entry });
            if self.entries.len() > ENTRIES {
                return None;
            }
        }
        Some(reached)
    }
}

/// The cheapest way to stay within the budget, if there is one that costs less than `most`. `None` where the tape is too long
/// to say, and where hints say what to do.
pub fn solve(problem: &Problem, budget: u64, most: f64) -> Option<Option<Candidate>> {
    let script = &problem.script;
    let count = script.bytes.len();
    if count == 0 || count > VALUES || problem.hinted() {
        return None;
    }
    let of = |lists: &super::simulate::Lists| (0..script.ops).map(|p| set(lists.get(p))).collect::<Vec<Set>>();
    let budget = i64::try_from(budget).unwrap_or(i64::MAX);
    let entries = vec![Entry { set: 0, from: 0, step: None }];
    let mut solver = Solver { script, budget, reads: of(&script.reads), makes: of(&script.makes), entries };
    let mut now = vec![Next { cost: 0.0, entry: 0 }];
    let mut usual: Set = 0;
    for p in 0..script.ops {
        let reached = solver.spread(p, usual, held(&script.gaps, usual, p), now, most)?;
        let (reads, makes, gone) = (solver.reads[p], solver.makes[p], set(script.releases.get(p)));
        let mut after: FxHashMap<Set, Next> = FxHashMap::default();
        for Next { cost, entry } in reached {
            let set = solver.entries[entry as usize].set;
            let high = script.high[p] - solver.bytes(usual & !set) + solver.bytes(set & !usual);
            if !script.forward[p] && reads & !set != 0 || high > budget {
                continue;
            }
            let next = (set | makes) & !gone;
            if after.get(&next).is_none_or(|known| cost < known.cost) {
                after.insert(next, Next { cost, entry });
            }
        }
        usual = (usual | makes) & !gone;
        // In an order that does not depend on the map.
        let mut list: Vec<(Set, Next)> = after.into_iter().collect();
        list.sort_unstable_by_key(|(set, _)| *set);
        now = vec![];
        for (set, Next { cost, entry }) in list {
            solver.entries.push(Entry { set, from: entry, step: None });
            now.push(Next { cost, entry: solver.entries.len() as u32 - 1 });
        }
    }
    let Some(end) = now.iter().max().map(|n| n.entry) else { return Some(None) };
    let mut steps = vec![];
    let mut at = end;
    while at != 0 {
        let entry = solver.entries[at as usize];
        steps.extend(entry.step);
        at = entry.from;
    }
    steps.reverse();
    drop_leftovers(script, &mut steps);
    let outcome = follow(script, &steps)?;
    Some(Some(Candidate { states: problem.start.clone(), lean: false, outcome, method: "exact", steps }))
}

/// Values that must stay: those that are there and in no gap before op `p`.
fn held(gaps: &Gaps, usual: Set, p: usize) -> Set {
    members(usual).filter(|&v| gaps.at(ValueId(v), p).is_none()).fold(0, |set, v| set | 1 << v)
}
