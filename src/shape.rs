//! Pure shapes: sizes, strides, broadcasting. Knows no memory and no element type.

use crate::error::{self, Error, Result};
use smallvec::SmallVec;
use std::cell::RefCell;
use std::sync::Arc;
use std::thread::LocalKey;

pub type Dims = SmallVec<[usize; 4]>;
pub type Strides = SmallVec<[isize; 4]>;

/// A shape and how it lies in memory, in elements. Shared between the tensors of a graph, hence behind an `Arc`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    shape: Dims,
    strides: Strides,
    numel: usize,
    contiguous: bool,
    dense: bool,
}

/// Product of the sizes, or an error when it, in bytes of the widest element, cannot be addressed.
pub fn numel(op: &str, shape: &[usize]) -> Result<usize> {
    let fits = |n: &usize| *n <= isize::MAX as usize / 8;
    // A zero anywhere makes the tensor empty, yet the strides of the others are products too: check those as well.
    let full = shape.iter().filter(|&&d| d != 0).try_fold(1usize, |n, &d| n.checked_mul(d)).filter(fits);
    let full = full.ok_or_else(|| error::too_large(op, shape))?;
    Ok(if shape.contains(&0) { 0 } else { full })
}

pub fn contiguous_strides(shape: &[usize]) -> Strides {
    let mut strides: Strides = SmallVec::from_elem(0, shape.len());
    let mut step = 1isize;
    for i in (0..shape.len()).rev() {
        strides[i] = step;
        step *= shape[i].max(1) as isize;
    }
    strides
}

fn is_contiguous(shape: &[usize], strides: &[isize]) -> bool {
    let mut step = 1isize;
    for i in (0..shape.len()).rev() {
        if shape[i] != 1 && strides[i] != step {
            return false;
        }
        step *= shape[i] as isize;
    }
    true
}

/// True when the elements fill one gapless run of memory, in any order of the axes.
fn is_dense(shape: &[usize], strides: &[isize]) -> bool {
    let mut axes: SmallVec<[usize; 4]> = (0..shape.len()).filter(|&i| shape[i] != 1).collect();
    axes.sort_by_key(|&i| strides[i]);
    let mut step = 1isize;
    axes.iter().all(|&i| {
        let fits = strides[i] == step;
        step *= shape[i] as isize;
        fits
    })
}

/// Layouts made lately on this thread, each at the place that a hash of its shape gives: the results of a training step have
/// few shapes. A layout never changes, so none of them can be out of date.
struct Recent([Option<Arc<Layout>>; RECENT]);

const RECENT: usize = 256;

thread_local! {
    static CONTIGUOUS: RefCell<Recent> = const { RefCell::new(Recent([const { None }; RECENT])) };
    static STRIDED: RefCell<Recent> = const { RefCell::new(Recent([const { None }; RECENT])) };
}

