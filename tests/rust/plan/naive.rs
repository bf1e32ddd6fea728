//! A second simulator, written from the doc comment of `plan::simulate` alone: sets, lists and recursion. And one that does what
//! a list of steps says, with the graph in mind.

use backsweep::plan::gaps::Gaps;
use backsweep::plan::tape::{Event, Tape};
use backsweep::plan::{State, Step};
use std::collections::{BTreeMap, BTreeSet};

struct Machine<'a> {
    tape: &'a Tape,
    gaps: &'a Gaps,
    states: &'a [State],
    resident: BTreeSet<u32>,
    passes: BTreeMap<usize, usize>,
    live: i64,
    peak: i64,
    recompute: f64,
    replays: usize,
}

impl Machine<'_> {
    fn grow(&mut self, bytes: u64) {
        self.live += bytes as i64;
        self.peak = self.peak.max(self.live);
    }

    fn bytes(&self, v: u32) -> u64 {
        self.tape.values[v as usize].bytes
    }

    fn free(&mut self, v: u32) {
        assert!(self.resident.remove(&v));
        self.live -= self.bytes(v) as i64;
    }

    /// Runs the inner events of a forward again, and frees its duplicates. Returns the outputs that were missing.
    fn replay(&mut self, f: usize) -> Vec<u32> {
        let mut made = vec![];
        for event in &self.tape.ops[f].inner {
            match *event {
                Event::Alloc(bytes) => self.grow(bytes),
                Event::Free(bytes) => self.live -= bytes as i64,
                Event::Make(v) => {
                    self.grow(self.bytes(v.0));
                    made.push(v.0);
                }
                Event::Unpin(_) | Event::Release(_) => {}
            }
        }
        self.recompute += self.tape.ops[f].cost;
        self.replays += 1;
        let (doubles, new): (Vec<u32>, Vec<u32>) = made.into_iter().partition(|v| self.resident.contains(v));
        for v in doubles {
            self.live -= self.bytes(v) as i64;
        }
        self.resident.extend(&new);
        new
    }

    /// Counts the pass of a value that visit `p` does not read; true if its state keeps it now.
    fn kept(&mut self, v: u32, p: usize) -> bool {
        let inside = |g: &usize| (self.gaps.all[*g].start as usize) < p && p < self.gaps.all[*g].end as usize;
        let gap = (0..self.gaps.len()).find(|g| self.gaps.all[*g].value.0 == v && inside(g));
        let Some(gap) = gap else { return false };
        let passes = self.passes.entry(gap).or_default();
        *passes += 1;
        self.states[gap] != State::DROP && self.states[gap].0 as usize == *passes
    }

    fn full(&mut self, p: usize) {
        let reads: BTreeSet<u32> = self.tape.ops[p].reads.iter().map(|v| v.0).collect();
        let inputs = |f: usize| self.tape.ops[f].reads.iter().map(|v| v.0);
        let mut closure = BTreeSet::new();
        loop {
            let wanted = reads.iter().copied().chain(closure.iter().flat_map(|&f| inputs(f)));
            let missing = wanted.filter(|v| !self.resident.contains(v));
            let all: BTreeSet<usize> = missing.map(|v| self.tape.values[v as usize].maker as usize).collect();
            if all.is_subset(&closure) {
                break;
            }
            closure.extend(all);
        }
        let mut held: BTreeSet<u32> = BTreeSet::new();
        for &f in &closure {
            for v in self.replay(f) {
                if reads.contains(&v) || self.kept(v, p) {
                    continue;
                }
                held.insert(v);
            }
            let later: BTreeSet<u32> =
                closure.range(f + 1..).flat_map(|&f| self.tape.ops[f].reads.iter().map(|v| v.0)).collect();
            let done: Vec<u32> = held.iter().copied().filter(|v| !later.contains(v)).collect();
            for v in done {
                held.remove(&v);
                self.free(v);
            }
        }
        assert!(held.is_empty());
    }

    /// Inputs of an op in ascending order of maker, then value.
    fn in_order(&self, p: usize) -> Vec<u32> {
        let keys: BTreeSet<(u32, u32)> =
            self.tape.ops[p].reads.iter().map(|v| (self.tape.values[v.0 as usize].maker, v.0)).collect();
        keys.into_iter().map(|(_, v)| v).collect()
    }

    /// Makes `v` for forward `user`, or for the visit. Returns what is now held for that forward.
    fn make(&mut self, v: u32, user: Option<usize>, p: usize) -> Vec<u32> {
        let f = self.tape.values[v as usize].maker as usize;
        let mut held = vec![];
        for w in self.in_order(f) {
            if !self.resident.contains(&w) {
                held.extend(self.make(w, Some(f), p));
            }
        }
        let new = self.replay(f);
        for w in held {
            self.free(w);
        }
        let mut mine = vec![];
        for w in new {
            let read = self.tape.ops[p].reads.iter().any(|v| v.0 == w);
            if read || self.kept(w, p) {
                continue;
            }
            if user.is_some_and(|user| self.tape.ops[user].reads.iter().any(|v| v.0 == w)) {
                mine.push(w);
            } else {
                self.free(w);
            }
        }
        mine
    }

    /// Op `p` itself.
    fn events(&mut self, p: usize) {
        let op = &self.tape.ops[p];
        for event in op.inner.iter().chain(&op.outer) {
            match *event {
                Event::Alloc(bytes) => self.grow(bytes),
                Event::Free(bytes) => self.live -= bytes as i64,
                Event::Make(v) => {
                    self.grow(self.bytes(v.0));
                    self.resident.insert(v.0);
                }
                Event::Release(v) if self.resident.contains(&v.0) => self.free(v.0),
                Event::Release(_) | Event::Unpin(_) => {}
            }
        }
    }
}

