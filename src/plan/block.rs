//! What a repeated block can do without: choices of values to drop, each with the bytes that it keeps and what it costs.
//!
//! A choice is made for one block and stands for all of them. Blocks that make different choices can share a budget, so the
//! choices worth having are those on the lower hull of bytes and cost.

use super::problem::Problem;
use super::repeat::Repeat;
use std::cell::Cell;

/// Values of a block, each a bit.
pub type Set = u128;

/// Choices between two others are looked for up to this depth.
const DEPTH: usize = 5;
/// Values that change together are so many apart at most.
const NEAR: usize = 4;
const PASSES: usize = 16;
/// Forwards stepped over, in all that is tried for the blocks of one tape: some milliseconds.
pub const WORK: usize = 3_000_000;

/// A choice: values that are dropped from their first gap and kept when they come back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    pub drop: Set,
    pub held: i64,
    pub cost: f64,
}

/// A forward of the block. Of its inputs, those that the block itself makes.
struct Forward {
    reads: Set,
    makes: Set,
    cost: f64,
}

/// A visit that reads values of the block, those that it leaves inside a gap, and those released before the next one.
struct Visit {
    reads: Set,
    inside: Set,
    gone: Set,
}

/// One block, or some in a row as one, with all that is not its own taken for there.
pub struct Block {
    forwards: Vec<Forward>,
    visits: Vec<Visit>,
    bytes: Vec<i64>,
    /// Values that may be dropped, and those that are not there for the visits in any case.
    free: Set,
    gone: Set,
    /// What is left of the work.
    left: Cell<usize>,
}

fn members(set: Set) -> impl Iterator<Item = usize> {
    (0..Set::BITS as usize).filter(move |v| set >> v & 1 == 1)
}

impl Block {
    /// `rows` blocks of a repeat as one, with so much work for its choices. `None` where they make more values than there are bits.
    pub fn of(
        problem: &Problem,
        repeat: &Repeat,
        rows: usize,
        released: &[u32],
        last: &[u32],
        work: usize,
    ) -> Option<Block> {
        let script = &problem.script;
        // In the middle, where neighbours on both sides are alike.
        let first = (repeat.count() - rows) / 2;
        let ops = &repeat.ops[first * repeat.period..(first + rows) * repeat.period];
        let values: Vec<u32> = ops.iter().flat_map(|&f| script.makes.get(f as usize)).copied().collect();
        if values.len() > Set::BITS as usize {
            return None;
        }
        let mut order: Vec<(u32, usize)> = values.iter().enumerate().map(|(i, &v)| (v, i)).collect();
        order.sort_unstable();
        let bit = |v: u32| order.binary_search_by_key(&v, |o| o.0).map_or(0, |i| 1 << order[i].1);
        let set = |list: &[u32]| list.iter().fold(0, |set, &v| set | bit(v));
        let of = |f: &u32| {
            let f = *f as usize;
            Forward { reads: set(script.reads.get(f)), makes: set(script.makes.get(f)), cost: script.cost[f] }
        };
        let end = *ops.last()?;
        let gaps = |v: u32| &script.gaps.all[script.gaps.of_value(super::tape::ValueId(v))];
        let mut needs: Vec<u32> = values.iter().flat_map(|&v| gaps(v)).map(|gap| gap.end).collect();
        needs.sort_unstable();
        needs.dedup();
        let turn = *needs.first()?;
        let (mut free, mut gone) = (0, 0);
        for (i, &v) in values.iter().enumerate() {
            let range = script.gaps.of_value(super::tape::ValueId(v));
            // What later blocks begin with stays: each would be made from the one before it.
            let may_go = !range.is_empty() && problem.free[range.start] && last[v as usize] <= end;
            free |= if may_go { 1 << i } else { 0 };
            gone |= if released[v as usize] < turn { 1 << i } else { 0 };
        }
        let visit = |(n, &p): (usize, &u32)| {
            let next = needs.get(n + 1).copied().unwrap_or(u32::MAX);
            let mut visit = Visit { reads: 0, inside: 0, gone: 0 };
            for (i, &v) in values.iter().enumerate() {
                visit.reads |= if gaps(v).iter().any(|gap| gap.end == p) { 1 << i } else { 0 };
                visit.inside |= if gaps(v).iter().any(|gap| gap.start < p && p < gap.end) { 1 << i } else { 0 };
                visit.gone |= if (p..next).contains(&released[v as usize]) { 1 << i } else { 0 };
            }
            visit
        };
        let visits = needs.iter().enumerate().map(visit).collect();
        let bytes = values.iter().map(|&v| script.bytes[v as usize]).collect();
        Some(Block { forwards: ops.iter().map(of).collect(), visits, bytes, free, gone, left: Cell::new(work) })
    }

