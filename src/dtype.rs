//! Element types, and the one table that says which type a mixed operation has.

use crate::error::{Error, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum DType {
    Bool,
    U8,
    I32,
    I64,
    F16,
    BF16,
    F32,
    F64,
}

use DType::*;

impl DType {
    pub const ALL: [DType; 8] = [Bool, U8, I32, I64, F16, BF16, F32, F64];

    pub const fn bytes(self) -> usize {
        match self {
            Bool | U8 => 1,
            F16 | BF16 => 2,
            I32 | F32 => 4,
            I64 | F64 => 8,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Bool => "bool",
            U8 => "uint8",
            I32 => "int32",
            I64 => "int64",
            F16 => "float16",
            BF16 => "bfloat16",
            F32 => "float32",
            F64 => "float64",
        }
    }

    pub fn from_name(name: &str) -> Result<DType> {
        DType::ALL.into_iter().find(|d| d.name() == name).ok_or_else(|| {
            let known = DType::ALL.map(DType::name).join(" ");
            Error::dtype(format!("dtype: '{name}' is unknown; the dtypes are {known}"))
        })
    }

    pub const fn is_float(self) -> bool {
        matches!(self, F16 | BF16 | F32 | F64)
    }

    /// The least and the greatest integer it holds; `None` for floats and bools.
    pub const fn range(self) -> Option<(i64, i64)> {
        match self {
            U8 => Some((0, u8::MAX as i64)),
            I32 => Some((i32::MIN as i64, i32::MAX as i64)),
            I64 => Some((i64::MIN, i64::MAX)),
            _ => None,
        }
    }

    /// Stored in 16 bits, computed in f32.
    pub const fn is_half(self) -> bool {
        matches!(self, F16 | BF16)
    }

    /// The type a kernel computes in: halves in f32, integers in i64.
    pub const fn compute(self) -> DType {
        match self {
            F16 | BF16 | F32 => F32,
            F64 => F64,
            _ => I64,
        }
    }

    /// The type of `a ∘ b`. Within a kind as NumPy 2; an integer meeting a float takes the float's type, as in PyTorch
    /// and JAX, so that `f32 * index` does not silently become f64; float16 with bfloat16 gives float32.
    pub const fn promote(a: DType, b: DType) -> DType {
        if a as u8 == b as u8 {
            return a;
        }
        match (a.is_float(), b.is_float()) {
            (true, false) => a,
            (false, true) => b,
            (true, true) => match (a, b) {
                (F64, _) | (_, F64) => F64,
                _ => F32,
            },
            (false, false) => {
                if a as u8 > b as u8 {
                    a
                } else {
                    b
                }
            }
        }
    }

    /// The type of a division, a mean, an exponential: a float stays, an integer becomes float32.
    pub const fn to_float(self) -> DType {
        if self.is_float() { self } else { F32 }
    }
}

/// A Rust type that stores elements of one `DType`.
pub trait Element: Copy + Send + Sync + 'static {
    const DTYPE: DType;
}

macro_rules! element {
    ($($rust:ty => $dtype:ident),*) => { $(impl Element for $rust { const DTYPE: DType = DType::$dtype; })* };
}
element!(u8 => U8, i32 => I32, i64 => I64, half::f16 => F16, half::bf16 => BF16, f32 => F32, f64 => F64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promotion_is_symmetric_associative_and_keeps_equal_types() {
        for a in DType::ALL {
            assert_eq!(DType::promote(a, a), a);
            for b in DType::ALL {
                assert_eq!(DType::promote(a, b), DType::promote(b, a));
                for c in DType::ALL {
                    let left = DType::promote(DType::promote(a, b), c);
                    let right = DType::promote(a, DType::promote(b, c));
                    assert_eq!(left, right, "{a:?} {b:?} {c:?}");
                }
            }
        }
    }
}