/// Peak, cost of the replays and their number.
pub fn run(tape: &Tape, gaps: &Gaps, states: &[State], lean: bool) -> (u64, f64, usize) {
    let base = tape.base as i64;
    let (resident, passes) = (BTreeSet::new(), BTreeMap::new());
    let mut m = Machine { tape, gaps, states, resident, passes, live: base, peak: base, recompute: 0.0, replays: 0 };
    for (p, op) in tape.ops.iter().enumerate() {
        for (g, gap) in gaps.all.iter().enumerate() {
            if gap.start as usize + 1 == p && states[g] != State::KEEP && m.resident.contains(&gap.value.0) {
                m.free(gap.value.0);
            }
        }
        if !op.forward {
            if lean {
                for v in m.in_order(p) {
                    if !m.resident.contains(&v) {
                        assert!(m.make(v, None, p).is_empty());
                    }
                }
            } else {
                m.full(p);
            }
        }
        m.events(p);
    }
    (m.peak as u64, m.recompute, m.replays)
}

/// The same of a list of steps, or why one cannot be done. Of a tape whose visit "b3" is that of the node of op 3, and lets go of
/// what that saved.
pub fn follow(tape: &Tape, gaps: &Gaps, steps: &[Step]) -> Result<(u64, f64, usize), &'static str> {
    let base = tape.base as i64;
    let (resident, passes) = (BTreeSet::new(), BTreeMap::new());
    let mut m =
        Machine { tape, gaps, states: &[], resident, passes, live: base, peak: base, recompute: 0.0, replays: 0 };
    let (mut visited, mut pinned) = (BTreeSet::new(), BTreeSet::new());
    for (p, op) in tape.ops.iter().enumerate() {
        let there = |m: &Machine, p: usize| m.tape.ops[p].reads.iter().all(|v| m.resident.contains(&v.0));
        for step in steps.iter().filter(|s| s.before as usize == p) {
            if step.make {
                let f = tape.values[step.value.0 as usize].maker as usize;
                if f >= p || op.forward {
                    return Err("too early");
                } else if !there(&m, f) {
                    return Err("what is to run again lacks a value");
                } else if visited.contains(&f) {
                    return Err("what is to run again was visited");
                }
                m.replay(f);
            } else if !m.resident.contains(&step.value.0) {
                return Err("what is to go is away");
            } else if pinned.contains(&step.value.0) {
                return Err("what is to go is held");
            } else {
                m.free(step.value.0);
            }
        }
        if !there(&m, p) {
            return Err("an op lacks a value");
        }
        visited.extend(op.name.strip_prefix('b').map(|f| f.parse::<usize>().unwrap()));
        for event in op.inner.iter().chain(&op.outer) {
            match *event {
                Event::Make(v) => _ = pinned.insert(v.0),
                Event::Unpin(v) => _ = pinned.remove(&v.0),
                _ => {}
            }
        }
        m.events(p);
    }
    Ok((m.peak as u64, m.recompute, m.replays))
}
