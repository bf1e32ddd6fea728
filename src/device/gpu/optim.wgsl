// One step of an optimizer over many parameters at once. A group takes 1024 elements of one of them; `rows` says of which:
// eight words a parameter, its first group, its elements, and where x, its gradient and its states a, b, c begin. All operands
// of a parameter lie alike. RULE: 0 SGD, 1 Adam, 2 Adagrad, 3 RMSprop, 4 Adadelta, 5 Lion; MORE: what the rule may have besides.

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> g: array<f32>;
@group(0) @binding(2) var<storage, read_write> a: array<f32>;
@group(0) @binding(3) var<storage, read_write> b: array<f32>;
@group(0) @binding(4) var<storage, read_write> c: array<f32>;
@group(0) @binding(5) var<storage, read_write> rows: array<u32>;

fn step(xi: u32, gi: u32, ai: u32, bi: u32, ci: u32) {
    var value = x[xi] * p.shrink;
    let slope = g[gi] * p.sign + p.decay * value;
    if (RULE == 0u) {
        var along = slope;
        if (MORE == 1u) {
            let moved = a[ai] * p.keep1 + slope * p.add1;
            a[ai] = moved;
            along = select(moved, slope + p.keep2 * moved, p.nesterov == 1u);
        }
        x[xi] = value - p.rate * along;
        return;
    }
    if (RULE == 1u) {
        let mean = a[ai] * p.keep1 + slope * p.add1;
        var square = b[bi] * p.keep2 + slope * slope * p.add2;
        a[ai] = mean;
        b[bi] = square;
        if (MORE == 1u) {
            square = m_max(c[ci], square);
            c[ci] = square;
        }
        x[xi] = value - p.rate * mean / (sqrt(square) * p.root + p.eps);
        return;
    }
    if (RULE == 2u) {
        let sum = a[ai] + slope * slope;
        a[ai] = sum;
        x[xi] = value - p.rate * slope / (sqrt(sum) + p.eps);
        return;
    }
    if (RULE == 3u) {
        // MORE = 1: the square of the mean is taken off; 2: momentum; 3: both.
        var square = a[ai] * p.keep1 + slope * slope * p.add1;
        a[ai] = square;
        if ((MORE & 1u) == 1u) {
            let mean = b[bi] + (slope - b[bi]) * p.add1;
            b[bi] = mean;
            square -= mean * mean;
        }
        var along = slope / (sqrt(square) + p.eps);
        if ((MORE & 2u) == 2u) {
            along += c[ci] * p.keep2;
            c[ci] = along;
        }
        x[xi] = value - p.rate * along;
        return;
    }
    if (RULE == 4u) {
        let square = a[ai] * p.keep1 + slope * slope * p.add1;
        let delta = sqrt(b[bi] + p.eps) / sqrt(square + p.eps) * slope;
        a[ai] = square;
        b[bi] = b[bi] * p.keep1 + delta * delta * p.add1;
        x[xi] = value - p.rate * delta;
        return;
    }
    let mean = a[ai];
    let way = mean + (slope - mean) * p.add1;
    a[ai] = mean + (slope - mean) * p.add2;
    let sign = select(select(0.0f, 1.0f, way > 0.0f), -1.0f, way < 0.0f);
    x[xi] = value - p.rate * select(sign, way, m_is_nan(way));
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
    let here = group(wid, groups);
    if (here >= p.groups) {
        return;
    }
    let row = parameter(here);
    let n = rows[row + 1u];
    let start = (here - rows[row]) * 1024u;
    for (var i = start + t; i < min(n, start + 1024u); i += 256u) {
        step(rows[row + 2u] + i, rows[row + 3u] + i, rows[row + 4u] + i, rows[row + 5u] + i, rows[row + 6u] + i);
    }
}
