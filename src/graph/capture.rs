//! Taking a step down as a tape: which ops ran, what came and went, and which values could have been dropped.
//!
//! What dropping and replaying does is left out, so that a step gives the same tape under any budget.

use super::resident::{self, Hint, Key};
use super::store::NodeId;
use crate::arena;
use crate::arena::deltas::Delta;
use crate::plan::Search;
use crate::plan::tape::{Event, Op, Tape, Value, ValueId};
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;

/// What a tape needs to know of a recorded op.
pub struct Recorded<'a> {
    pub node: NodeId,
    /// Block and bytes of each output; `None` for foreign memory. Empty for a view.
    pub outputs: &'a [Option<(u32, u64)>],
    pub reads: &'a [Key],
    pub cost: f64,
}

/// What the user said of values of a tape.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hints(BTreeMap<u32, Hint>);

impl Hints {
    pub fn get(&self, value: u32) -> Option<Hint> {
        self.0.get(&value).copied()
    }

    /// How a plan is to be looked for.
    pub fn search(&self, quick: bool) -> Search {
        let of = |hint| self.0.iter().filter(move |(_, h)| **h == hint).map(|(value, _)| ValueId(*value)).collect();
        Search { must_keep: of(Hint::Keep), must_drop: of(Hint::Drop), quick, ..Search::default() }
    }
}

#[derive(Default)]
pub struct Capture {
    pub tape: Tape,
    hints: Hints,
    /// The value that a live block holds.
    blocks: FxHashMap<u32, u32>,
    ids: FxHashMap<Key, u32>,
    keys: Vec<Key>,
    /// Values that somebody besides their slots may still hold.
    pinned: Vec<u32>,
    deltas: Vec<Delta>,
}

impl Capture {
    pub fn start() -> Capture {
        arena::take_down(true);
        let mut capture = Capture::default();
        capture.tape.base = arena::stats().live as u64;
        capture
    }

    pub fn value(&self, key: Key) -> Option<u32> {
        self.ids.get(&key).copied()
    }

    pub fn key(&self, value: ValueId) -> Key {
        self.keys[value.0 as usize]
    }

    /// An op or a visit is about to begin: what happened meanwhile belongs to the one before.
    pub fn boundary(&mut self) {
        self.flush();
        self.unpin();
    }

    pub fn end_forward(&mut self, name: &str, module: &str, recorded: Recorded) {
        arena::drain_deltas(&mut self.deltas);
        let maker = self.tape.ops.len() as u32;
        let mut made: FxHashMap<usize, u32> = FxHashMap::default();
        for (k, output) in recorded.outputs.iter().enumerate() {
            let Some((block, bytes)) = *output else { continue };
            let own = |d: &Delta| matches!(d, Delta::Alloc { id, .. } if *id == block);
            let Some(at) = self.deltas.iter().rposition(own) else { continue };
            let value = self.tape.values.len() as u32;
            self.tape.values.push(Value { bytes, maker });
            self.keys.push((recorded.node, k as u32));
            self.ids.insert((recorded.node, k as u32), value);
            self.pinned.push(value);
            made.insert(at, value);
        }
        let mut inner = Vec::new();
        let deltas = std::mem::take(&mut self.deltas);
        for (i, delta) in deltas.iter().enumerate() {
            match made.get(&i) {
                Some(&value) => {
                    if let Delta::Alloc { id, .. } = delta {
                        self.blocks.insert(*id, value);
                    }
                    inner.push(Event::Make(ValueId(value)));
                }
                None => inner.extend(self.event(delta)),
            }
        }
        self.recycle(deltas);
        let reads = self.values(recorded.reads);
        let (name, module) = (name.to_string(), module.to_string());
        self.tape.ops.push(Op { name, module, cost: recorded.cost, reads, inner, outer: vec![], forward: true });
    }

    pub fn visit(&mut self, name: &str, module: &str, reads: &[Key], cost: f64) {
        let reads = self.values(reads);
        let (name, module) = (name.to_string(), module.to_string());
        self.tape.ops.push(Op { name, module, cost, reads, ..Op::default() });
    }

    /// A value now lives in the block `to`, and what lived there goes when `from` goes.
    pub fn moved(&mut self, key: Key, from: u32, to: u32) {
        if let Some(value) = self.value(key) {
            let old = self.blocks.insert(to, value);
            match old {
                Some(old) => self.blocks.insert(from, old),
                None => self.blocks.remove(&from),
            };
        }
    }

    /// A value goes that is not there.
    pub fn vanished(&mut self, key: Key) {
        if let Some(value) = self.value(key) {
            self.flush();
            self.append(vec![Event::Release(ValueId(value))]);
        }
    }

    /// Takes down what the user said of a value; returns which it is.
    pub fn hint(&mut self, key: Key, hint: Hint) -> Option<u32> {
        let value = self.value(key)?;
        self.hints.0.insert(value, hint);
        Some(value)
    }

    /// The step is over.
    pub fn finish(mut self) -> (Tape, Hints) {
        self.flush();
        self.unpin();
        (std::mem::take(&mut self.tape), std::mem::take(&mut self.hints))
    }

    fn values(&self, keys: &[Key]) -> Vec<ValueId> {
        let mut list = Vec::with_capacity(keys.len());
        for value in keys.iter().filter_map(|key| self.value(*key)).map(ValueId) {
            if !list.contains(&value) {
                list.push(value);
            }
        }
        list
    }

    fn flush(&mut self) {
        arena::drain_deltas(&mut self.deltas);
        let deltas = std::mem::take(&mut self.deltas);
        let mut events = Vec::new();
        for delta in &deltas {
            events.extend(self.event(delta));
        }
        self.recycle(deltas);
        self.append(events);
    }

    fn append(&mut self, events: Vec<Event>) {
        match self.tape.ops.last_mut() {
            Some(op) if op.forward => op.outer.extend(events),
            Some(op) => op.inner.extend(events),
            // Before the first op the step has not begun.
            None => {}
        }
    }

    /// A delta as an event of a step without drops.
    fn event(&mut self, delta: &Delta) -> Option<Event> {
        match *delta {
            Delta::Holds { id, value } => {
                self.blocks.insert(id, value);
                None
            }
            Delta::Alloc { bytes, engine, .. } => (!engine).then_some(Event::Alloc(bytes)),
            Delta::Free { id, bytes, engine } => match self.blocks.remove(&id) {
                _ if engine => None,
                Some(value) => Some(Event::Release(ValueId(value))),
                None => Some(Event::Free(bytes)),
            },
        }
    }

    /// Notes the values that only saved slots hold from here on.
    fn unpin(&mut self) {
        let pinned = std::mem::take(&mut self.pinned);
        let state = resident::holders(pinned.iter().map(|v| self.keys[*v as usize]));
        let mut events = vec![];
        for (value, state) in pinned.into_iter().zip(state) {
            match state {
                resident::Holder::Others => self.pinned.push(value),
                resident::Holder::Slots => events.push(Event::Unpin(ValueId(value))),
                resident::Holder::Nobody => {}
            }
        }
        self.append(events);
    }

    fn recycle(&mut self, mut deltas: Vec<Delta>) {
        deltas.clear();
        self.deltas = deltas;
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        arena::take_down(false);
    }
}
