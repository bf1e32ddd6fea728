// A step of LSTM or GRU: a product with the state in tiles (gemm.wgsl), and the cell where its sums are ready.
// Gates are [batch, gates · hidden], all else [batch, hidden]. GRU = 0: i, f, g, o; keeps c. GRU = 1: r, z, n; keeps the
// state's share of n.
// BACK = 0: sums = h · w_hhᵀ (+ bias), the gates of a unit side by side. The input's share is in `gates`; the gates replace
// it, and what is kept and y = h are written.
// BACK = 1: sums = the gradients behind, `later`, · w_hh: the gradient of h. With those of y and of what is `carried` it gives
// those of the sums in the gates (`slopes`), of the state's share of them (`apart`, GRU), and what is carried on.
// CELL = 0: the sums, and what is carried where that is h's, are the result `y`: the gradient of the first h.

@group(0) @binding(0) var<storage, read_write> later: array<f32>;
@group(0) @binding(1) var<storage, read_write> w_hh: array<f32>;
@group(0) @binding(2) var<storage, read_write> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> gates: array<f32>;
@group(0) @binding(4) var<storage, read_write> h: array<f32>;
@group(0) @binding(5) var<storage, read_write> c: array<f32>;
@group(0) @binding(6) var<storage, read_write> kept: array<f32>;
@group(0) @binding(7) var<storage, read_write> y: array<f32>;
@group(0) @binding(8) var<storage, read_write> carried: array<f32>;
@group(0) @binding(9) var<storage, read_write> slopes: array<f32>;
@group(0) @binding(10) var<storage, read_write> apart: array<f32>;
// Products here are never cut along k.
@group(0) @binding(11) var<storage, read_write> part: array<f32>;

const GATES: u32 = select(4u, 3u, GRU == 1u);

// Operands are fetched one by one.
const LEFT_FOUR: u32 = 0u;
const RIGHT_FOUR: u32 = 0u;
alias Seat = u32;
alias LeftFour = vec4<f32>;
alias RightFour = vec4<f32>;
alias LeftBlock = mat4x4<f32>;
alias RightBlock = mat4x4<f32>;

fn k_size() -> u32 {
    return p.k;
}

fn begin(batch: u32) {
}

fn left_seat(m: u32) -> u32 {
    if (BACK == 1u) {
        return p.later_at + m * p.k;
    }
    return p.h_at + m * p.k;
}

fn left_key(k: u32) -> u32 {
    return k;
}

fn left_at(seat: u32, key: u32) -> f32 {
    if (BACK == 1u) {
        return later[seat + key];
    }
    return h[seat + key];
}

fn left_four(seat: u32, key: u32) -> vec4<f32> {
    return vec4<f32>(0.0f, 0.0f, 0.0f, 0.0f);
}

// Where a column begins in the weight; a unit has four columns, of which a GRU leaves the last out.
fn right_seat(n: u32) -> u32 {
    if (BACK == 1u) {
        return p.w_at + n;
    }
    return p.w_at + (min(n % 4u, GATES - 1u) * p.hidden + n / 4u) * p.hidden;
}

fn right_key(k: u32) -> u32 {
    if (BACK == 1u) {
        return k * p.hidden;
    }
    return k;
}

fn right_at(seat: u32, key: u32) -> f32 {
    return w_hh[seat + key];
}

fn right_four(seat: u32, key: u32) -> vec4<f32> {
    return vec4<f32>(0.0f, 0.0f, 0.0f, 0.0f);
}

fn put_quad(m: u32, n: u32, quad: vec4<f32>) {
    if (BACK == 1u) {
        step_back(m * p.hidden + n, quad.x);
        if (n + 1u < p.n) { step_back(m * p.hidden + n + 1u, quad.y); }
        if (n + 2u < p.n) { step_back(m * p.hidden + n + 2u, quad.z); }
        if (n + 3u < p.n) { step_back(m * p.hidden + n + 3u, quad.w); }
        return;
    }
    let unit = n / 4u;
    var share = quad;
    if (HAS_BIAS == 1u) {
        let at = p.bias_at + unit;
        share += vec4<f32>(bias[at], bias[at + p.hidden], bias[at + 2u * p.hidden], bias[at + (GATES - 1u) * p.hidden]);
    }
    step_there(m * p.hidden + unit, share);
}

// The first gate of a unit of a sample; the others are `hidden` further each.
fn gate_of(e: u32) -> u32 {
    return e / p.hidden * (GATES * p.hidden) + e % p.hidden;
}

fn four_gates(g: u32) -> vec4<f32> {
    return vec4<f32>(gates[g], gates[g + p.hidden], gates[g + 2u * p.hidden], gates[g + (GATES - 1u) * p.hidden]);
}

fn step_there(e: u32, share: vec4<f32>) {
    let g = p.gates_at + gate_of(e);
    var cell: Cell;
    if (GRU == 1u) {
        cell = gru(four_gates(g), share, h[p.h_at + e]);
    } else {
        cell = lstm(four_gates(g), share, c[p.c_at + e]);
        gates[g + 3u * p.hidden] = cell.gates.w;
    }
    gates[g] = cell.gates.x;
    gates[g + p.hidden] = cell.gates.y;
    gates[g + 2u * p.hidden] = cell.gates.z;
    kept[p.kept_at + e] = cell.kept;
    y[p.y_at + e] = cell.h;
}

fn step_back(e: u32, dh: f32) {
    if (CELL == 0u) {
        y[p.y_at + e] = dh;
        if (GRU == 1u) {
            y[p.y_at + e] = dh + carried[p.carried_at + e];
        }
        return;
    }
    let all = four_gates(p.gates_at + gate_of(e));
    let own = kept[p.kept_at + e];
    let d = p.slopes_at + gate_of(e);
    let slope = dh + y[p.y_at + e];
    var back: Slope;
    if (GRU == 1u) {
        back = gru_back(all, own, h[p.h_at + e], slope + carried[p.carried_at + e]);
        let a = p.apart_at + gate_of(e);
        apart[a] = back.apart.x;
        apart[a + p.hidden] = back.apart.y;
        apart[a + 2u * p.hidden] = back.apart.z;
    } else {
        back = lstm_back(all, own, c[p.c_at + e], slope, carried[p.carried_at + e]);
        slopes[d + 3u * p.hidden] = back.gates.w;
    }
    slopes[d] = back.gates.x;
    slopes[d + p.hidden] = back.gates.y;
    slopes[d + 2u * p.hidden] = back.gates.z;
    carried[p.carried_at + e] = back.carried;
}
