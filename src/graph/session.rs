//! Steps under a budget: each is taken down as a tape; a step like an earlier one follows the plan made from that tape.
//!
//! A step reaches from the first recorded op after a sweep to the next such op. Where it leaves its plan, because the graph
//! has changed, it goes on under the online policy of `budget`, which holds the cap in any case. All of it is about the memory
//! of one space at a time.

use super::capture::{Capture, Hints, Recorded};
use super::follow::{self, Action};
use super::replay::Held;
use super::resident::{self, Hint, Key};
use super::store::{self, NodeId};
use crate::arena::space::Space;
use crate::arena::{self, Context};
use crate::error::{Error, Kind, Result, size};
use crate::plan::gaps::Gaps;
use crate::plan::tape::{Tape, ValueId};
use crate::plan::{self, Impossible, Plan, Search, State};
use crate::tensor::Storage;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

static ACTIVE: AtomicBool = AtomicBool::new(false);
static SESSION: Mutex<Option<Session>> = Mutex::new(None);
/// The index of the space whose bytes are on the tapes.
static SPACE: AtomicUsize = AtomicUsize::new(0);

/// True while steps are taken down.
pub fn active() -> bool {
    ACTIVE.load(Relaxed)
}

/// Whose bytes are on the tapes.
pub fn space() -> Space {
    Space::from_index(SPACE.load(Relaxed))
}

/// Errors while steps are taken down for another space than this one.
pub fn expect_free(what: &str, space: Space) -> Result<()> {
    let (own, other) = (space.name(), self::space());
    if !active() || other == space {
        return Ok(());
    }
    let why = if arena::budget(other).is_some() { "a budget on" } else { "a capture of the steps on" };
    Err(Error::graph(format!(
        "{what}: {why} {} is under way, and steps are planned for the memory of one device at a time; end that one before \
         this one on {own} begins (help: memory.limit caps any number of devices)",
        other.name()
    )))
}

/// This part of a cap may be alive before a step, more or less than before the one planned, and its plan still serves.
const SLACK: u64 = 128;
/// Steps known by their tapes at most: a loop may alternate between a few kinds.
const TAPES: usize = 8;
/// Tapes at most that differ only in what other threads or Python allocated meanwhile: a further one counts as the latest.
const ALIKE: usize = 3;
/// Plans that are kept, the latest made.
const PLANS: usize = 64;

#[derive(Default)]
struct Session {
    space: Space,
    cap: Option<u64>,
    capture: Option<Capture>,
    /// A sweep has ended in this step.
    swept: bool,
    known: Vec<Known>,
    /// Steps that were seen to their end.
    steps: usize,
    /// The tape of the step before, and which tape came after which.
    last: Option<usize>,
    after: FxHashMap<usize, usize>,
    plans: Vec<Planned>,
    following: Option<Following>,
    /// No plan can keep the cap in a step like this known one.
    refusing: Option<usize>,
    /// The latest advice: for which tape, and how many bytes before the step.
    advised: Option<((usize, u64), String)>,
}

struct Known {
    tape: Arc<Tape>,
    hints: Hints,
}

/// What came of planning for a known tape.
struct Planned {
    tape: usize,
    base: u64,
    cap: u64,
    /// Steps that asked for it. The second is worth a full search.
    uses: usize,
    result: std::result::Result<Arc<Followed>, Refused>,
}

#[derive(Clone, Copy)]
enum Refused {
    /// None was found.
    Unknown,
    /// There is none.
    Certain,
}

/// A plan, made ready for being followed.
pub struct Followed {
    pub plan: Plan,
    tape: Arc<Tape>,
    gaps: Gaps,
    /// Of each op, what is done before it.
    before: Vec<Vec<Action<ValueId>>>,
}

struct Following {
    plan: Arc<Followed>,
    hints: Hints,
    /// Bytes alive when the step began.
    base: u64,
    /// The op of the tape that is running.
    at: usize,
    begun: bool,
    /// Of each gap, how often its value was made again and not kept.
    passes: Vec<u8>,
    held: Held,
}

impl Drop for Following {
    fn drop(&mut self) {
        follow::release(&mut self.held);
    }
}

