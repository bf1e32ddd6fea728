//! What a plan does to a step, to the byte: the peak, the forwards run again and what they cost.
//!
//! The engine executes the same rules in the same order. When op `p` begins:
//!
//! 1. **Evictions.** Each value with a gap that started at op `p - 1` and whose state there is not KEEP is freed.
//! 2. **Materialise** (visits only). If a value among `reads` is missing, forwards are replayed; see below.
//! 3. **Events**, inner then outer. `Release` frees a value that is there.
//!
//! *Missing* means not resident: evicted, or released, and not brought back. The state of a gap counts how often the
//! value's coming back in that gap is let pass by: KEEP (0) never drops it; LATE (1) drops it and keeps it at the first
//! replay that makes it again; `State::late(n)` at the n-th; DROP never. Each time a replay makes a missing value that
//! the visit itself does not read, and that is inside a gap (`start < p < end`), the gap's count of passes goes up by
//! one, and the value stays, until the end of the gap, if the count now equals the state. A value outside any gap
//! (released, or not needed by any visit) is never kept so.
//!
//! **A replay** performs the `inner` events of its forward again: `Alloc` and `Free` as recorded, `Make` allocates the
//! value's bytes; `Unpin` and `Release` do nothing. After its last event an output that was resident before is freed (the
//! duplicate), and so is each other output that nobody wants (see the modes) and that its state does not keep.
//!
//! **Full closure** (`lean == false`). The closure is the makers of the missing reads and, recursively, of the missing
//! inputs of those makers, all judged before anything is replayed. It runs in ascending op index. An output is wanted if
//! the visit reads it or a later forward of the closure does. After each replay, inputs of it that this materialisation
//! made, that the visit does not read, that no later forward of the closure reads and that no state keeps are freed.
//!
//! **Lean** (`lean == true`). Depth first, holding the current path only. The visit's reads are gone through in ascending
//! order of (maker, value); each that is missing is made: *make(v)* takes the maker's reads in the same order and makes
//! each that is missing at that moment, then replays the maker. Values so made are held by the forward for which they
//! were made; an output of a replay is wanted if the visit reads it (it then stays for the visit) or if it is a read of
//! the forward for which the replay was made (which then holds it). After a forward has been replayed, what it held is
//! freed unless the visit reads it or a state keeps it. What was freed is made again when it is wanted again.
//!
//! The peak is the highest number of live bytes after any `Alloc` or `Make`, and at least `base`.

use super::gaps::Gaps;
use super::tape::{Event, Tape};
use crate::error::Result;

/// What happens to a value in a gap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct State(pub u8);

impl State {
    pub const KEEP: State = State(0);
    pub const LATE: State = State(1);
    pub const DROP: State = State(255);

    /// Dropped, and kept when it is brought back for the `n`-th time in the gap.
    pub fn late(n: usize) -> State {
        State(n.min(255) as u8)
    }
}

/// Where a simulation stops early, because its result is of no use.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    pub peak: u64,
    pub recompute: f64,
    pub replays: usize,
}

impl Limit {
    pub const NONE: Limit = Limit { peak: u64::MAX, recompute: f64::INFINITY, replays: usize::MAX };
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    pub peak: u64,
    /// The op during which, or before which, the peak was reached first.
    pub peak_op: u32,
    /// Cost of the forwards that ran again.
    pub recompute: f64,
    pub replays: usize,
    /// A limit was passed: the other fields say how far it came.
    pub stopped: bool,
}

/// Lists of numbers, one list after the other.
#[derive(Clone, Debug, Default)]
pub struct Lists {
    first: Vec<u32>,
    items: Vec<u32>,
}

impl Lists {
    pub fn of(lists: impl Iterator<Item = Vec<u32>>) -> Lists {
        let mut all = Lists { first: vec![0], items: vec![] };
        for list in lists {
            all.items.extend(list);
            all.first.push(all.items.len() as u32);
        }
        all
    }

    #[inline]
    pub fn get(&self, i: usize) -> &[u32] {
        &self.items[self.first[i] as usize..self.first[i + 1] as usize]
    }
}

/// A tape prepared for many simulations.
#[derive(Clone, Debug)]
pub struct Script {
    pub gaps: Gaps,
    pub base: i64,
    pub ops: usize,
    pub bytes: Vec<i64>,
    pub maker: Vec<u32>,
    pub forward: Vec<bool>,
    pub cost: Vec<f64>,
    /// Cost of all ops without a plan.
    pub base_cost: f64,
    /// Reads of each op without repeats, in ascending order of (maker, value).
    pub reads: Lists,
    pub makes: Lists,
    pub releases: Lists,
    /// Gaps that started at the op before.
    pub opens: Lists,
    /// Highest live bytes during each op, and live bytes when it begins, if nothing is ever dropped.
    pub high: Vec<i64>,
    pub level: Vec<i64>,
    /// A replay's highest live bytes over those at its beginning; what it leaves behind, values not counted.
    pub rise: Vec<i64>,
    pub net: Vec<i64>,
    /// Of each forward, the last op before which it may run again. The sweep has not come to it then, as something that is
    /// made from its outputs is still needed; later what it saved is gone.
    pub until: Vec<u32>,
}

