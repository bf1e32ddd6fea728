//! Steps under a budget: each is taken down as a tape; a step like an earlier one follows the plan made from that tape.
//!
//! A step reaches from the first recorded op after a sweep to the next such op. Where it leaves its plan, because the graph
//! has changed, it goes on under the online policy of `budget`, which holds the cap in any case.

use super::capture::{Capture, Recorded};
use super::resident::{self, Key};
use super::store::{self, NodeId};
use crate::arena::{self, Context};
use crate::plan::gaps::Gaps;
use crate::plan::tape::{Tape, ValueId};
use crate::plan::{self, Plan, State};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

static ACTIVE: AtomicBool = AtomicBool::new(false);
static SESSION: Mutex<Option<Session>> = Mutex::new(None);

/// True while steps are taken down.
pub fn active() -> bool {
    ACTIVE.load(Relaxed)
}

/// Steps known by their tapes at most: a loop may alternate between a few kinds.
const TAPES: usize = 8;

#[derive(Default)]
struct Session {
    cap: Option<u64>,
    capture: Option<Capture>,
    /// A sweep has ended in this step.
    swept: bool,
    tapes: Vec<Arc<Tape>>,
    /// The tape of the step before, and which tape came after which.
    last: Option<usize>,
    after: FxHashMap<usize, usize>,
    plans: Vec<(usize, u64, u64, Option<Arc<Followed>>)>,
    following: Option<Following>,
}

/// A plan, made ready for being followed.
pub struct Followed {
    pub plan: Plan,
    tape: Arc<Tape>,
    gaps: Gaps,
    /// Of each op, the values to drop before it.
    drops: Vec<Vec<ValueId>>,
}

struct Following {
    plan: Arc<Followed>,
    /// The op of the tape that is running.
    at: usize,
    begun: bool,
    /// Of each gap, how often its value was made again and not kept.
    passes: Vec<u8>,
}

/// Begins, or goes on, to take steps down; with a cap, steps that are known follow plans. Returns the cap of before.
pub fn begin(cap: Option<u64>) {
    let mut session = SESSION.lock();
    session.get_or_insert_default().cap = cap;
    ACTIVE.store(true, Relaxed);
}

/// Ends the taking down; what is known of steps is kept.
pub fn pause() {
    ACTIVE.store(false, Relaxed);
    if let Some(session) = SESSION.lock().as_mut() {
        session.end_step();
        session.capture = None;
    }
}

/// The tapes of the steps known, the latest first, for whoever plans or draws them.
pub fn tapes() -> Vec<Arc<Tape>> {
    let session = SESSION.lock();
    let Some(session) = session.as_ref() else { return vec![] };
    let last = session.last.map(|i| session.tapes[i].clone());
    let others = session.tapes.iter().enumerate().filter(|(i, _)| Some(*i) != session.last).map(|(_, t)| t.clone());
    last.into_iter().chain(others).collect()
}

/// The plan that the running or latest step follows, or followed to its end.
pub fn current_plan() -> Option<Plan> {
    let session = SESSION.lock();
    Some(session.as_ref()?.following.as_ref()?.plan.plan.clone())
}

pub fn forget() {
    *SESSION.lock() = None;
    ACTIVE.store(false, Relaxed);
}

/// A recorded op is about to run.
pub fn before_forward(name: &str) {
    let drops = {
        let mut guard = SESSION.lock();
        let Some(session) = guard.as_mut() else { return };
        if session.swept {
            session.end_step();
        }
        if session.capture.is_none() {
            session.begin_step();
        }
        session.position(name, true)
    };
    drop_all(&drops);
}

/// It has run and was recorded.
pub fn after_forward(name: &str, recorded: Recorded) {
    let module = Context::get().module.text();
    if let Some(capture) = SESSION.lock().as_mut().and_then(|s| s.capture.as_mut()) {
        capture.end_forward(name, &module, recorded);
    }
}

/// The sweep is about to visit a node.
pub fn before_visit(id: NodeId) {
    let (name, module, backward) = store::with(id, |n| (n.op.name(), n.module.text(), n.inputs.len()));
    let reads = resident::saved_by(id);
    let cost = backward as f64 * resident::cost(id);
    let drops = {
        let mut guard = SESSION.lock();
        let Some(session) = guard.as_mut() else { return };
        let drops = session.position(name, false);
        if let Some(capture) = &mut session.capture {
            capture.visit(name, &module, &reads, cost);
        }
        drops
    };
    drop_all(&drops);
}

pub fn after_sweep() {
    if let Some(session) = SESSION.lock().as_mut() {
        session.swept = session.capture.is_some();
    }
}

/// An in-place op has moved a value into the block of the one it overwrote: the two have changed places.
pub fn moved(key: Key, from: Option<u32>, to: Option<u32>) {
    if let (Some(capture), Some(from), Some(to)) = (SESSION.lock().as_mut().and_then(|s| s.capture.as_mut()), from, to)
    {
        capture.moved(key, from, to);
    }
}

