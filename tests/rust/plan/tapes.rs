//! Invented tapes.

use backsweep::plan::tape::{Event, Op, Tape, Value, ValueId};

pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 32) as usize * n) >> 32
    }
}

/// A step from its forwards: bytes and cost of each, what it reads, and what its visit reads. Gradients are `Alloc`s
/// where `gradients` says so: of a value's bytes, from the first visit of a user to the visit of its maker.
pub fn step(values: &[(u64, f64)], reads: &[Vec<u32>], saved: &[Vec<u32>], work: &[u64], gradients: bool) -> Tape {
    let n = values.len();
    let ids = |list: &[u32]| list.iter().map(|&v| ValueId(v)).collect::<Vec<_>>();
    let mut tape = Tape { base: 0, ..Tape::default() };
    let last_read = |v: u32| (0..n).rev().find(|&f| reads[f].contains(&v)).unwrap_or(v as usize);
    for f in 0..n {
        tape.values.push(Value { bytes: values[f].0, maker: f as u32 });
        let mut inner = vec![];
        if work[f] > 0 {
            inner.push(Event::Alloc(work[f]));
        }
        inner.push(Event::Make(ValueId(f as u32)));
        if work[f] > 0 {
            inner.push(Event::Free(work[f]));
        }
        let outer: Vec<Event> =
            (0..=f as u32).filter(|&v| last_read(v) == f).map(|v| Event::Unpin(ValueId(v))).collect();
        let (name, reads) = (format!("f{f}"), ids(&reads[f]));
        tape.ops.push(Op { name, cost: values[f].1, reads, inner, outer, forward: true, ..Op::default() });
    }
    // What no visit reads goes when its last user has run.
    for v in 0..n as u32 {
        if saved.iter().all(|s| !s.contains(&v)) {
            tape.ops[last_read(v)].outer.push(Event::Release(ValueId(v)));
        }
    }
    let mut alive = vec![false; n];
    for f in (0..n).rev() {
        let mut inner = vec![];
        for &v in &reads[f] {
            if gradients && !std::mem::replace(&mut alive[v as usize], true) {
                inner.push(Event::Alloc(values[v as usize].0));
            }
        }
        if std::mem::take(&mut alive[f]) {
            inner.push(Event::Free(values[f].0));
        }
        let first_visit = |v: u32| (0..n).find(|&g| saved[g].contains(&v));
        let outer =
            saved[f].iter().filter(|&&v| first_visit(v) == Some(f)).map(|&v| Event::Release(ValueId(v))).collect();
        let (name, reads) = (format!("b{f}"), ids(&saved[f]));
        tape.ops.push(Op { name, cost: values[f].1, reads, inner, outer, ..Op::default() });
    }
    tape
}

/// A chain whose visits read what their forward reads, and need `work` bytes besides.
pub fn chain(values: &[(u64, f64)], work: u64) -> Tape {
    let n = values.len();
    let reads: Vec<Vec<u32>> = (0..n as u32 + 1).map(|f| if f == 0 { vec![] } else { vec![f - 1] }).collect();
    let values: Vec<(u64, f64)> = values.iter().copied().chain([(0, 0.0)]).collect();
    let mut tape = step(&values, &reads, &reads, &vec![0; n + 1], false);
    for op in tape.ops.iter_mut().filter(|op| !op.forward) {
        op.inner.extend([Event::Alloc(work), Event::Free(work)]);
    }
    tape
}

/// A training step of a random graph: each visit reads inputs or the output of its forward.
pub fn training(random: &mut Random, n: usize) -> Tape {
    let values: Vec<(u64, f64)> =
        (0..n).map(|_| (1 + random.below(16) as u64, (1 + random.below(10)) as f64)).collect();
    let (mut reads, mut saved, mut work) = (vec![], vec![], vec![]);
    for f in 0..n {
        let mut own: Vec<u32> = vec![];
        if f > 0 {
            own.push(f as u32 - 1);
            let near = f.min(6);
            for _ in 0..random.below(3) {
                own.push((f - 1 - random.below(near)) as u32);
            }
            if random.below(6) == 0 {
                own.push(random.below(f) as u32);
            }
            own.sort_unstable();
            own.dedup();
        }
        let mut kept: Vec<u32> = own.iter().copied().filter(|_| random.below(4) > 0).collect();
        if random.below(3) == 0 {
            kept.push(f as u32);
        }
        work.push(if random.below(3) == 0 { random.below(8) as u64 } else { 0 });
        reads.push(own);
        saved.push(kept);
    }
    step(&values, &reads, &saved, &work, true)
}

