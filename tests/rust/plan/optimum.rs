//! The least cost of a step under a budget, over all sets of resident values: nothing is assumed of how it is replayed.

use backsweep::plan::tape::{Event, Tape};
use std::collections::BinaryHeap;

/// A cost that orders backwards, for a heap whose top is the least.
#[derive(PartialEq)]
struct Least(f64);

impl Eq for Least {}
impl PartialOrd for Least {
    fn partial_cmp(&self, other: &Least) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Least {
    fn cmp(&self, other: &Least) -> std::cmp::Ordering {
        other.0.total_cmp(&self.0)
    }
}

/// Highest rise of an op's events over their beginning; values count if `values`. Also their sum.
fn rise(tape: &Tape, p: usize, inner_only: bool) -> (i64, i64) {
    let op = &tape.ops[p];
    let (mut now, mut top) = (0i64, 0i64);
    let outer = if inner_only { &[][..] } else { &op.outer[..] };
    for event in op.inner.iter().chain(outer) {
        match *event {
            Event::Alloc(b) => now += b as i64,
            Event::Make(v) => now += tape.values[v.0 as usize].bytes as i64,
            Event::Free(b) => now -= b as i64,
            Event::Release(v) => now -= tape.values[v.0 as usize].bytes as i64,
            Event::Unpin(_) => {}
        }
        if matches!(event, Event::Alloc(_) | Event::Make(_)) {
            top = top.max(now);
        }
    }
    (top, now)
}

pub fn least_cost(tape: &Tape, budget: u64) -> Option<f64> {
    let (values, budget) = (tape.values.len(), budget as i64);
    assert!(values <= 20);
    let sets = 1usize << values;
    let bytes: Vec<i64> =
        (0..sets).map(|s| (0..values).filter(|v| s >> v & 1 == 1).map(|v| tape.values[v].bytes as i64).sum()).collect();
    let mask = |list: &mut dyn Iterator<Item = u32>| list.fold(0usize, |m, v| m | 1 << v);
    let reads: Vec<usize> = tape.ops.iter().map(|op| mask(&mut op.reads.iter().map(|v| v.0))).collect();
    let made = |p: usize| {
        mask(&mut tape.ops[p].inner.iter().filter_map(|e| if let Event::Make(v) = e { Some(v.0) } else { None }))
    };
    let mut cost = vec![f64::INFINITY; sets];
    cost[0] = 0.0;
    // Live bytes of no value; values that must stay.
    let (mut other, mut pinned) = (tape.base as i64, 0usize);
    for p in 0..tape.ops.len() {
        let op = &tape.ops[p];
        // Before the op: drop what is not pinned, replay earlier forwards.
        if !op.forward {
            let mut heap: BinaryHeap<(Least, usize)> =
                (0..sets).filter(|&s| cost[s].is_finite()).map(|s| (Least(cost[s]), s)).collect();
            while let Some((Least(c), s)) = heap.pop() {
                if c > cost[s] {
                    continue;
                }
                for f in (0..p).filter(|&f| tape.ops[f].forward && reads[f] & !s == 0) {
                    let next = s | made(f);
                    let (top, _) = rise(tape, f, true);
                    let c = c + tape.ops[f].cost;
                    if next != s && c < cost[next] && other + bytes[s] + top <= budget {
                        cost[next] = c;
                        heap.push((Least(c), next));
                    }
                }
                for v in (0..values).filter(|v| (s & !pinned) >> v & 1 == 1) {
                    let next = s & !(1 << v);
                    if c < cost[next] {
                        cost[next] = c;
                        heap.push((Least(c), next));
                    }
                }
            }
        } else {
            for s in (0..sets).rev().filter(|s| cost[*s].is_finite()).collect::<Vec<_>>() {
                let mut sub = s & !pinned;
                // All subsets of what may go.
                while sub > 0 {
                    let next = s & !sub;
                    cost[next] = cost[next].min(cost[s]);
                    sub = (sub - 1) & (s & !pinned);
                }
            }
        }
        let (top, net) = rise(tape, p, false);
        let (new, mut gone) = (made(p), 0usize);
        for event in &op.outer {
            match event {
                Event::Release(v) => gone |= 1 << v.0,
                Event::Unpin(v) => pinned &= !(1 << v.0),
                _ => {}
            }
        }
        for event in &op.inner {
            assert!(!matches!(event, Event::Release(_) | Event::Unpin(_)));
        }
        let mut after = vec![f64::INFINITY; sets];
        for s in 0..sets {
            // The order of events as if all that is released were there: exact where a visit reads what it releases.
            if cost[s].is_finite() && (op.forward || reads[p] & !s == 0) && other + bytes[s] + top <= budget {
                let next = (s | new) & !gone;
                after[next] = after[next].min(cost[s]);
            }
        }
        let unpinned = op.outer.iter().filter_map(|e| if let Event::Unpin(v) = e { Some(v.0) } else { None });
        let unpinned = mask(&mut unpinned.into_iter());
        pinned = (pinned | new & !unpinned) & !gone;
        other += net - bytes[new] + bytes[gone];
        cost = after;
    }
    let best = cost.into_iter().fold(f64::INFINITY, f64::min);
    best.is_finite().then_some(best)
}
