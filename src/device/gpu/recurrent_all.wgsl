// Many steps of LSTM or GRU: samples have nothing to do with each other, so a group takes four of them through the steps, a
// thread for each unit, and keeps the state of the four in its memory. Layouts and names are those of recurrent.wgsl; here
// gates, kept, y, slopes and apart are of all steps, [steps, batch, ..], and `step` counts in the order of the recurrence.
// BACK = 0: steps [first, last). w_hh is turned, [hidden, gates · hidden], so that neighbours read neighbours.
// BACK = 1: from step `first` down to `last`; step 0 is the gradient of the first h, `start`. Step s stands for the gradient of
// the h that s steps have made.

@group(0) @binding(0) var<storage, read_write> w_hh: array<f32>;
@group(0) @binding(1) var<storage, read_write> bias: array<f32>;
@group(0) @binding(2) var<storage, read_write> gates: array<f32>;
@group(0) @binding(3) var<storage, read_write> h: array<f32>;
@group(0) @binding(4) var<storage, read_write> c: array<f32>;
@group(0) @binding(5) var<storage, read_write> kept: array<f32>;
@group(0) @binding(6) var<storage, read_write> y: array<f32>;
@group(0) @binding(7) var<storage, read_write> dy: array<f32>;
@group(0) @binding(8) var<storage, read_write> end: array<f32>;
@group(0) @binding(9) var<storage, read_write> carried: array<f32>;
@group(0) @binding(10) var<storage, read_write> slopes: array<f32>;
@group(0) @binding(11) var<storage, read_write> apart: array<f32>;
@group(0) @binding(12) var<storage, read_write> start: array<f32>;

const GATES: u32 = select(4u, 3u, GRU == 1u);
const DEEP: u32 = select(HIDDEN, GATES * HIDDEN, BACK == 1u);
const WIDE: u32 = GATES * HIDDEN;

// The states of four samples; on the way back the gradients of the state's share of the gates.
var<workgroup> state: array<vec4<f32>, DEEP>;

// Of a step, counted from 0 in the order of the recurrence.
fn place(step: u32) -> u32 {
    return select(step, p.steps - 1u - step, REVERSE == 1u) * p.batch;
}

fn gates_at(row: u32, unit: u32) -> u32 {
    return p.gates_at + row * WIDE + unit;
}

fn four_gates(at: u32) -> vec4<f32> {
    return vec4<f32>(gates[at], gates[at + HIDDEN], gates[at + 2u * HIDDEN], gates[at + (GATES - 1u) * HIDDEN]);
}

fn h_before(step: u32, sample: u32, unit: u32) -> f32 {
    if (step == 0u) {
        return h[p.h_at + sample * HIDDEN + unit];
    }
    return y[p.y_at + (place(step - 1u) + sample) * HIDDEN + unit];
}

fn c_before(step: u32, sample: u32, unit: u32) -> f32 {
    if (step == 0u) {
        return c[p.c_at + sample * HIDDEN + unit];
    }
    return kept[p.kept_at + (place(step - 1u) + sample) * HIDDEN + unit];
}

fn there(first_sample: u32, unit: u32) {
    let is_unit = unit < HIDDEN;
    let own = min(unit, HIDDEN - 1u);
    var shift = vec4<f32>(0.0f, 0.0f, 0.0f, 0.0f);
    if (HAS_BIAS == 1u) {
        let at = p.bias_at + own;
        shift = vec4<f32>(bias[at], bias[at + HIDDEN], bias[at + 2u * HIDDEN], bias[at + (GATES - 1u) * HIDDEN]);
    }
    for (var step = p.first; step < p.last; step++) {
        workgroupBarrier();
        if (is_unit) {
            var four = vec4<f32>(0.0f, 0.0f, 0.0f, 0.0f);
            for (var i = 0u; i < 4u; i++) {
                four[i] = h_before(step, min(first_sample + i, p.batch - 1u), own);
            }
            state[own] = four;
        }
        workgroupBarrier();
        var s0 = vec4<f32>(0.0f, 0.0f, 0.0f, 0.0f);
        var s1 = s0;
        var s2 = s0;
        var s3 = s0;
        for (var k = 0u; k < HIDDEN; k++) {
            let at = p.w_at + k * WIDE + own;
            let v = state[k];
            s0 += v * w_hh[at];
            s1 += v * w_hh[at + HIDDEN];
            s2 += v * w_hh[at + 2u * HIDDEN];
            if (GRU == 0u) {
                s3 += v * w_hh[at + (GATES - 1u) * HIDDEN];
            }
        }
        for (var i = 0u; i < 4u && is_unit && first_sample + i < p.batch; i++) {
            let sample = first_sample + i;
            let row = place(step) + sample;
            let at = gates_at(row, own);
            let share = vec4<f32>(s0[i], s1[i], s2[i], s3[i]) + shift;
            var cell: Cell;
            if (GRU == 1u) {
                cell = gru(four_gates(at), share, h_before(step, sample, own));
            } else {
                cell = lstm(four_gates(at), share, c_before(step, sample, own));
                gates[at + (GATES - 1u) * HIDDEN] = cell.gates.w;
            }
            gates[at] = cell.gates.x;
            gates[at + HIDDEN] = cell.gates.y;
            gates[at + 2u * HIDDEN] = cell.gates.z;
            kept[p.kept_at + row * HIDDEN + own] = cell.kept;
            y[p.y_at + row * HIDDEN + own] = cell.h;
        }
    }
}