    fn choice(&self, drop: Set) -> Choice {
        let (mut missing, mut cost) = (self.gone | drop, 0.0);
        for visit in &self.visits {
            let mut wanted = visit.reads & missing;
            if wanted != 0 {
                self.left.set(self.left.get().saturating_sub(self.forwards.len()));
                let mut made = 0;
                for forward in self.forwards.iter().rev().filter(|f| f.makes != 0) {
                    if forward.makes & wanted != 0 {
                        cost += forward.cost;
                        made |= forward.makes;
                        wanted |= forward.reads & missing;
                    }
                }
                missing &= !(made & (visit.reads | visit.inside));
            }
            missing |= visit.gone;
        }
        let held = members(self.free & !drop).map(|v| self.bytes[v]).sum();
        Choice { drop, held, cost }
    }

    /// Changes one value, or two near each other, for as long as that lowers the price.
    fn descend(&self, start: Choice, price: impl Fn(&Choice) -> f64) -> Choice {
        let free: Vec<Set> = members(self.free).map(|v| 1 << v).collect();
        let mut best = start;
        for _ in 0..PASSES {
            let before = best.drop;
            for i in (0..free.len()).take_while(|_| self.left.get() > 0) {
                for flip in (i..(i + 1 + NEAR).min(free.len())).map(|j| free[i] | free[j]) {
                    let other = self.choice(best.drop ^ flip);
                    if price(&other) < price(&best) * (1.0 - 1e-9) {
                        best = other;
                    }
                }
            }
            if best.drop == before || self.left.get() == 0 {
                break;
            }
        }
        best
    }

    /// Choices from keeping all to keeping the least: each holds less than the one before, for more cost a byte.
    pub fn choices(&self) -> Vec<Choice> {
        let (all, none) = (self.choice(0), self.choice(self.free));
        let mut choices = vec![all];
        if none.held < all.held {
            self.between(all, none, DEPTH, &mut choices);
            choices.push(none);
        }
        hull(choices)
    }

    fn between(&self, more: Choice, less: Choice, depth: usize, choices: &mut Vec<Choice>) {
        if depth == 0 || more.held <= less.held || self.left.get() == 0 {
            return;
        }
        let rate = (less.cost - more.cost).max(0.0) / (more.held - less.held) as f64;
        let price = |c: &Choice| c.cost + rate * c.held as f64;
        let (a, b) = (self.descend(more, price), self.descend(less, price));
        let found = if price(&b) < price(&a) { b } else { a };
        if price(&found) < price(&more).min(price(&less)) * (1.0 - 1e-9) {
            self.between(more, found, depth - 1, choices);
            choices.push(found);
            self.between(found, less, depth - 1, choices);
        }
    }
}

/// Those on the lower hull, with the most held first.
fn hull(mut choices: Vec<Choice>) -> Vec<Choice> {
    choices.sort_by(|a, b| b.held.cmp(&a.held).then(a.cost.total_cmp(&b.cost)));
    let mut hull: Vec<Choice> = vec![];
    for c in choices {
        if hull.last().is_some_and(|last| last.held == c.held) {
            continue;
        }
        while let [.., a, b] = &hull[..] {
            let rate = |from: &Choice, to: &Choice| (to.cost - from.cost) / (from.held - to.held) as f64;
            if rate(a, b) < rate(b, &c) {
                break;
            }
            hull.pop();
        }
        hull.push(c);
    }
    hull
}
