//! Repeated blocks of a tape: layers, residual blocks, unrolled cells, found by what is recorded of their forwards.
//!
//! Forwards are letters; a network of equal blocks is a repetition in the word that they spell. All repetitions of a word that
//! cannot be made longer come from its Lyndon factors. Bannai et al. 2017, arXiv:1406.0263.

use super::problem::Problem;
use super::tape::{Op, ValueId};
use rustc_hash::FxHasher;
use std::hash::{Hash, Hasher};

/// Blocks in a row that are worth the name.
const TIMES: usize = 3;
/// Costs of one kind of forward are the same up to this factor: measured ones scatter.
const SCATTER: f64 = 1.25;
/// A value that so many forwards read, the last of them so many later, is one that all blocks share, such as what an encoder
/// hands to each layer of a decoder.
const SHARED: (u32, u32) = (4, 64);

/// Equal blocks, one after the other.
#[derive(Clone, Debug, PartialEq)]
pub struct Repeat {
    /// Forwards of one block.
    pub period: usize,
    /// The forwards of all blocks, in order.
    pub ops: Vec<u32>,
}

/// Gaps of different blocks that correspond: the same place in the period, and the same kind of gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Class {
    /// Which of the block's values.
    pub value: u32,
    /// Which of the value's gaps, and of how many.
    pub nth: u32,
    pub of: u32,
}

impl Repeat {
    pub fn count(&self) -> usize {
        self.ops.len() / self.period
    }

    pub fn block(&self, block: usize) -> &[u32] {
        &self.ops[block * self.period..(block + 1) * self.period]
    }

    /// What a block makes. Lists of different blocks correspond, item by item.
    pub fn values(&self, problem: &Problem, block: usize) -> Vec<u32> {
        self.block(block).iter().flat_map(|&f| problem.script.makes.get(f as usize)).copied().collect()
    }

    /// Classes of the gaps of a block, each with its gap. A class that is missing here may be there in other blocks.
    pub fn gaps(&self, problem: &Problem, block: usize) -> Vec<(Class, u32)> {
        let mut gaps = vec![];
        for (value, v) in self.values(problem, block).into_iter().enumerate() {
            let range = problem.script.gaps.of_value(ValueId(v));
            let of = range.len() as u32;
            gaps.extend(range.enumerate().map(|(n, g)| (Class { value: value as u32, nth: n as u32, of }, g as u32)));
        }
        gaps
    }
}

/// A number for each op: ops have the same one if their names are, and their modules but for the numbers in them.
pub fn kinds(ops: &[Op]) -> Vec<u64> {
    let kind = |op: &Op| {
        let mut hasher = FxHasher::default();
        op.name.hash(&mut hasher);
        op.module.bytes().filter(|b| !b.is_ascii_digit()).for_each(|b| hasher.write_u8(b));
        hasher.finish()
    };
    ops.iter().map(kind).collect()
}

fn hash(key: &impl Hash) -> u64 {
    let mut hasher = FxHasher::default();
    key.hash(&mut hasher);
    hasher.finish()
}

/// Repeated blocks of which none is in two, in the order of the tape: those that leave the fewest forwards to decide on.
pub fn find(problem: &Problem) -> Vec<Repeat> {
    let forwards: Vec<u32> = (0..problem.script.ops as u32).filter(|&p| problem.script.forward[p as usize]).collect();
    let width = crossing(problem, &forwards);
    let chosen = choose(repetitions(&letters(problem, &forwards)));
    chosen.into_iter().map(|run| cut(run, &forwards, &width)).collect()
}

/// A number for each forward: the same for those that do the same work on inputs that lie as far back.
fn letters(problem: &Problem, forwards: &[u32]) -> Vec<u64> {
    let script = &problem.script;
    let mut rank = vec![0u32; script.ops];
    // Of each value: how many forwards read it, and how far the last of them is.
    let mut readers = vec![(0, 0); script.bytes.len()];
    for (i, &f) in forwards.iter().enumerate() {
        rank[f as usize] = i as u32;
        for &v in script.reads.get(f as usize) {
            let (count, far) = &mut readers[v as usize];
            (*count, *far) = (*count + 1, i as u32 - rank[script.maker[v as usize] as usize]);
        }
    }
    let mut letters: Vec<u64> = Vec::with_capacity(forwards.len());
    for (i, &f) in forwards.iter().enumerate() {
        let f = f as usize;
        let mut hasher = FxHasher::default();
        (problem.kinds[f], script.rise[f], script.net[f]).hash(&mut hasher);
        for &v in script.makes.get(f) {
            script.bytes[v as usize].hash(&mut hasher);
        }
        for &v in script.reads.get(f) {
            let maker = script.maker[v as usize];
            let output = script.makes.get(maker as usize).iter().position(|w| *w == v);
            let (count, far) = readers[v as usize];
            if count >= SHARED.0 && far >= SHARED.1 {
                v.hash(&mut hasher);
            } else {
                (i as u32 - rank[maker as usize], output).hash(&mut hasher);
            }
        }
        letters.push(hasher.finish());
    }
    // By cost, each letter becomes as many as there are clusters.
    let mut order: Vec<usize> = (0..letters.len()).collect();
    let cost = |i: usize| script.cost[forwards[i] as usize];
    order.sort_by(|&a, &b| letters[a].cmp(&letters[b]).then(cost(a).total_cmp(&cost(b))));
    let (mut letter, mut least) = (None, 0.0);
    for i in order {
        if letter != Some(letters[i]) || cost(i) > least * SCATTER {
            (letter, least) = (Some(letters[i]), cost(i));
        }
        letters[i] = hash(&(letters[i], least.to_bits()));
    }
    letters
}

