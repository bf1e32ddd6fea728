//! Plans for tapes that are chains of blocks: √n checkpoints, and the optimal persistent schedule.
//!
//! A chain is cut where a single value that can be dropped is read across the cut. Chen et al. 2016, arXiv:1604.06174;
//! Beaumont et al. 2019 (Rotor), arXiv:1911.13214.

use super::problem::Problem;
use super::simulate::State;

/// The values at which the forwards fall into blocks, in order.
pub fn articulations(problem: &Problem) -> Vec<u32> {
    let script = &problem.script;
    // Last forward that reads each value; values are numbered in the order of their makers or nearly so.
    let mut last: Vec<u32> = script.maker.clone();
    for p in (0..script.ops).filter(|&p| script.forward[p]) {
        for &v in script.reads.get(p) {
            last[v as usize] = last[v as usize].max(p as u32);
        }
    }
    // How many values cross the boundary after each op.
    let mut change = vec![0i32; script.ops + 1];
    for v in 0..last.len() {
        change[script.maker[v] as usize] += 1;
        change[last[v] as usize] -= 1;
    }
    let mut crossing = 0;
    let mut cuts = vec![];
    for p in 0..script.ops {
        crossing += change[p];
        if crossing == 1 && script.forward[p] {
            cuts.extend(script.makes.get(p).iter().copied().filter(|&v| last[v as usize] > p as u32));
        }
    }
    cuts
}

/// Keeps each `every`-th articulation value, and drops the rest; what comes back stays.
pub fn checkpoints(problem: &Problem, cuts: &[u32], every: usize) -> Vec<State> {
    let mut states = problem.all(State::LATE);
    for v in cuts.iter().skip(every - 1).step_by(every) {
        keep(problem, &mut states, *v, State::KEEP);
    }
    states
}

fn keep(problem: &Problem, states: &mut [State], v: u32, state: State) {
    for g in problem.script.gaps.of_value(super::tape::ValueId(v)) {
        if problem.free[g] {
            states[g] = state;
        }
    }
}

/// Slots that memory is counted in, and blocks at most: the table has slots × blocks² / 2 entries.
const SLOTS: usize = 160;
const BLOCKS: usize = 64;

/// One block of the chain: its forward's cost, the bytes of its values without the last, and of the last.
#[derive(Clone, Copy, Debug, Default)]
struct Block {
    cost: f64,
    inside: i64,
    out: i64,
}

/// The optimal persistent schedule of the chain with so many bytes for its values.
pub fn rotor(problem: &Problem, bytes: i64) -> Option<Vec<State>> {
    let script = &problem.script;
    let mut cuts = articulations(problem);
    if cuts.len() < 2 {
        return None;
    }
    while cuts.len() >= BLOCKS {
        cuts = cuts.iter().copied().skip(1).step_by(2).collect();
    }
    let block_of = |p: u32| cuts.partition_point(|&v| script.maker[v as usize] < p);
    let mut blocks = vec![Block::default(); cuts.len() + 1];
    for p in (0..script.ops).filter(|&p| script.forward[p]) {
        blocks[block_of(p as u32)].cost += script.cost[p];
    }
    let mut members = vec![vec![]; blocks.len()];
    for v in 0..script.bytes.len() {
        let block = block_of(script.maker[v]);
        if cuts.get(block) == Some(&(v as u32)) {
            blocks[block].out = script.bytes[v];
        } else if !script.gaps.of_value(super::tape::ValueId(v as u32)).is_empty() {
            blocks[block].inside += script.bytes[v];
        }
        members[block].push(v as u32);
    }
    let slot = (bytes.max(1) as f64 / SLOTS as f64).max(1.0);
    let slots = |bytes: i64| (bytes as f64 / slot).ceil() as usize;
    let table = Table::fill(&blocks, slots);
    let mut states = problem.all(State::DROP);
    let mut passes = vec![0usize; blocks.len()];
    // A checkpoint stays what it is when its block is saved whole later on.
    let mut done = vec![false; script.bytes.len()];
    table.read(SLOTS, 0, blocks.len(), &mut passes, &mut |block, passes, all| {
        let kept = if all { &members[block][..] } else { &cuts[block..=block] };
        for &v in kept {
            if !std::mem::replace(&mut done[v as usize], true) {
                keep(problem, &mut states, v, State::late(passes[block]));
            }
        }
    })?;
    Some(states)
}

