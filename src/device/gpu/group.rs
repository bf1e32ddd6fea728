//! Elementwise ops that wait to be sent, several in one kernel where that changes nothing that anybody can see.
//!
//! A group walks one space of elements, in the order of its results' memory; a thread makes the same elements in every step.
//! So a step may take what an earlier step of its group made from a register, if it reads just that element, and what
//! nobody will read from memory is not written. What a step may not do is read or write bytes that another thread of its
//! group writes: such a step begins a group of its own, behind the other. A block that is freed may be anybody's next
//! result at once, therefore bytes are compared, and not tensors.
//!
//! A group may begin with a kernel of the source tree, such as a product, that hands over each element of its result once (a
//! `Head`); its other threads may read what it reads at any time, so steps that write there begin a group of their own.
//!
//! Groups wait side by side, and so does a step that has nothing to do with a kernel that is recorded meanwhile: `needed_by`
//! says which groups a kernel must find done. How a group is written as a kernel stands in `woven`.

use super::halves::Halves;
use super::kernel::{Grid, Words};
use super::text::Text;
use crate::arena::space::Place;
use crate::dtype::DType;
use smallvec::SmallVec;
use std::any::Any;
use std::collections::VecDeque;
use std::sync::{Arc, Weak};

/// Groups that wait at the same time.
const MOST: usize = 8;
/// Axes of a space, and numbers that its kernel may be given.
const AXES: usize = 12;
const WORDS: usize = 120;

pub type Sizes = SmallVec<[usize; 4]>;
pub type Steps = SmallVec<[isize; 4]>;

/// Who holds the block that a result lies in. When nobody does, it need not be written.
pub type Owner = Weak<dyn Any + Send + Sync>;

/// Bytes of a slab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    slab: u32,
    from: usize,
    to: usize,
}

impl Span {
    pub fn of(place: Place) -> Span {
        Span { slab: place.slab, from: place.offset, to: place.offset + place.bytes }
    }

    pub fn meets(&self, other: &Span) -> bool {
        self.slab == other.slab && self.from < other.to && other.from < self.to
    }
}

/// Elements in memory, as a group walks them.
#[derive(Clone, Debug)]
pub struct Operand {
    pub place: Place,
    /// The first element, counted from the start of the block.
    pub at: usize,
    pub dtype: DType,
    /// From an element to the next, along each axis of the space.
    pub strides: Steps,
    /// One bit an element, in the order of the space, from the start of the block.
    pub bits: bool,
    pub span: Span,
}

impl Operand {
    /// `all`: the whole block counts as read or written.
    pub fn new(place: Place, at: usize, dtype: DType, sizes: &[usize], strides: Steps, all: bool) -> Operand {
        let (mut low, mut high) = (0isize, 0isize);
        for (size, stride) in sizes.iter().zip(&strides) {
            let last = (*size as isize - 1) * stride;
            if last < 0 { low += last } else { high += last }
        }
        let byte = |element: usize| place.offset + element * dtype.bytes();
        // Whole words, as small elements share them.
        let from = byte(at.wrapping_add_signed(low)) & !3;
        let to = byte(at.wrapping_add_signed(high) + 1).next_multiple_of(4);
        let span = if all { Span::of(place) } else { Span { slab: place.slab, from, to } };
        Operand { place, at, dtype, strides, bits: false, span }
    }

    pub fn bits(place: Place) -> Operand {
        let strides = Steps::new();
        Operand { place, at: 0, dtype: DType::U8, strides, bits: true, span: Span::of(place) }
    }

    /// True when a thread finds the same elements in the same places.
    pub fn same(&self, other: &Operand) -> bool {
        let start = |o: &Operand| (o.place.slab, o.place.offset + o.at * o.dtype.bytes());
        !self.bits
            && !other.bits
            && self.dtype == other.dtype
            && start(self) == start(other)
            && self.strides == other.strides
    }

    /// Apart, or of the same elements: then each is read and written by one thread.
    fn agrees(&self, other: &Operand, sizes: &[usize]) -> bool {
        !self.meets(other, sizes) || self.same(other)
    }

