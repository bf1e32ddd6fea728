//! Needs and gaps of a tape: when a value is wanted, and in which stretches of time it could be away.
//!
//! A *need* of a value is a visit that reads it. A *gap* runs from the op whose events unpin the value to the first need
//! after that, and from each need to the next. Reads by forwards are no needs: a handle pins the value then. A value that
//! is never unpinned, or that no visit reads afterwards, has no gap: it is there until its release, whatever the plan.

use super::tape::{Event, Tape, ValueId};
use crate::error::{Error, Result};

/// One stretch of time between two uses of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    pub value: ValueId,
    /// The op that unpinned the value, or the need before the gap.
    pub start: u32,
    /// The need that ends it: an op later than `start`.
    pub end: u32,
}

/// All gaps of a tape, in value order, then in time. A plan has one state for each.
#[derive(Clone, Debug, Default)]
pub struct Gaps {
    pub all: Vec<Gap>,
    first: Vec<u32>,
}

impl Gaps {
    /// Checks the tape on the way: what the simulator takes for granted is an error here.
    pub fn of(tape: &Tape) -> Result<Gaps> {
        let (unpins, needs) = check(tape)?;
        let mut gaps = Gaps { all: vec![], first: Vec::with_capacity(tape.values.len() + 1) };
        for (v, needs) in needs.iter().enumerate() {
            gaps.first.push(gaps.all.len() as u32);
            let Some(mut start) = unpins[v] else { continue };
            for &end in needs.iter().filter(|&&n| n > unpins[v].unwrap_or(0)) {
                gaps.all.push(Gap { value: ValueId(v as u32), start, end });
                start = end;
            }
        }
        gaps.first.push(gaps.all.len() as u32);
        Ok(gaps)
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The numbers of a value's gaps, in time.
    pub fn of_value(&self, value: ValueId) -> std::ops::Range<usize> {
        let v = value.0 as usize;
        self.first[v] as usize..self.first[v + 1] as usize
    }

    /// The gap that a value is in when op `op` begins: `start < op ≤ end`.
    pub fn at(&self, value: ValueId, op: usize) -> Option<usize> {
        let range = self.of_value(value);
        let from = range.start;
        let after = self.all[range].partition_point(|g| (g.end as usize) < op);
        let gap = from + after;
        (gap < self.first[value.0 as usize + 1] as usize && (self.all[gap].start as usize) < op).then_some(gap)
    }
}

fn bad(text: String) -> Error {
    Error::internal(format!("plan: the tape is not well formed: {text}"))
}

/// The op that unpins each value, and the visits that read it.
fn check(tape: &Tape) -> Result<(Vec<Option<u32>>, Vec<Vec<u32>>)> {
    let count = tape.values.len();
    let (mut made, mut unpins, mut released) = (vec![false; count], vec![None; count], vec![false; count]);
    let mut needs = vec![vec![]; count];
    for (p, op) in tape.ops.iter().enumerate() {
        if !(op.cost >= 0.0 && op.cost.is_finite()) {
            return Err(bad(format!("op {p} costs {}", op.cost)));
        }
        for &ValueId(v) in &op.reads {
            let v = v as usize;
            if v >= count || !made[v] || released[v] {
                return Err(bad(format!("op {p} reads value {v}, which is not made yet or released already")));
            }
            if !op.forward && needs[v].last() != Some(&(p as u32)) {
                needs[v].push(p as u32);
            }
        }
        for (inner, event) in op.inner.iter().map(|e| (true, e)).chain(op.outer.iter().map(|e| (false, e))) {
            match *event {
                Event::Alloc(_) | Event::Free(_) => {}
                Event::Make(ValueId(v)) => {
                    let v = v as usize;
                    if v >= count || made[v] || !inner || !op.forward || tape.values[v].maker as usize != p {
                        return Err(bad(format!("op {p} makes value {v}, which is not its own to make here")));
                    }
                    made[v] = true;
                }
                Event::Unpin(ValueId(v)) => {
                    let v = v as usize;
                    if v >= count || !made[v] || unpins[v].is_some() {
                        return Err(bad(format!("op {p} unpins value {v}, which is not made yet or unpinned already")));
                    }
                    unpins[v] = Some(p as u32);
                }
                Event::Release(ValueId(v)) => {
                    let v = v as usize;
                    if v >= count || !made[v] || released[v] {
                        return Err(bad(format!("op {p} releases value {v}, which is not alive")));
                    }
                    released[v] = true;
                }
            }
        }
    }
    if let Some(v) = made.iter().position(|m| !m) {
        return Err(bad(format!("value {v} is never made")));
    }
    Ok((unpins, needs))
}
