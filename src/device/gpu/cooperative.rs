//! Products of float16 by the matrix units of an adapter ("cooperative matrices"): which it has, and the text of their tiles
//! (`cooperative.wgsl`).

use super::kernel::with_constants;
use super::unroll::unroll;

/// Matrices of `size` × `size` float16 that a subgroup multiplies, summed in float32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrices {
    pub size: usize,
    /// Threads of a subgroup, at least and at most; powers of two.
    pub subgroup: [usize; 2],
}

/// The lines in front of a text that uses them. What a subgroup does together it must reach together, and the validator takes every
/// variable for one that differs.
pub const MATRIX_UNITS: &str = "enable wgpu_cooperative_matrix;\ndiagnostic(off, derivative_uniformity);\n";

/// Subgroups that make a tile.
const PARTS: usize = 8;
/// Of k, that pass through the group's memory at a time.
const DEEP: usize = 32;
/// Elements that a line in the group's memory is longer than it need be.
const PAD: usize = 8;

impl Matrices {
    /// Those that the kernel can use, of an adapter's sizes; the largest.
    pub fn among(sizes: &[usize], subgroup: [usize; 2], group_memory: usize) -> Option<Matrices> {
        let sound = subgroup[0] >= 4 && subgroup[1] <= 64 && subgroup.iter().all(|threads| threads.is_power_of_two());
        let mut sizes: Vec<usize> = sizes.iter().copied().filter(|size| sound && [8, 16].contains(size)).collect();
        sizes.sort_unstable();
        let made = |size| Matrices { size, subgroup };
        sizes.into_iter().rev().map(made).find(|matrices| matrices.group_bytes() <= group_memory)
    }

    fn threads(self) -> usize {
        PARTS * self.subgroup[1]
    }

    /// As many as the threads may fall into.
    fn subgroups(self) -> usize {
        self.threads() / self.subgroup[0]
    }

    /// The most memory of a group: two tiles in lines of DEEP, and a matrix of each subgroup.
    fn group_bytes(self) -> usize {
        2 * 128 * (DEEP + PAD) * 2 + self.subgroups() * self.size * self.size * 4
    }

    /// The tiles, 16 · `per` on a side.
    pub fn tiles(self, per: usize, left_m: bool, right_n: bool) -> String {
        let Matrices { size, .. } = self;
        let side = 16 * per;
        let constants = [
            ("SIZE", size as u32),
            ("DEEP", DEEP as u32),
            ("THREADS", self.threads() as u32),
            ("SUBGROUPS", self.subgroups() as u32),
        ];
        let axes = [("i", side / 2 / size), ("j", side / 4 / size), ("f", side * DEEP / 4 / self.threads())];
        let text = unroll(include_str!("cooperative.wgsl"), &axes);
        // Lines of one k hold columns of the left side, and rows of the right.
        let load = |turned: bool| if turned { "coopLoadT" } else { "coopLoad" };
        let text = text.replace("load_left(", &format!("{}<Left>(", load(!left_m)));
        let text = text.replace("load_right(", &format!("{}<Right>(", load(right_n)));
        let kinds = [("Left", "f16, A"), ("Right", "f16, B"), ("Sums", "f32, C")]
            .map(|(name, of)| format!("alias {name} = coop_mat{size}x{size}<{of}>;\n"));
        with_constants(&constants, &kinds.concat()) + &text
    }
}