    /// False when they have surely no byte in common, such as the windows that a `cat` writes.
    fn meets(&self, other: &Operand, sizes: &[usize]) -> bool {
        let alike = !self.bits && !other.bits && self.dtype == other.dtype && self.dtype.bytes() >= 4;
        if !self.span.meets(&other.span) || !alike || self.strides != other.strides {
            return self.span.meets(&other.span);
        }
        let start = |o: &Operand| (o.place.offset + o.at * o.dtype.bytes()) as isize;
        let bytes = self.dtype.bytes() as isize;
        let apart = start(self) - start(other);
        apart % bytes != 0 || reaches(apart / bytes, sizes, &self.strides)
    }
}

/// True when so many elements may lie between two places of a walk; strides that do not nest count as if they could.
fn reaches(apart: isize, sizes: &[usize], strides: &[isize]) -> bool {
    let mut axes: SmallVec<[(isize, isize); 4]> =
        sizes.iter().zip(strides).map(|(size, stride)| (stride.abs(), *size as isize - 1)).collect();
    axes.sort_unstable();
    // How far the axes before an axis reach.
    let mut inner = 0;
    let nested = axes.iter().all(|(stride, last)| {
        let fits = *stride > inner;
        inner += stride * last;
        fits
    });
    !nested || sums_to(apart.abs(), &axes)
}

/// True when multiples of the strides, none longer than its axis, add up to `rest`.
fn sums_to(rest: isize, axes: &[(isize, isize)]) -> bool {
    let Some(((stride, last), within)) = axes.split_last() else { return rest == 0 };
    // One step less or more than what is left, as the axes within go either way.
    let steps = (rest / stride).min(*last);
    let more = (steps + 1).min(*last);
    [steps, more].iter().any(|steps| sums_to((rest - steps * stride).abs(), within))
}

/// What a step reads.
#[derive(Clone, Debug)]
pub enum Input {
    Absent,
    /// The bits of a float, or an integer.
    Number(u32),
    Memory(Operand),
    /// The result of an earlier step of the group, by number.
    Made(usize),
}

/// A kernel whose text calls `finish(e, value)` once for each element `e` of its result.
#[derive(Clone)]
pub struct Head {
    /// What tells it apart from others, whatever comes behind it.
    pub key: SmallVec<[u32; 16]>,
    /// The declaration of its params, and the text behind that.
    pub params: &'static str,
    pub text: Arc<dyn Fn() -> String + Send + Sync>,
    pub bindings: SmallVec<[Place; 6]>,
    pub words: Words,
    pub grid: Grid,
    pub reads: SmallVec<[Span; 4]>,
    /// Besides its result.
    pub writes: SmallVec<[Span; 1]>,
}

/// Behind such a text where its results go another way.
pub const NO_FINISH: &str = "fn finish(e: u32, value: f32) {\n}\n";

/// An elementwise op, or what a group begins with.
#[derive(Clone)]
pub struct Step {
    pub name: &'static str,
    pub head: Option<Arc<Head>>,
    pub text: Text,
    /// In f32, or in i32.
    pub float: bool,
    pub sizes: Sizes,
    pub inputs: SmallVec<[Input; 4]>,
    pub out: Operand,
    /// The result lies in the order of the space, from a word of four elements on, and the rest of the last word is nobody's.
    pub wide: bool,
    /// `None` where the block is kept by other means.
    pub owner: Option<Owner>,
    /// A group behind this one reads the result from memory.
    pub seen: bool,
    /// Where an int64 beyond 32 bits is noted; 0 when none is read.
    pub site: u32,
}

impl Step {
    fn is_held(&self) -> bool {
        self.owner.as_ref().is_none_or(|owner| owner.strong_count() > 0)
    }

    /// True when the result is to be written. Once false it stays so: whatever is in its place later is somebody else's.
    fn is_wanted(&self) -> bool {
        self.seen || self.is_held()
    }

    fn reads(&self) -> impl Iterator<Item = &Operand> {
        self.inputs.iter().filter_map(|input| if let Input::Memory(operand) = input { Some(operand) } else { None })
    }