// A gradient of the state's share of the gates, as the step before reads it.
fn by_state(at: u32) -> f32 {
    if (GRU == 1u) {
        return apart[p.apart_at + at];
    }
    return slopes[p.slopes_at + at];
}

fn put_back(step: u32, sample: u32, unit: u32, dh: f32) {
    let e = sample * HIDDEN + unit;
    if (step == 0u) {
        var whole = dh;
        if (GRU == 1u) {
            whole += carried[p.carried_at + e];
        }
        start[p.start_at + e] = whole;
        return;
    }
    let row = place(step - 1u) + sample;
    let own = kept[p.kept_at + row * HIDDEN + unit];
    let slope = dh + dy[p.dy_at + row * HIDDEN + unit];
    let all = four_gates(gates_at(row, unit));
    let at = row * WIDE + unit;
    var back: Slope;
    if (GRU == 1u) {
        back = gru_back(all, own, h_before(step - 1u, sample, unit), slope + carried[p.carried_at + e]);
        apart[p.apart_at + at] = back.apart.x;
        apart[p.apart_at + at + HIDDEN] = back.apart.y;
        apart[p.apart_at + at + 2u * HIDDEN] = back.apart.z;
    } else {
        back = lstm_back(all, own, c_before(step - 1u, sample, unit), slope, carried[p.carried_at + e]);
        slopes[p.slopes_at + at + (GATES - 1u) * HIDDEN] = back.gates.w;
    }
    slopes[p.slopes_at + at] = back.gates.x;
    slopes[p.slopes_at + at + HIDDEN] = back.gates.y;
    slopes[p.slopes_at + at + 2u * HIDDEN] = back.gates.z;
    carried[p.carried_at + e] = back.carried;
}

fn back(first_sample: u32, unit: u32) {
    let is_unit = unit < HIDDEN;
    let own = min(unit, HIDDEN - 1u);
    for (var step = p.first; step + 1u > p.last; step--) {
        var sums = vec4<f32>(0.0f, 0.0f, 0.0f, 0.0f);
        if (step == p.steps) {
            for (var i = 0u; i < 4u; i++) {
                sums[i] = end[p.end_at + min(first_sample + i, p.batch - 1u) * HIDDEN + own];
            }
        } else {
            workgroupBarrier();
            for (var gate = 0u; gate < GATES && is_unit; gate++) {
                var four = vec4<f32>(0.0f, 0.0f, 0.0f, 0.0f);
                for (var i = 0u; i < 4u; i++) {
                    four[i] = by_state((place(step) + min(first_sample + i, p.batch - 1u)) * WIDE + gate * HIDDEN + own);
                }
                state[gate * HIDDEN + own] = four;
            }
            workgroupBarrier();
            for (var k = 0u; k < DEEP; k++) {
                sums += state[k] * w_hh[p.w_at + k * HIDDEN + own];
            }
        }
        for (var i = 0u; i < 4u && is_unit && first_sample + i < p.batch; i++) {
            put_back(step, first_sample + i, own, sums[i]);
        }
        if (step == 0u) {
            break;
        }
    }
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
    let sample = group(wid, groups) * 4u;
    if (sample >= p.batch) {
        return;
    }
    if (BACK == 1u) {
        back(sample, t);
    } else {
        there(sample, t);
    }
}