/// Begins, or goes on, to take steps down; with a cap, steps that are known follow plans. What was known of steps in another
/// space is forgotten.
pub fn begin(space: Space, cap: Option<u64>) {
    let mut session = SESSION.lock();
    let session = session.get_or_insert_default();
    if session.space != space {
        *session = Session { space, steps: session.steps, ..Session::default() };
    }
    session.cap = cap;
    SPACE.store(space.index(), Relaxed);
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
    let last = session.last.map(|i| session.known[i].tape.clone());
    let others = session.known.iter().enumerate().filter(|(i, _)| Some(*i) != session.last);
    last.into_iter().chain(others.map(|(_, known)| known.tape.clone())).collect()
}

/// Steps seen to their end since the process began.
pub fn steps() -> usize {
    SESSION.lock().as_ref().map_or(0, |s| s.steps)
}

/// The plan that the running or latest step follows, or followed to its end.
pub fn current_plan() -> Option<Plan> {
    let session = SESSION.lock();
    let following = session.as_ref()?.following.as_ref()?;
    let Followed { plan, tape, .. } = &*following.plan;
    Some(Plan { peak: plan.peak + following.base - tape.base, ..plan.clone() })
}

/// A recorded op is about to run. Errors when the step has turned out to be one for which no plan can keep the budget.
pub fn before_forward(name: &str) -> Result<()> {
    let actions = {
        let mut guard = SESSION.lock();
        let Some(session) = guard.as_mut() else { return Ok(()) };
        if session.swept {
            session.end_step();
        }
        if session.capture.is_none() {
            session.begin_step();
        }
        let actions = session.position(name, true);
        session.refuse()?;
        actions
    };
    perform(&actions);
    Ok(())
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
    let actions = {
        let mut guard = SESSION.lock();
        let Some(session) = guard.as_mut() else { return };
        let actions = session.position(name, false);
        if let Some(capture) = &mut session.capture {
            capture.visit(name, &module, &reads, cost);
        }
        actions
    };
    perform(&actions);
}

/// The user has said something of a value.
pub fn hinted(key: Key, hint: Hint) {
    let mut guard = SESSION.lock();
    let Some(session) = guard.as_mut() else { return };
    let Some(value) = session.capture.as_mut().and_then(|capture| capture.hint(key, hint)) else { return };
    if session.following.as_ref().is_some_and(|f| f.hints.get(value) != Some(hint)) {
        session.following = None;
    }
}

/// A sweep has ended. The step of one that failed is no step to plan by.
pub fn after_sweep(whole: bool) {
    if let Some(session) = SESSION.lock().as_mut() {
        if !whole {
            session.capture = None;
            session.following = None;
        }
        session.swept = session.capture.is_some();
    }
}

/// An in-place op has moved a value into the block of the one it overwrote: the two have changed places.
pub fn moved(key: Key, from: &Storage, to: &Storage) {
    let (from, to) = (from.block_in(space()), to.block_in(space()));
    if let (Some(capture), Some(from), Some(to)) = (SESSION.lock().as_mut().and_then(|s| s.capture.as_mut()), from, to)
    {
        capture.moved(key, from, to);
    }
}

/// An in-place op has written to memory whose value, if it had one, is no more.
pub fn overwritten(storage: &Storage) {
    let Some(block) = storage.block_in(space()).filter(|_| active()) else { return };
    if let Some(capture) = SESSION.lock().as_mut().and_then(|s| s.capture.as_mut()) {
        capture.overwritten(block, storage.charged_bytes() as u64);
    }
}

/// A value that was dropped is wanted by nobody any more: in a step without drops its bytes would go now.
pub fn vanished(key: Key) {
    if active()
        && let Some(capture) = SESSION.lock().as_mut().and_then(|s| s.capture.as_mut())
    {
        capture.vanished(key);
    }
}