    /// Over a finer space.
    fn refine(&mut self, sizes: &Sizes) {
        if self.sizes == *sizes {
            return;
        }
        let old = std::mem::replace(&mut self.sizes, sizes.clone());
        for input in &mut self.inputs {
            if let Input::Memory(operand) = input {
                refine(operand, &old, sizes);
            }
        }
        refine(&mut self.out, &old, sizes);
    }
}

/// True when strides are those of a gapless run in the order of the axes.
pub fn in_order(sizes: &[usize], strides: &[isize]) -> bool {
    let mut step = 1isize;
    sizes.iter().zip(strides).rev().all(|(&size, &stride)| {
        let fits = size == 1 || stride == step;
        step *= size as isize;
        fits
    })
}

/// The coarsest sizes that both are cut into; `None` when there are none.
fn common(a: &[usize], b: &[usize]) -> Option<Sizes> {
    let (mut a, mut b): (Sizes, Sizes) = (a.into(), b.into());
    let mut sizes = Sizes::new();
    while let (Some(x), Some(y)) = (a.pop(), b.pop()) {
        let (small, large) = (x.min(y), x.max(y));
        if large % small != 0 {
            return None;
        }
        sizes.push(small);
        if large > small {
            if x > y { &mut a } else { &mut b }.push(large / small);
        }
    }
    sizes.reverse();
    (a.is_empty() && b.is_empty()).then_some(sizes)
}

fn refine(operand: &mut Operand, old: &[usize], new: &[usize]) {
    if operand.bits {
        return;
    }
    let mut strides = Steps::new();
    let mut rest = new.iter().rev();
    for (size, stride) in old.iter().zip(&operand.strides).rev() {
        let mut done = 1;
        while done < *size {
            strides.push(stride * done as isize);
            done *= rest.next().expect("bug: a space that is no finer");
        }
    }
    strides.reverse();
    operand.strides = strides;
}

/// What the adapter lets a kernel of joined ops have.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    pub bindings: usize,
    pub halves: Halves,
}

/// Steps over one space.
#[derive(Clone)]
pub struct Group {
    pub sizes: Sizes,
    pub steps: Vec<Step>,
}

impl Group {
    fn of(step: Step) -> Group {
        Group { sizes: step.sizes.clone(), steps: vec![step] }
    }

    pub fn count(&self) -> usize {
        self.sizes.iter().product()
    }

    /// The step as it would be here; `None` where that is not possible.
    fn joined(&self, step: &Step, room: Room) -> Option<(Sizes, Step)> {
        if self.sizes != step.sizes && self.count() != step.sizes.iter().product::<usize>() {
            return None;
        }
        let sizes = common(&self.sizes, &step.sizes).filter(|sizes| sizes.len() <= AXES)?;
        let (mut fine, mut step) = (None, step.clone());
        step.refine(&sizes);
        if self.sizes != sizes {
            let mut group = self.clone();
            group.refine(&sizes);
            fine = Some(group);
        }
        let steps = &fine.as_ref().unwrap_or(self).steps;
        let head = steps[0].head.as_ref();
        // Results that are written four at once stay so.
        if head.is_none() && steps.iter().any(|earlier| earlier.wide != step.wide) {
            return None;
        }
        for input in &mut step.inputs {
            let Input::Memory(operand) = input else { continue };
            // The last to write it is the one whose result is there; who holds a block now has nothing from those before.
            let wrote = |s: &Step| s.is_held() && s.out.meets(operand, &sizes);
            if let Some((at, made)) = steps.iter().enumerate().rev().find(|(_, s)| wrote(s)) {
                if !made.out.same(operand) {
                    return None;
                }
                *input = Input::Made(at);
            }
        }
        // Bits are gathered from threads side by side, and a product's are not.
        let goes_on = step.inputs.iter().any(|input| matches!(input, Input::Made(_))) && !step.out.bits;
        let beside = |head: &Arc<Head>| {
            let taken = head.reads.iter().chain(&head.writes).any(|span| span.meets(&step.out.span));
            taken || step.reads().any(|operand| head.writes.iter().any(|span| span.meets(&operand.span)))
        };
        // Small elements share words, which a thread that makes one element at a time writes in turn with others.
        let small = step.out.dtype.bytes() < 4 && room.halves.written(step.out.dtype).is_none();
        if head.is_some_and(|head| !goes_on || small || beside(head)) {
            return None;
        }
        let read = |earlier: &Step| earlier.reads().all(|operand| operand.agrees(&step.out, &sizes));
        let written = |earlier: &Step| earlier.out.agrees(&step.out, &sizes) || !earlier.is_wanted();
        if !steps.iter().all(|earlier| read(earlier) && written(earlier)) {
            return None;
        }
        let all = || steps.iter().chain([&step]);
        let memory = || all().flat_map(|s| s.reads().chain([&s.out]));
        let mut places: SmallVec<[(Place, DType); 24]> = memory().map(|o| (o.place, o.dtype)).collect();
        places.sort_by_key(|(place, dtype)| (place.slab, place.offset, *dtype as u32));
        places.dedup();
        let numbers: usize = all().map(|s| s.inputs.len()).sum();
        let (own, given) = head.map_or((0, 0), |head| (head.bindings.len(), head.words.len()));
        let words = given + memory().count() * (1 + sizes.len()) + numbers + sizes.len() + 4;
        // One of four and one by one are bindings of their own, and so are the words of faults.
        (own + 2 * places.len() < room.bindings && words <= WORDS).then_some((sizes, step))
    }