/// A value was made again, in this block.
pub fn restored(key: Key, block: Option<u32>) {
    let value = SESSION.lock().as_ref().and_then(|s| s.capture.as_ref()?.value(key));
    if let (Some(value), Some(block)) = (value, block) {
        arena::note_value(block, value);
    }
}

/// Whether the plan keeps a value that was brought back on the way to another; `None` without a plan. Counts the passing by.
pub fn planned(key: Key) -> Option<bool> {
    if !active() {
        return None;
    }
    let mut guard = SESSION.lock();
    let session = guard.as_mut()?;
    let following = session.following.as_mut()?;
    let value = session.capture.as_ref()?.value(key)?;
    let Some(gap) = following.plan.gaps.at(ValueId(value), following.at) else { return Some(false) };
    let state = following.plan.plan.states[gap];
    let passes = &mut following.passes[gap];
    *passes = (*passes + 1).min(State::DROP.0 - 1);
    // A value that the plan keeps is away only because the online policy had to drop it.
    Some(state == State::KEEP || State(*passes) == state)
}

/// True when replays hold no more than the path they are on.
pub fn lean() -> bool {
    active() && SESSION.lock().as_ref().and_then(|s| s.following.as_ref()).is_some_and(|f| f.plan.plan.lean)
}

/// True while a plan decides what to drop.
pub fn planning() -> bool {
    active() && SESSION.lock().as_ref().is_some_and(|s| s.following.is_some())
}

fn drop_all(keys: &[Key]) {
    if keys.is_empty() {
        return;
    }
    let before = arena::by_engine(true);
    for key in keys {
        resident::drop_value(*key);
    }
    arena::by_engine(before);
}

impl Session {
    fn begin_step(&mut self) {
        self.capture = Some(Capture::start());
        self.swept = false;
        self.following = None;
        let expected = self.last.map(|last| self.after.get(&last).copied().unwrap_or(last));
        if let (Some(tape), Some(cap)) = (expected, self.cap) {
            self.following = self.plan(tape, cap).map(|plan| Following {
                passes: vec![0; plan.gaps.len()],
                plan,
                at: 0,
                begun: false,
            });
        }
    }

    /// Moves on to the next op; returns what the plan drops before it.
    fn position(&mut self, name: &str, forward: bool) -> Vec<Key> {
        let Some(capture) = &mut self.capture else { return vec![] };
        capture.boundary();
        let Some(following) = &mut self.following else { return vec![] };
        following.at += usize::from(std::mem::replace(&mut following.begun, true));
        let op = following.plan.tape.ops.get(following.at);
        let before = following.at.checked_sub(1).map(|at| &following.plan.tape.ops[at]);
        let same = before.is_none_or(|op| capture.tape.ops.last().is_some_and(|own| own.is_like(op)));
        if !same || !op.is_some_and(|op| op.name == name && op.forward == forward) {
            self.following = None;
            return vec![];
        }
        following.plan.drops[following.at].iter().map(|value| capture.key(*value)).collect()
    }

    fn end_step(&mut self) {
        let Some(capture) = self.capture.take() else { return };
        if !std::mem::take(&mut self.swept) {
            return;
        }
        let tape = capture.finish();
        let known = self.tapes.iter().position(|t| t.ops == tape.ops && t.values == tape.values);
        let this = known.unwrap_or_else(|| {
            if self.tapes.len() == TAPES {
                let cap = self.cap;
                *self = Session { cap, ..Session::default() };
            }
            self.tapes.push(Arc::new(tape));
            self.tapes.len() - 1
        });
        if let Some(last) = self.last.replace(this) {
            self.after.insert(last, this);
        }
    }

    /// The plan for a step like tape `this` that begins with what is alive now.
    fn plan(&mut self, this: usize, cap: u64) -> Option<Arc<Followed>> {
        let base = arena::stats().live as u64;
        let known = self.plans.iter().find(|(tape, b, c, _)| (*tape, *b, *c) == (this, base, cap));
        if let Some((.., plan)) = known {
            return plan.clone();
        }
        let tape = Arc::new(Tape { base, ..(*self.tapes[this]).clone() });
        let gaps = Gaps::of(&tape).ok();
        let plan = gaps.zip(plan::plan(&tape, cap, &plan::Search::default()).ok());
        let plan = plan.map(|(gaps, plan)| Arc::new(Followed::new(tape, gaps, plan)));
        self.plans.push((this, base, cap, plan.clone()));
        plan
    }
}

impl Followed {
    fn new(tape: Arc<Tape>, gaps: Gaps, plan: Plan) -> Followed {
        let mut drops = vec![vec![]; tape.ops.len()];
        for (gap, state) in gaps.all.iter().zip(&plan.states) {
            if *state != State::KEEP {
                drops[gap.start as usize + 1].push(gap.value);
            }
        }
        Followed { plan, tape, gaps, drops }
    }
}