/// The layout that `same` knows among those of `list`, or one that `make` makes and leaves there.
fn recent(
    list: &'static LocalKey<RefCell<Recent>>,
    sizes: impl Iterator<Item = usize>,
    same: impl Fn(&Layout) -> bool,
    make: impl FnOnce() -> Result<Layout>,
) -> Result<Arc<Layout>> {
    let mix = |hash: u64, size| (hash.rotate_left(5) ^ size as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let at = (sizes.fold(0, mix) >> (u64::BITS - RECENT.ilog2())) as usize;
    // The list is gone when the thread ends.
    let found = list.try_with(|list| list.borrow().0[at].clone().filter(|layout| same(layout))).ok().flatten();
    if let Some(layout) = found {
        return Ok(layout);
    }
    let made = Arc::new(make()?);
    let before = list.try_with(|list| list.borrow_mut().0[at].replace(made.clone()));
    drop(before);
    Ok(made)
}

impl Layout {
    pub fn contiguous(op: &str, shape: &[usize]) -> Result<Arc<Layout>> {
        let same = |layout: &Layout| layout.shape() == shape;
        recent(&CONTIGUOUS, shape.iter().copied(), same, || {
            let numel = numel(op, shape)?;
            let strides = contiguous_strides(shape);
            Ok(Layout { shape: shape.into(), strides, numel, contiguous: true, dense: true })
        })
    }

    /// A layout over memory that is already there; the caller has checked that every index lies within it.
    pub fn strided(shape: &[usize], strides: &[isize]) -> Arc<Layout> {
        let same = |layout: &Layout| layout.shape() == shape && layout.strides() == strides;
        let sizes = shape.iter().copied().chain(strides.iter().map(|&stride| stride as usize));
        let made = recent(&STRIDED, sizes, same, || Ok(Layout::of(shape, strides)));
        made.expect("bug: a strided layout was refused")
    }

    fn of(shape: &[usize], strides: &[isize]) -> Layout {
        let numel = shape.iter().product();
        let contiguous = numel == 0 || is_contiguous(shape, strides);
        let dense = contiguous || is_dense(shape, strides);
        Layout { shape: shape.into(), strides: strides.into(), numel, contiguous, dense }
    }

    /// Channels last: [n, c, …] with c varying fastest in memory.
    pub fn channels_last(op: &str, shape: &[usize]) -> Result<Arc<Layout>> {
        numel(op, shape)?;
        let mut order: Dims = (2..shape.len()).collect();
        order.insert(0, 0);
        order.push(1);
        let mut strides: Strides = SmallVec::from_elem(0, shape.len());
        let mut step = 1isize;
        for &axis in order.iter().rev() {
            strides[axis] = step;
            step *= shape[axis].max(1) as isize;
        }
        Ok(Layout::strided(shape, &strides))
    }

    pub fn shape(&self) -> &[usize] {
        &self.shape
    }
    pub fn strides(&self) -> &[isize] {
        &self.strides
    }
    pub fn rank(&self) -> usize {
        self.shape.len()
    }
    pub fn numel(&self) -> usize {
        self.numel
    }
    pub fn is_contiguous(&self) -> bool {
        self.contiguous
    }
    pub fn is_dense(&self) -> bool {
        self.dense
    }

    /// True for [n, c, …] with c fastest; a contiguous tensor whose order cannot be told apart counts as well.
    pub fn is_channels_last(&self) -> bool {
        if self.rank() < 3 || !self.dense {
            return false;
        }
        let mut step = 1isize;
        let order = std::iter::once(1).chain((2..self.rank()).rev()).chain(std::iter::once(0));
        for axis in order {
            if self.shape[axis] != 1 && self.strides[axis] != step {
                return false;
            }
            step *= self.shape[axis] as isize;
        }
        true
    }

    /// The lowest and highest element offset reached, relative to the tensor's own offset.
    pub fn reach(&self) -> (isize, isize) {
        let (mut low, mut high) = (0, 0);
        if self.numel > 0 {
            for (&d, &s) in self.shape.iter().zip(&self.strides) {
                let last = (d as isize - 1) * s;
                if last < 0 { low += last } else { high += last }
            }
        }
        (low, high)
    }
}

/// NumPy's rule: aligned at the right, sizes equal or 1.
pub fn broadcast(op: &str, a: &[usize], b: &[usize]) -> Result<Dims> {
    let rank = a.len().max(b.len());
    let mut out: Dims = SmallVec::from_elem(1, rank);
    for (i, size) in out.iter_mut().enumerate() {
        let pick = |s: &[usize]| (i + s.len()).checked_sub(rank).map_or(1, |j| s[j]);
        *size = match (pick(a), pick(b)) {
            (x, y) if x == y => x,
            (1, y) => y,
            (x, 1) => x,
            _ => return Err(error::broadcast(op, a, b)),
        };
    }
    Ok(out)
}

/// The strides that read a tensor as if it had the larger shape; broadcast axes get stride 0.
pub fn broadcast_strides(layout: &Layout, shape: &[usize]) -> Strides {
    let extra = shape.len() - layout.rank();
    (0..shape.len())
        .map(|i| if i < extra || layout.shape[i - extra] != shape[i] { 0 } else { layout.strides[i - extra] })
        .collect()
}

/// A dim counted from either end, as a position. A 0-d tensor accepts 0 and -1, as in PyTorch.
pub fn dim(op: &str, dim: i64, shape: &[usize]) -> Result<usize> {
    let rank = shape.len().max(1) as i64;
    if dim < -rank || dim >= rank {
        return Err(error::dim_out_of_range(op, dim, shape));
    }
    Ok(if dim < 0 { dim + rank } else { dim } as usize)
}

/// The set of reduced dims as flags; an empty list means all. Repeats are refused.
pub fn dims(op: &str, dims: &[i64], shape: &[usize]) -> Result<SmallVec<[bool; 4]>> {
    let mut flags: SmallVec<[bool; 4]> = SmallVec::from_elem(dims.is_empty(), shape.len());
    for &d in dims {
        let at = dim(op, d, shape)?;
        if let Some(flag) = flags.get_mut(at) {
            if *flag {
                return Err(Error::value(format!("{op}: dim {d} is named twice in {dims:?}; name each dim once")));
            }
            *flag = true;
        }
    }
    Ok(flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_last_is_dense_and_recognised() {
        let layout = Layout::channels_last("test", &[2, 3, 4, 5]).unwrap();
        assert_eq!(layout.strides(), &[60, 1, 15, 3]);
        assert!(layout.is_dense() && layout.is_channels_last() && !layout.is_contiguous());
        assert!(!Layout::contiguous("test", &[2, 3, 4, 5]).unwrap().is_channels_last());
    }

    #[test]
    fn a_layout_made_again_is_the_one_that_was_asked_for() {
        // More shapes than there are places, and contiguous ones beside strided ones that look alike.
        for _ in 0..2 {
            for (m, n) in (0..40).flat_map(|m| (0..40).map(move |n| (m, n))) {
                let layout = Layout::contiguous("test", &[m, n]).unwrap();
                assert_eq!((layout.shape(), layout.strides()), (&[m, n][..], &[n.max(1) as isize, 1][..]));
                let turned = Layout::strided(&[m, n], &[1, m as isize]);
                assert_eq!(
                    (turned.shape(), turned.strides(), turned.numel()),
                    (&[m, n][..], &[1, m as isize][..], m * n)
                );
                assert_eq!(turned.is_contiguous(), m * n == 0 || m == 1 || n == 1);
            }
        }
        assert_eq!(Layout::contiguous("test", &[]).unwrap().rank(), 0);
        assert!(Layout::contiguous("test", &[1 << 40, 1 << 40]).is_err());
        assert!(Layout::contiguous("test", &[1 << 40, 1 << 40]).is_err());
    }

    #[test]
    fn a_size_that_overflows_is_refused_even_beside_a_zero() {
        assert!(numel("test", &[2, 2, 1, 1 << 61]).is_err());
        assert!(numel("test", &[0, 1 << 63]).is_err());
        assert_eq!(numel("test", &[0, 7]).unwrap(), 0);
    }

    #[test]
    fn broadcasting_aligns_at_the_right() {
        assert_eq!(broadcast("test", &[3, 1], &[4]).unwrap().as_slice(), &[3, 4]);
        assert!(broadcast("test", &[3], &[4]).is_err());
        assert_eq!(broadcast("test", &[], &[0]).unwrap().as_slice(), &[0]);
    }
}