/// A stretch of a word that repeats itself after each `period` letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Run {
    end: usize,
    begin: usize,
    period: usize,
}

/// Sums over the beginnings of a word, by which any two stretches of it are compared at once.
struct Word<'a> {
    letters: &'a [u64],
    sums: Vec<u64>,
    powers: Vec<u64>,
}

/// 2⁶¹ − 1, a prime, and a number below it.
const PRIME: u64 = (1 << 61) - 1;
const RADIX: u64 = 0x0123_4567_89AB_CDEF;

fn multiply(a: u64, b: u64) -> u64 {
    (u128::from(a) * u128::from(b) % u128::from(PRIME)) as u64
}

impl<'a> Word<'a> {
    fn of(letters: &'a [u64]) -> Word<'a> {
        let (mut sums, mut powers) = (vec![0], vec![1]);
        for (i, letter) in letters.iter().enumerate() {
            sums.push((multiply(sums[i], RADIX) + letter % PRIME) % PRIME);
            powers.push(multiply(powers[i], RADIX));
        }
        Word { letters, sums, powers }
    }

    fn sum(&self, from: usize, length: usize) -> u64 {
        (self.sums[from + length] + PRIME - multiply(self.sums[from], self.powers[length])) % PRIME
    }

    /// The greatest length up to `most` for which `same` holds: it holds for all lengths below one for which it does.
    fn longest(most: usize, same: impl Fn(usize) -> bool) -> usize {
        let (mut low, mut high) = (0, 1);
        while high <= most && same(high) {
            (low, high) = (high, 2 * high);
        }
        high = high.min(most + 1);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if same(middle) { low = middle } else { high = middle }
        }
        low
    }

    /// How far the stretches that begin at `i` and at a later `j` are the same.
    fn ahead(&self, i: usize, j: usize) -> usize {
        Word::longest(self.letters.len() - j, |n| self.sum(i, n) == self.sum(j, n))
    }

    /// The same for those that end before `i` and before `j`.
    fn behind(&self, i: usize, j: usize) -> usize {
        Word::longest(i, |n| self.sum(i - n, n) == self.sum(j - n, n))
    }

    /// Whether the stretch `i..j` comes before `j..k` in the dictionary, of the alphabet or of the alphabet backwards.
    fn precedes(&self, i: usize, j: usize, k: usize, backwards: bool) -> bool {
        let same = self.ahead(i, j);
        if same >= (j - i).min(k - j) {
            return j - i < k - j;
        }
        (self.letters[i + same] < self.letters[j + same]) != backwards
    }
}

/// All stretches that repeat themselves often enough and that cannot be made longer.
fn repetitions(letters: &[u64]) -> Vec<Run> {
    let word = Word::of(letters);
    let n = letters.len();
    let mut runs = vec![];
    for backwards in [false, true] {
        // The end of the longest Lyndon word that begins at each letter.
        let mut ends = vec![n; n];
        for i in (0..n).rev() {
            let mut end = i + 1;
            while end < n && word.precedes(i, end, ends[end], backwards) {
                end = ends[end];
            }
            ends[i] = end;
            if end < n {
                let (begin, far) = (i - word.behind(i, end), end + word.ahead(i, end));
                if far - begin >= TIMES * (end - i) {
                    runs.push(Run { begin, end: far, period: end - i });
                }
            }
        }
    }
    runs.sort_unstable();
    runs.dedup();
    runs
}