impl Script {
    pub fn of(tape: &Tape) -> Result<Script> {
        let gaps = Gaps::of(tape)?;
        let (n, count) = (tape.ops.len(), tape.values.len());
        let bytes: Vec<i64> = tape.values.iter().map(|v| v.bytes as i64).collect();
        let maker: Vec<u32> = tape.values.iter().map(|v| v.maker).collect();
        let mut opens = vec![vec![]; n + 1];
        for (g, gap) in gaps.all.iter().enumerate() {
            opens[gap.start as usize + 1].push(g as u32);
        }
        let (mut high, mut level, mut rise, mut net) = (vec![], vec![], vec![], vec![]);
        let mut live = tape.base as i64;
        for op in &tape.ops {
            level.push(live);
            let (mut top, mut now, mut up) = (0, 0i64, 0i64);
            for event in op.inner.iter().chain(&op.outer) {
                match *event {
                    Event::Alloc(b) => live += b as i64,
                    Event::Make(v) => live += bytes[v.0 as usize],
                    Event::Free(b) => live -= b as i64,
                    Event::Release(v) => live -= bytes[v.0 as usize],
                    Event::Unpin(_) => {}
                }
                if matches!(event, Event::Alloc(_) | Event::Make(_)) {
                    top = top.max(live);
                }
            }
            high.push(top);
            let mut made = 0;
            for event in &op.inner {
                match *event {
                    Event::Alloc(b) => now += b as i64,
                    Event::Make(v) => {
                        now += bytes[v.0 as usize];
                        made += bytes[v.0 as usize];
                    }
                    Event::Free(b) => now -= b as i64,
                    Event::Unpin(_) | Event::Release(_) => {}
                }
                if matches!(event, Event::Alloc(_) | Event::Make(_)) {
                    up = up.max(now);
                }
            }
            rise.push(up);
            net.push(now - made);
        }
        let events = |op: usize, want: fn(&Event) -> Option<u32>| {
            let op = &tape.ops[op];
            op.inner.iter().chain(&op.outer).filter_map(want).collect::<Vec<u32>>()
        };
        let made = |e: &Event| if let Event::Make(v) = e { Some(v.0) } else { None };
        let released = |e: &Event| if let Event::Release(v) = e { Some(v.0) } else { None };
        let reads = Lists::of(tape.ops.iter().map(|op| {
            let mut reads: Vec<u32> = op.reads.iter().map(|v| v.0).collect();
            reads.sort_unstable_by_key(|&v| (maker[v as usize], v));
            reads.dedup();
            reads
        }));
        debug_assert_eq!(count, bytes.len());
        let makes = Lists::of((0..n).map(|p| events(p, made)));
        let mut needed = vec![0; count];
        let mut until = vec![0; n];
        for (p, op) in tape.ops.iter().enumerate().rev() {
            until[p] = makes.get(p).iter().map(|&v| needed[v as usize]).max().unwrap_or(0);
            let last = if op.forward { until[p] } else { p as u32 };
            reads.get(p).iter().for_each(|&v| needed[v as usize] = last.max(needed[v as usize]));
        }
        Ok(Script {
            base: tape.base as i64,
            ops: n,
            forward: tape.ops.iter().map(|op| op.forward).collect(),
            cost: tape.ops.iter().map(|op| op.cost).collect(),
            base_cost: tape.ops.iter().map(|op| op.cost).sum(),
            reads,
            makes,
            releases: Lists::of((0..n).map(|p| events(p, released))),
            opens: Lists::of(opens.into_iter()),
            gaps,
            bytes,
            maker,
            high,
            level,
            rise,
            net,
            until,
        })
    }

    /// True when forward `f` may run again before op `p`.
    pub fn may_run(&self, f: usize, p: usize) -> bool {
        !self.forward[p] && p <= self.until[f] as usize
    }
}

/// Ops that are looked at for each one of a closure rather than sorting it.
const SCANNED: usize = 16;

pub const NO_GAP: u32 = u32::MAX;

/// One forward on the way down of a lean materialisation: the value wanted, how many inputs were looked at, and where
/// the list of held values begins.
#[derive(Clone, Copy, Debug)]
struct Frame {
    value: u32,
    next: u32,
    held: u32,
}