    fn refine(&mut self, sizes: &Sizes) {
        self.steps.iter_mut().for_each(|step| step.refine(sizes));
        self.sizes = sizes.clone();
    }

    fn writes(&self) -> impl Iterator<Item = &Span> {
        let heads = self.steps.iter().filter_map(|s| s.head.as_ref()).flat_map(|head| &head.writes);
        heads.chain(self.steps.iter().filter(|s| s.is_wanted()).map(|s| &s.out.span))
    }

    fn reads(&self) -> impl Iterator<Item = &Span> {
        let heads = self.steps.iter().filter_map(|s| s.head.as_ref()).flat_map(|head| &head.reads);
        heads.chain(self.steps.iter().flat_map(|s| s.reads().map(|o| &o.span)))
    }

    /// True when work that reads and writes these bytes may not change places with the group.
    fn holds_up<'a>(
        &self,
        mut reads: impl Iterator<Item = &'a Span>,
        mut writes: impl Iterator<Item = &'a Span>,
    ) -> bool {
        reads.any(|span| self.writes().any(|w| w.meets(span)))
            || writes.any(|span| self.writes().chain(self.reads()).any(|own| own.meets(span)))
    }

    /// True when a group behind this one must be sent after it.
    fn precedes(&self, behind: &Group) -> bool {
        self.holds_up(behind.reads(), behind.writes())
    }

    /// Which results are written: not those that a later step writes again.
    fn wanted(&self) -> Vec<bool> {
        let again = |at: usize| self.steps[at + 1..].iter().any(|later| later.out.same(&self.steps[at].out));
        self.steps.iter().enumerate().map(|(at, step)| step.is_wanted() && !again(at)).collect()
    }
}

/// A group to be sent, and which of its results are written.
pub struct Ready {
    pub group: Group,
    pub wanted: Vec<bool>,
}

/// What waits, in the order in which it was asked for.
#[derive(Default)]
pub struct Waiting {
    groups: VecDeque<Group>,
}

impl Waiting {
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Takes a step in. The groups that come back are to be sent at once: they have no room any more, or stand in the way.
    pub fn put(&mut self, step: Step, room: Room) -> SmallVec<[Ready; 2]> {
        let mut between: SmallVec<[usize; MOST]> = SmallVec::new();
        for at in (0..self.groups.len()).rev().filter(|_| step.head.is_none()) {
            if let Some((sizes, joined)) = self.groups[at].joined(&step, room) {
                let takes = joined.inputs.iter().any(|input| matches!(input, Input::Made(_)));
                let ahead = self.with_those_before(&between);
                // Those between go first if they can; it is worth it where a result is handed on.
                if between.is_empty() || takes && !ahead.contains(&at) {
                    let group = &mut self.groups[at];
                    if group.sizes != sizes {
                        group.refine(&sizes);
                    }
                    group.steps.push(joined);
                    self.see(at);
                    return ahead.iter().enumerate().map(|(done, at)| self.take(at - done)).collect();
                }
            }
            let out = [step.out.span];
            if self.groups[at].holds_up(step.reads().map(|o| &o.span), out.iter()) {
                between.push(at);
            }
        }
        let mut full = SmallVec::new();
        if self.groups.len() >= MOST {
            full.push(self.take(0));
        }
        self.groups.push_back(Group::of(step));
        self.see(self.groups.len() - 1);
        full
    }

