//! Speeds of the CPU kernels, family by family, as fractions of what this machine can do.
//!
//!     cargo bench --bench kernels [-- FAMILY[/ROW]]
//!
//! Behind `thrpt` stands the fraction of the peak of multiply-adds, or of the bandwidth of a triad over as much memory,
//! both measured in this run on as many threads as the row used. `BACKSWEEP_SIMD=avx2|plain` lowers the level.

mod attention;
mod conv;
mod gemm;
mod measure;
mod optim;
mod pages;
mod pointwise;
mod recurrent;
mod rows;

use measure::Roofline;

#[global_allocator]
static PAGES: pages::HugePages = pages::HugePages;

fn main() {
    let mut criterion = Roofline::criterion();
    gemm::bench(&mut criterion);
    conv::bench(&mut criterion);
    recurrent::bench(&mut criterion);
    attention::bench(&mut criterion);
    rows::bench(&mut criterion);
    pointwise::bench(&mut criterion);
    optim::bench(&mut criterion);
    criterion.final_summary();
}