/// Runs that do not overlap, such that as many forwards as possible are decided with others. In order of their ends.
fn choose(runs: Vec<Run>) -> Vec<Run> {
    // Neighbours may share what is less than a period: the later one can do without.
    let short = |run: &Run| (run.period - 1).min(run.end - run.begin - TIMES * run.period);
    let runs: Vec<Run> = runs.iter().flat_map(|run| [*run, Run { begin: run.begin + short(run), ..*run }]).collect();
    // The most that can be had of the first so many runs, and with how many of those before it the last of them goes.
    let mut best = vec![0];
    let mut before = vec![];
    for (i, run) in runs.iter().enumerate() {
        let free = runs[..i].partition_point(|r| r.end <= run.begin);
        let with = best[free] + run.end - run.begin - run.period;
        before.push(if with > best[i] { Some(free) } else { None });
        best.push(with.max(best[i]));
    }
    let (mut chosen, mut i) = (vec![], runs.len());
    while i > 0 {
        i = match before[i - 1] {
            Some(free) => {
                chosen.push(i - 1);
                free
            }
            None => i - 1,
        };
    }
    let mut end = 0;
    let whole = |&i: &usize| {
        // Only what the one before has taken is done without.
        let begin = runs[i / 2 * 2].begin.max(end);
        end = runs[i].end;
        Run { begin, ..runs[i] }
    };
    chosen.iter().rev().map(whole).collect()
}

/// Bytes of the values that forwards hand on across the boundary before each forward.
fn crossing(problem: &Problem, forwards: &[u32]) -> Vec<i64> {
    let script = &problem.script;
    let mut last = vec![0; script.bytes.len()];
    for (i, &f) in forwards.iter().enumerate() {
        script.reads.get(f as usize).iter().for_each(|&v| last[v as usize] = i);
    }
    let mut change = vec![0; forwards.len() + 2];
    for (i, &f) in forwards.iter().enumerate() {
        for &v in script.makes.get(f as usize).iter().filter(|&&v| last[v as usize] > i) {
            change[i + 1] += script.bytes[v as usize];
            change[last[v as usize] + 1] -= script.bytes[v as usize];
        }
    }
    let mut width = 0;
    change
        .iter()
        .map(|c| {
            width += c;
            width
        })
        .collect()
}

/// A run as blocks, which begin where the least is handed on from one to the next.
fn cut(run: Run, forwards: &[u32], width: &[i64]) -> Repeat {
    let Run { begin, end, period } = run;
    // Seen after the first block: what the first is handed may differ.
    let most = (end - begin - TIMES * period).min(period - 1);
    let shift = (0..=most).min_by_key(|s| width[begin + s + period]).unwrap_or(0);
    let begin = begin + shift;
    let count = (end - begin) / period;
    Repeat { period, ops: forwards[begin..begin + count * period].to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetitions_are_those_of_all_stretches_tried() {
        let mut dice = crate::plan::improve::Dice::new(3);
        for case in 0..400 {
            let letters: Vec<u64> = (0..1 + case % 40).map(|_| dice.below(2 + case % 2) as u64).collect();
            let n = letters.len();
            let mut wanted = vec![];
            for period in 1..=n / TIMES {
                let mut begin = 0;
                while begin + period < n {
                    let mut end = begin + period;
                    while end < n && letters[end] == letters[end - period] {
                        end += 1;
                    }
                    // A period that is a smaller one several times is no period of its own.
                    let own =
                        !(1..period).any(|p| period % p == 0 && (begin + p..end).all(|i| letters[i] == letters[i - p]));
                    if end - begin >= TIMES * period && own {
                        wanted.push(Run { begin, end, period });
                    }
                    begin = (end + 1 - period).max(begin + 1);
                }
            }
            wanted.sort_unstable();
            assert_eq!(repetitions(&letters), wanted, "{letters:?}");
        }
    }

    #[test]
    fn of_blocks_in_blocks_those_are_chosen_that_leave_less() {
        for (text, wanted) in [
            ("abcd", vec![]),
            ("xabcabcabcy", vec![(1, 10, 3)]),
            ("abab", vec![]),
            // Three equal ops inside of blocks, and in one block only.
            ("aaabcaaabcaaabcaaabc", vec![(0, 20, 5)]),
            ("aaaaaaaabcdabcd", vec![(0, 8, 1)]),
            // Stages of their own blocks, of which the second could begin earlier.
            ("abcabcabcdbcdbcdbc", vec![(0, 9, 3), (9, 18, 3)]),
            ("abcdabcdabcdebcdebcdebcdebcd", vec![(0, 12, 4), (12, 28, 4)]),
        ] {
            let letters: Vec<u64> = text.bytes().map(u64::from).collect();
            let chosen = choose(repetitions(&letters));
            let found: Vec<_> = chosen.into_iter().map(|r| (r.begin, r.end, r.period)).collect();
            assert_eq!(found, wanted, "{text}");
        }
    }
}