    /// Notes what the last step of a group reads of results of others.
    fn see(&mut self, at: usize) {
        let step = self.groups[at].steps.last().expect("bug: a group without steps");
        let heads = step.head.as_ref().map_or(&[][..], |head| &head.reads);
        let spans: SmallVec<[Span; 8]> = step.reads().map(|o| o.span).chain(heads.iter().copied()).collect();
        for (_, group) in self.groups.iter_mut().enumerate().filter(|(other, _)| *other != at) {
            for step in group.steps.iter_mut().filter(|s| spans.iter().any(|span| span.meets(&s.out.span))) {
                step.seen |= step.is_held();
            }
        }
    }

    /// These groups and all that must be sent before them, in order.
    fn with_those_before(&self, groups: &[usize]) -> SmallVec<[usize; MOST]> {
        let mut all: SmallVec<[usize; MOST]> = groups.into();
        for at in (0..self.groups.len()).rev() {
            let needed = all.iter().any(|&behind| behind > at && self.groups[at].precedes(&self.groups[behind]));
            if needed && !all.contains(&at) {
                all.push(at);
            }
        }
        all.sort_unstable();
        all
    }

    fn take(&mut self, at: usize) -> Ready {
        let group = self.groups.remove(at).expect("bug: no such group");
        let wanted = group.wanted();
        Ready { group, wanted }
    }

    /// The next group that must be done before a kernel that reads and writes these bytes.
    pub fn needed_by(&mut self, reads: &[Span], writes: &[Span]) -> Option<Ready> {
        let held = |group: &Group| group.holds_up(reads.iter(), writes.iter());
        let first = (0..self.groups.len()).find(|&at| held(&self.groups[at]))?;
        // Whatever that one waits for goes first.
        let first = self.with_those_before(&[first])[0];
        Some(self.take(first))
    }