/// Runs plans on a script. Keeps its buffers from run to run.
#[derive(Clone, Debug, Default)]
pub struct Simulator {
    /// How often each op ran again in the last run.
    pub runs: Vec<u32>,
    /// When set, `runs` is filled, at some cost.
    pub count_runs: bool,
    pub resident: Vec<bool>,
    pub gap_now: Vec<u32>,
    pub passes: Vec<u8>,
    /// The gaps that a value was kept in, as it had been made again.
    pub kept: Vec<u32>,
    /// Of a materialisation: a stamp for each op in its closure and each value made or wanted by it.
    op_stamp: Vec<u32>,
    wanted: Vec<u32>,
    made: Vec<u32>,
    last_use: Vec<u32>,
    stamp: u32,
    closure: Vec<u32>,
    stack: Vec<u32>,
    frames: Vec<Frame>,
    held: Vec<u32>,
}

#[derive(Clone, Debug)]
pub struct Live {
    pub now: i64,
    pub peak: i64,
    pub peak_op: usize,
    pub recompute: f64,
    pub replays: usize,
}

impl Live {
    fn passed(&self, limit: Limit) -> bool {
        self.peak as u64 > limit.peak || self.recompute > limit.recompute || self.replays > limit.replays
    }
}

/// How far a simulation has come.
#[derive(Clone, Debug)]
pub struct Run {
    /// Bytes of values that would be there if nothing were dropped.
    pub away: i64,
    /// Highest live bytes of the op that was stepped over last, and when it began.
    pub top: i64,
    pub live: Live,
}

impl Run {
    pub fn outcome(&self, stopped: bool) -> Outcome {
        let Live { peak, peak_op, recompute, replays, .. } = self.live;
        Outcome { peak: peak as u64, peak_op: peak_op as u32, recompute, replays, stopped }
    }
}

impl Simulator {
    pub fn run(&mut self, script: &Script, states: &[State], lean: bool, limit: Limit) -> Outcome {
        let mut run = self.begin(script);
        for p in 0..script.ops {
            self.step(script, states, lean, limit, &mut run, p);
            if run.live.passed(limit) {
                return run.outcome(true);
            }
        }
        run.outcome(false)
    }

    pub fn begin(&mut self, script: &Script) -> Run {
        self.reset(script);
        Run { away: 0, top: 0, live: Live { now: 0, peak: script.base, peak_op: 0, recompute: 0.0, replays: 0 } }
    }

    /// Op `p`, with all that happens before it. What passes a limit may be left half done.
    pub fn step(&mut self, script: &Script, states: &[State], lean: bool, limit: Limit, run: &mut Run, p: usize) {
        for &g in script.opens.get(p) {
            let v = script.gaps.all[g as usize].value.0 as usize;
            self.gap_now[v] = g;
            if states[g as usize] != State::KEEP && self.resident[v] {
                self.resident[v] = false;
                run.away += script.bytes[v];
            }
        }
        let (peak, peak_op) = (run.live.peak, run.live.peak_op);
        run.live.peak = 0;
        if !script.forward[p] && script.reads.get(p).iter().any(|&v| !self.resident[v as usize]) {
            run.live.now = script.level[p] - run.away;
            if lean {
                self.lean(script, states, p, &mut run.live, limit);
            } else {
                self.full(script, states, p, &mut run.live);
            }
            run.away = script.level[p] - run.live.now;
        }
        run.top = run.live.peak.max(script.high[p] - run.away);
        (run.live.peak, run.live.peak_op) = if run.top > peak { (run.top, p) } else { (peak, peak_op) };
        for &v in script.releases.get(p) {
            self.resident[v as usize] = false;
        }
    }

    fn reset(&mut self, script: &Script) {
        let (values, ops) = (script.bytes.len(), script.ops);
        self.resident.clear();
        self.resident.resize(values, true);
        self.gap_now.clear();
        self.gap_now.resize(values, NO_GAP);
        self.kept.clear();
        self.passes.clear();
        self.passes.resize(script.gaps.len(), 0);
        if self.op_stamp.len() != ops || self.made.len() != values || self.stamp > u32::MAX / 2 {
            self.stamp = 0;
            self.op_stamp = vec![0; ops];
            self.wanted = vec![0; values];
            self.made = vec![0; values];
            self.last_use = vec![0; values];
        }
        if self.count_runs {
            self.runs.clear();
            self.runs.resize(ops, 0);
        }
    }

    /// Whether the state of the value's gap keeps it now that it has been made again at `p`; counts the pass.
    #[inline]
    fn passes_by(&mut self, script: &Script, states: &[State], v: usize, p: usize) -> bool {
        let g = self.gap_now[v];
        if g == NO_GAP || script.gaps.all[g as usize].end as usize <= p {
            return true;
        }
        let passes = &mut self.passes[g as usize];
        // 254 passes are the most a state can wait for; more are not counted.
        *passes = (*passes + 1).min(State::DROP.0 - 1);
        let kept = State(*passes) == states[g as usize] && states[g as usize] != State::DROP;
        if kept {
            self.kept.push(g);
        }
        !kept
    }

