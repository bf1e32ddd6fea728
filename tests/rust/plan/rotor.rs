//! The least cost of a chain under persistent checkpoints, in exact bytes. Beaumont et al. 2019, arXiv:1911.13214
//!
//! Step i makes x of i + 1 from x of i; x of 0 is always there. Its visit reads x of i. A checkpoint that was made stays
//! until the visit that reads it.

struct Chain<'a> {
    steps: &'a [(u64, f64)],
    known: std::collections::HashMap<(u64, usize, usize), f64>,
}

impl Chain<'_> {
    /// Forwards for the visits of steps first..last in reverse, with x of `first` there and not counted in `room`.
    fn cost(&mut self, room: u64, first: usize, last: usize) -> f64 {
        if last - first <= 1 {
            return 0.0;
        }
        if let Some(&cost) = self.known.get(&(room, first, last)) {
            return cost;
        }
        let (mut best, mut ahead) = (f64::INFINITY, 0.0);
        for cut in first + 1..last {
            // On the way from first to cut a step's input and output are there.
            let (bytes, cost) = self.steps[cut - 1];
            let way = bytes + if cut - 1 > first { self.steps[cut - 2].0 } else { 0 };
            if way > room {
                break;
            }
            ahead += cost;
            best = best.min(ahead + self.cost(room - bytes, cut, last) + self.cost(room, first, cut));
        }
        self.known.insert((room, first, last), best);
        best
    }
}

/// Cost of what runs beyond the first sweep forward.
pub fn least_cost(steps: &[(u64, f64)], budget: u64) -> Option<f64> {
    let once: f64 = steps.iter().map(|s| s.1).sum();
    let cost = Chain { steps, known: Default::default() }.cost(budget, 0, steps.len() + 1);
    cost.is_finite().then_some(cost - once)
}