    pub fn first(&mut self) -> Option<Ready> {
        (!self.groups.is_empty()).then(|| self.take(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::space::GRAIN;
    use std::sync::Arc;

    const ROOM: Room = Room { bindings: 16, halves: Halves { f16: false, i16: false } };

    fn block(number: usize) -> Place {
        Place { slab: 1, offset: number * 4 * GRAIN, bytes: 4 * GRAIN }
    }

    fn whole(number: usize, sizes: &[usize]) -> Operand {
        let strides = (0..sizes.len()).map(|i| sizes[i + 1..].iter().product::<usize>() as isize).collect();
        Operand::new(block(number), 0, DType::F32, sizes, strides, true)
    }

    /// y = f(inputs), and who holds y.
    fn step(sizes: &[usize], inputs: &[&Operand], out: &Operand) -> (Step, Arc<u8>) {
        let held = Arc::new(0u8);
        let weak: Weak<u8> = Arc::downgrade(&held);
        let step = Step {
            name: "test",
            head: None,
            text: Text::written(inputs.len(), |_| String::new()),
            float: true,
            sizes: sizes.into(),
            inputs: inputs.iter().map(|o| Input::Memory((*o).clone())).collect(),
            out: out.clone(),
            wide: true,
            owner: Some(weak),
            seen: false,
            site: 0,
        };
        (step, held)
    }

    #[test]
    fn spaces_are_cut_into_their_common_sizes() {
        let sizes = |list: &[usize]| Some(Sizes::from_slice(list));
        assert_eq!(common(&[24], &[2, 3, 4]), sizes(&[2, 3, 4]));
        assert_eq!(common(&[4, 6], &[8, 3]), sizes(&[4, 2, 3]));
        assert_eq!(common(&[4, 6], &[6, 4]), None);
        assert_eq!(common(&[], &[]), sizes(&[]));
        assert_eq!(common(&[5], &[3]), None);
    }

    #[test]
    fn windows_that_share_no_element_are_told_apart() {
        for sizes in [[3usize, 2, 2], [2, 3, 1], [1, 4, 3]] {
            for strides in [[10isize, 3, 1], [12, 2, 1], [-9, 4, 1], [7, 3, -1], [3, 2, 1], [0, 2, 1]] {
                let mut places = vec![];
                for i in 0..sizes[0] as isize {
                    for j in 0..sizes[1] as isize {
                        places.extend((0..sizes[2] as isize).map(|k| i * strides[0] + j * strides[1] + k * strides[2]));
                    }
                }
                for apart in -40..40 {
                    let meet = places.iter().any(|a| places.contains(&(a + apart)));
                    // Strides that do not nest may only err to the safe side.
                    assert!(!meet || reaches(apart, &sizes, &strides), "{sizes:?} {strides:?} {apart}");
                }
            }
        }
        assert!(!reaches(5, &[4, 5], &[15, 1]) && reaches(4, &[4, 5], &[15, 1]) && reaches(15, &[4, 5], &[15, 1]));
    }

    #[test]
    fn a_result_goes_on_in_a_register_and_is_not_written_when_nobody_holds_it() {
        let (x, t, y) = (whole(0, &[64]), whole(1, &[64]), whole(2, &[64]));
        let (first, held) = step(&[64], &[&x], &t);
        let (second, _y) = step(&[64], &[&t, &x], &y);
        let mut waiting = Waiting::default();
        assert!(waiting.put(first, ROOM).is_empty() && waiting.put(second, ROOM).is_empty());
        drop(held);
        let ready = waiting.first().unwrap();
        assert!(waiting.is_empty() && matches!(ready.group.steps[1].inputs[0], Input::Made(0)));
        assert_eq!(ready.wanted, [false, true]);
    }

    #[test]
    fn a_freed_block_is_not_written_while_other_threads_read_it() {
        // x is spread over rows and freed; the result of the next step lies where it was.
        let (spread, t) =
            (Operand::new(block(0), 0, DType::F32, &[4, 8], Steps::from_slice(&[0, 1]), false), whole(1, &[4, 8]));
        let (first, _t) = step(&[4, 8], &[&spread], &t);
        let (second, _y) = step(&[4, 8], &[&t], &whole(0, &[4, 8]));
        let mut waiting = Waiting::default();
        assert!(waiting.put(first, ROOM).is_empty() && waiting.put(second, ROOM).is_empty());
        assert_eq!(waiting.groups.len(), 2);
        // And the other way round: what one thread writes, others read.
        let turned = Operand::new(block(3), 0, DType::F32, &[4, 8], Steps::from_slice(&[1, 4]), false);
        let (third, _u) = step(&[4, 8], &[&whole(1, &[4, 8])], &whole(3, &[4, 8]));
        let (fourth, _v) = step(&[4, 8], &[&turned], &whole(4, &[4, 8]));
        assert!(waiting.put(third, ROOM).is_empty() && waiting.put(fourth, ROOM).is_empty());
        let sent: Vec<usize> = std::iter::from_fn(|| waiting.first()).map(|r| r.group.steps.len()).collect();
        assert_eq!(sent, [1, 2, 1]);
    }

    #[test]
    fn the_last_to_write_an_element_is_who_writes_it() {
        let (x, y) = (whole(0, &[32]), whole(1, &[32]));
        let mut waiting = Waiting::default();
        let (first, _held) = step(&[32], &[&x], &y);
        let (again, _same) = step(&[32], &[&y], &y);
        assert!(waiting.put(first, ROOM).is_empty() && waiting.put(again, ROOM).is_empty());
        assert_eq!(waiting.first().unwrap().wanted, [false, true]);
    }

    #[test]
    fn kernels_wait_for_the_groups_that_they_need_and_for_no_other() {
        let mut waiting = Waiting::default();
        let (small, _a) = step(&[8], &[&whole(0, &[8])], &whole(1, &[8]));
        let (large, _b) = step(&[64], &[&whole(2, &[64])], &whole(3, &[64]));
        assert!(waiting.put(small, ROOM).is_empty() && waiting.put(large, ROOM).is_empty());
        let span = |number: usize| [Span::of(block(number))];
        assert!(waiting.needed_by(&span(0), &span(5)).is_none());
        // What a group reads may be read, and not written.
        assert_eq!(waiting.needed_by(&[], &span(2)).unwrap().group.sizes.as_slice(), [64]);
        assert!(waiting.needed_by(&[], &span(2)).is_none());
        assert_eq!(waiting.needed_by(&span(1), &[]).unwrap().group.sizes.as_slice(), [8]);
    }

    #[test]
    fn a_freed_result_is_never_written_over_what_took_its_place() {
        // t is handed on and freed; u takes its block in a group that is sent first; a third group reads u.
        let (x, t, y) = (whole(0, &[64]), whole(1, &[64]), whole(2, &[64]));
        let mut waiting = Waiting::default();
        let (first, held) = step(&[64], &[&x], &t);
        let (second, _y) = step(&[64], &[&t], &y);
        assert!(waiting.put(first, ROOM).is_empty() && waiting.put(second, ROOM).is_empty());
        drop(held);
        let (taken, _u) = step(&[8, 2], &[&whole(5, &[8, 2])], &whole(1, &[8, 2]));
        let (reader, _v) = step(&[4], &[&whole(1, &[4])], &whole(6, &[4]));
        assert!(waiting.put(taken, ROOM).is_empty() && waiting.put(reader, ROOM).is_empty());
        let u = waiting.needed_by(&[], &[Span::of(block(5))]).unwrap();
        assert_eq!((u.group.sizes.as_slice(), u.wanted), ([8, 2].as_slice(), vec![true]));
        let old = waiting.first().unwrap();
        assert_eq!((old.group.steps.len(), old.wanted), (2, vec![false, true]));
        // And whoever reads the new tensor is not given the old one's numbers.
        let (third, kept) = step(&[64], &[&x], &t);
        assert!(waiting.put(third, ROOM).is_empty());
        drop(kept);
        let (late, _w) = step(&[64], &[&t], &y);
        assert!(waiting.put(late, ROOM).is_empty());
        while let Some(ready) = waiting.first() {
            assert!(ready.group.steps.iter().flat_map(|s| &s.inputs).all(|input| matches!(input, Input::Memory(_))));
        }
    }

    #[test]
    fn a_group_in_the_way_goes_first_where_a_result_is_handed_on() {
        // A product makes t; another reads h, which is freed; what is made of t lies where h was.
        let (a, h, t) = (whole(0, &[64]), whole(1, &[64]), whole(2, &[64]));
        let product = |reads: &Operand, out: &Operand| {
            let (mut product, held) = step(&[64], &[], out);
            product.head = Some(Arc::new(Head {
                key: SmallVec::new(),
                params: "",
                text: Arc::new(String::new),
                bindings: SmallVec::new(),
                words: Words::new(),
                grid: Grid::threads(64),
                reads: SmallVec::from_slice(&[reads.span]),
                writes: SmallVec::new(),
            }));
            (product, held)
        };
        let mut waiting = Waiting::default();
        let ((first, _t), (second, _w)) = (product(&a, &t), product(&h, &whole(3, &[64])));
        assert!(waiting.put(first, ROOM).is_empty() && waiting.put(second, ROOM).is_empty());
        let (third, _y) = step(&[64], &[&t], &h);
        let sent = waiting.put(third, ROOM);
        assert!(sent.len() == 1 && sent[0].group.steps[0].out.place == block(3));
        let joined = waiting.first().unwrap();
        assert!(waiting.is_empty() && joined.group.steps.len() == 2);
        assert!(matches!(joined.group.steps[1].inputs[0], Input::Made(0)));
        // Not where the product itself reads what would be written.
        let (first, _t) = product(&a, &t);
        let (second, _y) = step(&[64], &[&t], &a);
        assert!(waiting.put(first, ROOM).is_empty() && waiting.put(second, ROOM).is_empty());
        assert_eq!(waiting.groups.len(), 2);
    }
}