    /// The events of one forward, run again.
    #[inline]
    fn replay(&mut self, script: &Script, f: usize, live: &mut Live) {
        live.peak = live.peak.max(live.now + script.rise[f]);
        live.now += script.net[f];
        live.recompute += script.cost[f];
        live.replays += 1;
        if self.count_runs {
            self.runs[f] += 1;
        }
    }

    fn full(&mut self, script: &Script, states: &[State], p: usize, live: &mut Live) {
        self.stamp += 1;
        let stamp = self.stamp;
        self.closure.clear();
        self.stack.clear();
        let want = |this: &mut Self, v: u32| {
            let f = script.maker[v as usize];
            if !this.resident[v as usize] && this.op_stamp[f as usize] != stamp {
                this.op_stamp[f as usize] = stamp;
                this.closure.push(f);
                this.stack.push(f);
            }
        };
        for &v in script.reads.get(p) {
            self.wanted[v as usize] = stamp;
            want(self, v);
        }
        while let Some(f) = self.stack.pop() {
            for &v in script.reads.get(f as usize) {
                want(self, v);
            }
        }
        let mut closure = std::mem::take(&mut self.closure);
        let (first, last) = closure.iter().fold((u32::MAX, 0), |(a, b), &f| (a.min(f), b.max(f)));
        if ((last - first) as usize) < SCANNED * closure.len() {
            closure.clear();
            closure.extend((first..=last).filter(|&f| self.op_stamp[f as usize] == stamp));
        } else {
            closure.sort_unstable();
        }
        for &f in &closure {
            for &v in script.reads.get(f as usize) {
                self.last_use[v as usize] = f;
            }
            for &v in script.makes.get(f as usize) {
                self.last_use[v as usize] = f;
            }
        }
        for &f in &closure {
            self.replay(script, f as usize, live);
            for &w in script.makes.get(f as usize) {
                let w = w as usize;
                if self.resident[w] {
                    continue;
                }
                self.resident[w] = true;
                live.now += script.bytes[w];
                if self.wanted[w] == stamp {
                    continue;
                }
                if self.passes_by(script, states, w, p) {
                    if self.last_use[w] > f {
                        self.made[w] = stamp;
                    } else {
                        self.resident[w] = false;
                        live.now -= script.bytes[w];
                    }
                }
            }
            for &w in script.reads.get(f as usize) {
                let w = w as usize;
                if self.made[w] == stamp && self.last_use[w] == f && self.resident[w] {
                    self.resident[w] = false;
                    live.now -= script.bytes[w];
                }
            }
        }
        self.closure = closure;
    }

    fn lean(&mut self, script: &Script, states: &[State], p: usize, live: &mut Live, limit: Limit) {
        self.stamp += 1;
        let stamp = self.stamp;
        for &v in script.reads.get(p) {
            self.wanted[v as usize] = stamp;
        }
        for i in 0..script.reads.get(p).len() {
            let v = script.reads.get(p)[i];
            if self.resident[v as usize] {
                continue;
            }
            self.frames.clear();
            self.held.clear();
            self.frames.push(Frame { value: v, next: 0, held: 0 });
            while let Some(frame) = self.frames.last_mut() {
                let f = script.maker[frame.value as usize] as usize;
                let reads = script.reads.get(f);
                while (frame.next as usize) < reads.len() && self.resident[reads[frame.next as usize] as usize] {
                    frame.next += 1;
                }
                if (frame.next as usize) < reads.len() {
                    let value = reads[frame.next as usize];
                    self.frames.push(Frame { value, next: 0, held: self.held.len() as u32 });
                    continue;
                }
                let held = frame.held as usize;
                self.replay(script, f, live);
                if live.passed(limit) {
                    return;
                }
                self.frames.pop();
                for h in held..self.held.len() {
                    let w = self.held[h] as usize;
                    self.resident[w] = false;
                    live.now -= script.bytes[w];
                }
                self.held.truncate(held);
                let user = self.frames.last().map(|above| script.maker[above.value as usize] as usize);
                for &w in script.makes.get(f) {
                    if self.resident[w as usize] {
                        continue;
                    }
                    let stays = self.wanted[w as usize] == stamp || !self.passes_by(script, states, w as usize, p);
                    let held = !stays && user.is_some_and(|user| script.reads.get(user).contains(&w));
                    if stays || held {
                        self.resident[w as usize] = true;
                        live.now += script.bytes[w as usize];
                    }
                    if held {
                        self.held.push(w);
                    }
                }
            }
        }
    }
}
