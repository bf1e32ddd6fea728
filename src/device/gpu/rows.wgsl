// Rows that LANES threads of a group share; the group holds 256 / LANES of them. Rows that lie along the memory (ACROSS = 0)
// have neighbouring threads on neighbouring elements, those that lie across it on neighbouring rows.

var<workgroup> sums: array<f32, 256>;

var<private> seat: u32;
var<private> lane: u32;
var<private> row: u32;

const ROWS: u32 = 256u / LANES;
// From a thread to the one with the next lane.
const STEP: u32 = select(1u, ROWS, ACROSS == 1u);

// Takes a seat; false for the groups behind the last row. Threads without a row take the last one, and may not write.
fn sit(number: u32, t: u32) -> bool {
    seat = t;
    lane = select(t % LANES, t / ROWS, ACROSS == 1u);
    row = number * ROWS + select(t / LANES, t % ROWS, ACROSS == 1u);
    return number * ROWS < p.rows;
}

fn is_own() -> bool {
    return row < p.rows;
}

fn at_row() -> u32 {
    return min(row, p.rows - 1u);
}

// Where the row's first element is; the next is `p.inner` further.
fn row_start() -> u32 {
    return at_row() / p.inner * (p.columns * p.inner) + at_row() % p.inner;
}

// The sum over the lanes of a row, for each of them.
fn total(value: f32) -> f32 {
    workgroupBarrier();
    sums[seat] = value;
    for (var half = LANES / 2u; half > 0u; half = half >> 1u) {
        workgroupBarrier();
        if (lane < half) {
            sums[seat] += sums[seat + half * STEP];
        }
    }
    workgroupBarrier();
    return sums[seat - lane * STEP];
}

fn largest(value: f32) -> f32 {
    workgroupBarrier();
    sums[seat] = value;
    for (var half = LANES / 2u; half > 0u; half = half >> 1u) {
        workgroupBarrier();
        if (lane < half) {
            sums[seat] = m_max(sums[seat], sums[seat + half * STEP]);
        }
    }
    workgroupBarrier();
    return sums[seat - lane * STEP];
}