/// A value was made again, in this memory.
pub fn restored(key: Key, storage: &Storage) {
    let value = SESSION.lock().as_ref().and_then(|s| s.capture.as_ref()?.value(key));
    if let (Some(value), Some(block)) = (value, storage.block_in(space())) {
        arena::note_value(space(), block, value);
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

/// What the plan says, done without the lock: a replay asks for the session itself.
fn perform(actions: &[Action<Key>]) {
    if actions.is_empty() {
        return;
    }
    let following = |work: fn(&mut Following) -> Held| SESSION.lock().as_mut()?.following.as_mut().map(work);
    let mut held = following(|f| std::mem::take(&mut f.held)).unwrap_or_default();
    let done = follow::perform(actions, &mut held);
    match SESSION.lock().as_mut().and_then(|s| s.following.as_mut()) {
        Some(following) if done.is_ok() => following.held = std::mem::take(&mut held),
        _ => {}
    }
    follow::release(&mut held);
    if done.is_err() {
        let stopped = SESSION.lock().as_mut().and_then(|s| s.following.take());
        drop(stopped);
    }
}

/// What to say when the budget cannot be kept: the least one that a step like the one before can keep, and what others cost.
pub fn advice() -> String {
    let (about, tape, how) = {
        let guard = SESSION.lock();
        let Some(session) = guard.as_ref() else { return String::new() };
        let Some(last) = session.last else {
            return "\nhelp: no step was seen to its end yet, so the least feasible budget is not known; \
                    memory.forecast(step).budgets() tells it without running the step"
                .to_string();
        };
        let base = session.capture.as_ref().map_or_else(|| arena::stats_of(session.space).live as u64, |c| c.tape.base);
        if let Some((_, text)) = session.advised.as_ref().filter(|(about, _)| *about == (last, base)) {
            return text.clone();
        }
        let known = &session.known[last];
        ((last, base), Tape { base, ..(*known.tape).clone() }, known.hints.search(true))
    };
    // Nothing fits in no bytes: the answer is what does.
    let text = plan::plan(&tape, 0, &how).map_or_else(|offer| offer_text(&offer), |_| String::new());
    if let Some(session) = SESSION.lock().as_mut() {
        session.advised = Some((about, text.clone()));
    }
    text
}

/// No plan keeps the budget.
pub fn refusal(budget: u64, offer: &Impossible) -> Error {
    let text = format!("memory.budget: no plan keeps {budget} bytes ({}) in this step", size(budget as usize));
    Error::new(Kind::OutOfMemory, text + &offer_text(offer))
}

fn offer_text(offer: &Impossible) -> String {
    let cost = |s: &plan::Summary| 100.0 * s.recompute / s.base.max(f64::MIN_POSITIVE);
    let mut text = format!("\nhelp: the least budget found for such a step is {} bytes", offer.least);
    for (budget, summary) in &offer.ladder {
        text += &format!("\n  {budget} bytes ({}): {:.1} % more computing", size(*budget as usize), cost(summary));
    }
    text
}

impl Session {
    fn begin_step(&mut self) {
        self.capture = Some(Capture::start(self.space));
        self.swept = false;
        self.following = None;
        self.refusing = None;
        let expected = self.last.map(|last| self.after.get(&last).copied().unwrap_or(last));
        let (Some(this), Some(cap)) = (expected, self.cap) else { return };
        let base = arena::stats_of(self.space).live as u64;
        match self.plan(this, base, cap) {
            Ok(plan) => {
                let (passes, hints) = (vec![0; plan.gaps.len()], self.known[this].hints.clone());
                self.following =
                    Some(Following { plan, hints, base, at: 0, begun: false, passes, held: Held::default() });
            }
            // With more alive than then, such as the gradients of the step before, the step may free that on its way.
            Err(Refused::Certain) if base <= self.known[this].tape.base + cap / SLACK => self.refusing = Some(this),
            Err(_) => {}
        }
    }

    /// Moves on to the next op; returns what the plan does before it.
    fn position(&mut self, name: &str, forward: bool) -> Vec<Action<Key>> {
        let Some(capture) = &mut self.capture else { return vec![] };
        capture.boundary();
        let Some(following) = &mut self.following else { return vec![] };
        following.at += usize::from(std::mem::replace(&mut following.begun, true));
        let tape = &following.plan.tape;
        let op = tape.ops.get(following.at);
        let same = following.at == 0 || capture.tape.ends_like(tape, following.at - 1);
        if !same || !op.is_some_and(|op| op.name == name && op.forward == forward) {
            self.following = None;
            return vec![];
        }
        let key = |action: &Action<ValueId>| match action {
            Action::Drop(value) => Action::Drop(capture.key(*value)),
            Action::Make(value) => Action::Make(capture.key(*value)),
        };
        following.plan.before[following.at].iter().map(key).collect()
    }

    /// Errors when the first op has shown that the step is the one that cannot be.
    fn refuse(&mut self) -> Result<()> {
        let (Some(this), Some(capture), Some(cap)) = (self.refusing, &self.capture, self.cap) else { return Ok(()) };
        if capture.tape.ops.is_empty() {
            return Ok(());
        }
        self.refusing = None;
        // A budget on trial is lifted where it cannot be kept, and may be gone already.
        if arena::on_trial(self.space) || arena::budget(self.space).is_none() {
            return Ok(());
        }
        let known = &self.known[this];
        if !capture.tape.ends_like(&known.tape, 0) {
            return Ok(());
        }
        let tape = Tape { base: capture.tape.base, ..(*known.tape).clone() };
        let offer = match plan::plan(&tape, cap, &known.hints.search(true)) {
            Ok(_) => return Ok(()),
            Err(offer) => offer,
        };
        self.capture = None;
        Err(refusal(cap, &offer))
    }

    fn end_step(&mut self) {
        let Some(capture) = self.capture.take() else { return };
        if !std::mem::take(&mut self.swept) {
            return;
        }
        self.steps += 1;
        let (tape, hints) = capture.finish();
        let same = |k: &Known| k.hints == hints && k.tape.ops == tape.ops && k.tape.values == tape.values;
        let known = self.known.iter().position(same).or_else(|| {
            let alike = |k: &Known| k.hints == hints && k.tape.is_like(&tape);
            let alike: Vec<usize> = (0..self.known.len()).filter(|&i| alike(&self.known[i])).collect();
            alike.get(ALIKE - 1).copied()
        });
        let this = known.unwrap_or_else(|| {
            if self.known.len() == TAPES {
                let (space, cap) = (self.space, self.cap);
                *self = Session { space, cap, steps: self.steps, ..Session::default() };
            }
            self.known.push(Known { tape: Arc::new(tape), hints });
            self.known.len() - 1
        });
        if let Some(last) = self.last.replace(this) {
            self.after.insert(last, this);
        }
    }

    /// The plan for a step like tape `this` that begins with `base` bytes alive. First one that is soon found; when it is used
    /// again, the best that a full search finds.
    fn plan(&mut self, this: usize, base: u64, cap: u64) -> std::result::Result<Arc<Followed>, Refused> {
        // A few bytes less or more than in the step planned change nothing, as long as its peak still fits.
        let slack = cap / SLACK;
        let serves = |p: &Planned| match &p.result {
            Ok(followed) => followed.plan.peak + base.saturating_sub(followed.tape.base) <= cap,
            Err(_) => base >= p.base,
        };
        let near = |p: &&mut Planned| (p.tape, p.cap) == (this, cap) && p.base.abs_diff(base) <= slack && serves(p);
        let mut quick = true;
        if let Some(planned) = self.plans.iter_mut().filter(near).min_by_key(|p| p.base.abs_diff(base)) {
            planned.uses += 1;
            quick = planned.uses != 2 || planned.result.as_ref().is_ok_and(|f| f.plan.recompute == 0.0);
            if quick {
                return planned.result.clone();
            }
        }
        let known = &self.known[this];
        let tape = Arc::new(Tape { base, ..(*known.tape).clone() });
        let result = Followed::new(&tape, cap, &known.hints.search(quick));
        self.plans.drain(..self.plans.len().saturating_sub(PLANS));
        match self.plans.iter_mut().filter(near).min_by_key(|p| p.base.abs_diff(base)) {
            Some(planned) => (planned.base, planned.result) = (base, result.clone()),
            None => self.plans.push(Planned { tape: this, base, cap, uses: 1, result: result.clone() }),
        }
        result
    }
}

impl Followed {
    fn new(tape: &Arc<Tape>, cap: u64, how: &Search) -> std::result::Result<Arc<Followed>, Refused> {
        let gaps = Gaps::of(tape).map_err(|_| Refused::Unknown)?;
        let sure = || if plan::bound(tape) > cap { Refused::Certain } else { Refused::Unknown };
        let plan = plan::plan(tape, cap, how).map_err(|_| sure())?;
        let mut before = vec![vec![]; tape.ops.len()];
        for (gap, state) in gaps.all.iter().zip(&plan.states) {
            if *state != State::KEEP {
                before[gap.start as usize + 1].push(Action::Drop(gap.value));
            }
        }
        for step in &plan.steps {
            let action = if step.make { Action::Make(step.value) } else { Action::Drop(step.value) };
            before[step.before as usize].push(action);
        }
        Ok(Arc::new(Followed { plan, tape: tape.clone(), gaps, before }))
    }
}
