//! Indices out of range. Only the GPU knows the value of an index, and nothing waits for it, so the kernels look.
//!
//! A kernel that meets a bad index notes it in a few words that each GPU has for this, reads all bits set in its place (a NaN
//! where that is a float) or writes nothing, and goes on. The next read-back brings the words along, clears them, and raises
//! the error that the CPU would have raised in the op. The first kernel to find one is named, and of its bad indices the lowest.

use crate::arena::space::Place;
use crate::error::{self, Error};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use std::sync::LazyLock;

/// The words lie in a buffer of their own, which stands where a slab would.
pub const SLAB: u32 = 0;
/// One for what the index was for, and one an axis.
pub const WORDS: usize = 8;
pub const BYTES: usize = 4 * WORDS;
/// The most axes that one op may index.
pub const AXES: usize = WORDS - 1;
pub const PLACE: Place = Place { slab: SLAB, offset: 0, bytes: BYTES };

/// Which numbers are indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Valid {
    FromStart,
    FromBothEnds,
    /// As `FromStart`, of class numbers.
    Classes,
    /// As `Classes`, and one number besides.
    Targets {
        ignore: i64,
    },
    /// No index, but a number of an elementwise kernel: what 32 bits hold.
    Narrow,
}

/// What an index is for: the op, the sizes of the axes it indexes, and what is valid.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Check {
    pub op: &'static str,
    pub sizes: SmallVec<[usize; 4]>,
    pub valid: Valid,
}

impl Check {
    pub fn new(op: &'static str, sizes: &[usize], valid: Valid) -> Check {
        Check { op, sizes: sizes.into(), valid }
    }

    /// The number by which kernels know it, from 1 on.
    pub fn site(self) -> u32 {
        let mut sites = SITES.lock();
        let next = sites.len() as u32 + 1;
        *sites.entry(self).or_insert(next)
    }
}

static SITES: LazyLock<Mutex<FxHashMap<Check, u32>>> = LazyLock::new(Mutex::default);

/// What the words say, if anything.
pub fn error(words: &[u8]) -> Option<Error> {
    let word = |i: usize| u32::from_le_bytes(words[4 * i..4 * i + 4].try_into().expect("bug: four bytes are four"));
    let site = word(0);
    let check = SITES.lock().iter().find(|(_, number)| **number == site).map(|(check, _)| check.clone())?;
    let axis = (0..AXES).find(|&axis| word(1 + axis) != 0).unwrap_or(0);
    // As `note` wrote it: the complement, so that the lowest index is the largest word.
    let index = i64::from((!word(1 + axis) ^ 0x8000_0000) as i32);
    let size = check.sizes.get(axis).copied().unwrap_or(0);
    const LATE: &str = "(found on the GPU after the call: what was computed from it since is not to be used)";
    let plain = match check.valid {
        Valid::Narrow => {
            return Some(Error::device(format!(
                "{}: an int64 beyond 32 bits, in which GPUs compute integers elementwise (help: x.cpu()) {LATE}",
                check.op
            )));
        }
        Valid::FromStart => error::index_not_below(check.op, index, size),
        Valid::FromBothEnds => error::index_out_of_range(check.op, index, size),
        Valid::Classes => error::class_out_of_range(check.op, index, size),
        Valid::Targets { ignore } => error::target_out_of_range(check.op, index, size, ignore),
    };
    Some(Error::index(format!("{} {LATE}", plain.text())))
}