/// Costs of sub-chains `first..last` with `m` free slots, and where their first checkpoint is (0: all of the block).
struct Table {
    count: usize,
    cost: Vec<f32>,
    cut: Vec<u16>,
    /// Slots of all values of each block, and of its last.
    all: Vec<usize>,
    out: Vec<usize>,
}

impl Table {
    fn at(&self, m: usize, first: usize, last: usize) -> usize {
        (first * (self.count + 1) + last) * (SLOTS + 1) + m
    }

    fn fill(blocks: &[Block], slots: impl Fn(i64) -> usize) -> Table {
        let count = blocks.len();
        let size = (count + 1) * (count + 1) * (SLOTS + 1);
        let of = |bytes: fn(&Block) -> i64| blocks.iter().map(|b| slots(bytes(b))).collect::<Vec<usize>>();
        let (inside, all, out) = (of(|b| b.inside), of(|b| b.inside + b.out), of(|b| b.out));
        let mut table = Table { count, cost: vec![f32::INFINITY; size], cut: vec![0; size], all, out };
        for length in 1..=count {
            for first in 0..=count - length {
                let last = first + length;
                for m in 0..=SLOTS {
                    // With everything of the first block saved; alone, its output goes on at once.
                    let need = if length == 1 { inside[first] } else { table.all[first] };
                    let mut best = (f32::INFINITY, 0u16);
                    if m >= need {
                        let rest = if length == 1 { 0.0 } else { table.cost[table.at(m - need, first + 1, last)] };
                        best = (blocks[first].cost as f32 + rest, 0);
                    }
                    let mut ahead = 0.0;
                    for cut in first + 1..last {
                        ahead += blocks[cut - 1].cost as f32;
                        // The last block passed on the way must fit, with what it starts from.
                        let way = table.out[cut - 1] + if cut > first + 1 { table.out[cut - 2] } else { 0 };
                        if m < way {
                            continue;
                        }
                        let right = table.cost[table.at(m - table.out[cut - 1], cut, last)];
                        let cost = ahead + right + table.cost[table.at(m, first, cut)];
                        if cost < best.0 {
                            best = (cost, cut as u16);
                        }
                    }
                    let i = table.at(m, first, last);
                    (table.cost[i], table.cut[i]) = best;
                }
            }
        }
        table
    }

    /// Goes through the schedule; says what is kept after how many passes of its block.
    fn read(
        &self,
        m: usize,
        first: usize,
        last: usize,
        passes: &mut [usize],
        keep: &mut impl FnMut(usize, &[usize], bool),
    ) -> Option<()> {
        // On a stack of its own: (slots, first, last); the right part runs before the left.
        let mut stack = vec![(m, first, last)];
        while let Some((m, first, last)) = stack.pop() {
            let i = self.at(m, first, last);
            if !self.cost[i].is_finite() {
                return None;
            }
            match self.cut[i] as usize {
                0 => {
                    keep(first, passes, true);
                    passes[first] += 1;
                    if first + 1 < last {
                        stack.push((m - self.all[first], first + 1, last));
                    }
                }
                cut => {
                    for block in first..cut - 1 {
                        passes[block] += 1;
                    }
                    keep(cut - 1, passes, false);
                    passes[cut - 1] += 1;
                    stack.push((m, first, cut));
                    stack.push((m - self.out[cut - 1], cut, last));
                }
            }
        }
        Some(())
    }
}
