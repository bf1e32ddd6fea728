//! Keeping a byte budget: before an allocation that would exceed it, values that can be made again are dropped.
//!
//! The order is that of Kirisame et al. 2021 (dynamic tensor rematerialization), with what they could not know: the sweep reads
//! in the reverse order of recording, so the time to a value's next use is known. The score of a value is what making it
//! again would cost now, missing ancestors included, by the bytes it frees and the time it would stay away; least first.

use super::resident::{self, Key, Made, Table};
use super::session;
use crate::arena::space::Space;
use crate::arena::{self, Keeper};
use crate::error::Result;
use rustc_hash::FxHashSet;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

static EVICTED: AtomicU64 = AtomicU64::new(0);
static REPLAYED: AtomicU64 = AtomicU64::new(0);
/// Of the cost model, in nanoseconds.
static REPLAYED_NANOS: AtomicU64 = AtomicU64::new(0);

/// What dropping and replaying has amounted to since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub evicted: u64,
    pub replayed: u64,
    /// Cost of the replayed ops, by the cost model that the planner uses.
    pub replayed_nanos: u64,
}

pub fn counts() -> Counts {
    Counts {
        evicted: EVICTED.load(Relaxed),
        replayed: REPLAYED.load(Relaxed),
        replayed_nanos: REPLAYED_NANOS.load(Relaxed),
    }
}

pub(super) fn count_replay(cost: f64) {
    REPLAYED.fetch_add(1, Relaxed);
    REPLAYED_NANOS.fetch_add((cost * 1e9) as u64, Relaxed);
}

/// What was in force before a budget.
pub struct Before {
    space: Space,
    budget: Option<usize>,
    tracking: bool,
}

const KEEPER: Keeper = Keeper { relieve, advice: session::advice };

/// Caps the live bytes of a space from here on, and tracks what this thread records. Errors when more is alive that cannot go,
/// and when steps are taken down for another space.
pub fn set(space: Space, bytes: Option<usize>) -> Result<Before> {
    session::expect_free("memory.budget", space)?;
    let budget = arena::set_budget(space, bytes, KEEPER)?;
    if bytes.is_some() {
        session::begin(space, bytes.map(|b| b as u64));
    }
    Ok(Before { space, budget, tracking: resident::set_tracking(bytes.is_some()) })
}

/// Takes the steps of this thread down from here on, under the budget there is. Errors as `set`.
pub fn watch(space: Space) -> Result<Before> {
    session::expect_free("memory.capture", space)?;
    let budget = arena::budget(space);
    session::begin(space, budget.map(|b| b as u64));
    Ok(Before { space, budget, tracking: resident::set_tracking(true) })
}

impl Before {
    pub fn restore(self) -> Result<()> {
        resident::set_tracking(self.tracking);
        match self.budget {
            Some(cap) => session::begin(self.space, Some(cap as u64)),
            None => session::pause(),
        }
        arena::set_budget(self.space, self.budget, KEEPER).map(|_| ())
    }
}

/// Drops values worth at least `missing` bytes of a space, or all that can go; returns the bytes freed.
fn relieve(space: Space, missing: usize) -> usize {
    let mut dropped = vec![];
    let freed = resident::with_table(|table| {
        let mut freed = 0;
        while freed < missing {
            let Some(key) = table.cheapest(space) else { break };
            freed += table.evict(key, &mut dropped);
            EVICTED.fetch_add(1, Relaxed);
        }
        freed
    });
    let _engine = arena::by_engine();
    drop(dropped);
    freed
}

impl Table {
    /// The value of a space that is best dropped now.
    fn cheapest(&self, space: Space) -> Option<Key> {
        let values = self
            .makers
            .iter()
            .flat_map(|(id, maker)| maker.outputs.iter().enumerate().map(|(k, made)| ((*id, k as u32), made)));
        let scored = values.filter(|(_, made)| made.space == space && made.bytes > 0 && made.droppable());
        let best = scored.map(|(key, made)| (self.score(key, made), key));
        best.min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1))).map(|(_, key)| key)
    }

    fn score(&self, key: Key, made: &Made) -> f64 {
        if made.hint == resident::Hint::Drop {
            return 0.0;
        }
        let next_use = made.slots.iter().filter_map(|(node, _)| self.makers.get(node)).map(|m| m.clock);
        let away = self.now - next_use.fold(f64::NEG_INFINITY, f64::max);
        self.closure(key) / (made.bytes as f64 * away.abs().max(1e-7))
    }

    /// The cost of making a value again: its maker, and the makers of all that is missing on the way.
    fn closure(&self, key: Key) -> f64 {
        let (mut total, mut pending, mut seen) = (0.0, vec![key.0], FxHashSet::default());
        while let Some(id) = pending.pop() {
            let Some(maker) = self.makers.get(&id) else { continue };
            if seen.insert(id) {
                total += maker.cost;
                pending.extend(maker.inputs.iter().filter(|input| self.missing(**input)).map(|input| input.0));
            }
        }
        total
    }
}