/// Residual blocks as in a transformer: twelve ops each.
pub fn blocks(random: &mut Random, count: usize) -> Tape {
    let (mut values, mut reads, mut saved) = (vec![(8u64, 1.0)], vec![vec![]], vec![vec![]]);
    // Bytes, cost, inputs by distance back from the own output, whether the visit reads inputs or the output.
    let ops: [(u64, f64, &[u32], bool, bool); 12] = [
        (8, 2.0, &[1], true, false),
        (24, 30.0, &[1], true, false),
        (32, 8.0, &[1], true, false),
        (32, 4.0, &[1], false, true),
        (8, 8.0, &[1, 3], true, false),
        (8, 10.0, &[1], true, false),
        (8, 1.0, &[1, 7], false, false),
        (8, 2.0, &[1], true, false),
        (32, 40.0, &[1], true, false),
        (32, 6.0, &[1], true, false),
        (8, 40.0, &[1], true, false),
        (8, 1.0, &[1, 5], false, false),
    ];
    for _ in 0..count {
        for (bytes, cost, back, inputs, output) in ops {
            let f = values.len() as u32;
            let own: Vec<u32> = back.iter().map(|d| f - d).collect();
            saved.push([if inputs { own.clone() } else { vec![] }, if output { vec![f] } else { vec![] }].concat());
            reads.push(own);
            values.push((64 * bytes + random.below(2) as u64, cost));
        }
    }
    let n = values.len();
    step(&values, &reads, &saved, &vec![0; n], true)
}

/// The same blocks without a difference: also in their names.
pub fn equal_blocks(count: usize) -> Tape {
    let mut tape = blocks(&mut Random::new(0), count);
    for value in &mut tape.values {
        value.bytes &= !1;
    }
    let forwards = tape.values.len();
    for (i, op) in tape.ops.iter_mut().enumerate() {
        let f = if op.forward { i } else { 2 * forwards - 1 - i };
        let (block, place) = if f == 0 { (0, 0) } else { ((f - 1) / 12, 1 + (f - 1) % 12) };
        op.name = format!("{} {place}", if op.forward { "forward" } else { "visit" });
        op.module = format!("layers.{block}");
        for event in op.inner.iter_mut() {
            if let Event::Alloc(bytes) | Event::Free(bytes) = event {
                *bytes &= !1;
            }
        }
    }
    tape
}

/// Any tape that is well formed, however odd: several outputs, late unpins, visits in any order, early releases.
pub fn random(random: &mut Random, n: usize) -> Tape {
    let mut tape = Tape { base: random.below(20) as u64, ..Tape::default() };
    let (mut pinned, mut loose, mut held): (Vec<u32>, Vec<u32>, Vec<u64>) = (vec![], vec![], vec![]);
    for p in 0..2 * n {
        let forward = p == 0 || (p < n || random.below(8) == 0);
        let alive: Vec<u32> = pinned.iter().chain(&loose).copied().collect();
        let mut reads = vec![];
        if !alive.is_empty() {
            let from: &[u32] = if forward && !pinned.is_empty() { &pinned } else { &alive };
            for _ in 0..random.below(4) {
                let v = ValueId(from[random.below(from.len())]);
                if !reads.contains(&v) {
                    reads.push(v);
                }
            }
        }
        let (mut inner, mut outer) = (vec![], vec![]);
        let work = random.below(6) as u64;
        inner.push(Event::Alloc(work));
        if forward {
            for _ in 0..random.below(3) {
                let v = tape.values.len() as u32;
                tape.values.push(Value { bytes: random.below(12) as u64, maker: p as u32 });
                inner.push(Event::Make(ValueId(v)));
                pinned.push(v);
                if random.below(3) == 0 {
                    inner.push(Event::Alloc(3));
                    inner.push(Event::Free(3));
                }
            }
        }
        if random.below(3) > 0 {
            inner.push(Event::Free(work));
        } else {
            held.push(work);
        }
        if !held.is_empty() && random.below(2) == 0 {
            outer.push(Event::Free(held.swap_remove(0)));
        }
        for _ in 0..random.below(4) {
            if !pinned.is_empty() {
                let v = pinned.swap_remove(random.below(pinned.len()));
                outer.push(Event::Unpin(ValueId(v)));
                loose.push(v);
            }
        }
        // Released by the visit that reads it last, which may be this one.
        if !forward && random.below(2) == 0 {
            for v in reads.iter().filter(|v| loose.contains(&v.0)).take(1) {
                outer.push(Event::Release(*v));
            }
            loose.retain(|v| !outer.contains(&Event::Release(ValueId(*v))));
        }
        tape.ops.push(Op {
            name: format!("op{p}"),
            cost: random.below(9) as f64,
            reads,
            inner,
            outer,
            forward,
            ..Op::default()
        });
    }
    tape
}
