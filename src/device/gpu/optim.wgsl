// One step of an optimizer over one parameter; all operands lie alike. ADAM = 1: Adam and AdamW. ADAM = 0: SGD, whose first
// state is the momentum when MOMENTUM = 1.

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> g: array<f32>;
@group(0) @binding(2) var<storage, read_write> s: array<f32>;
@group(0) @binding(3) var<storage, read_write> v: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = thread(id, groups);
    if (i >= p.n) {
        return;
    }
    var value = x[p.x_at + i];
    var slope = g[p.g_at + i] * p.sign;
    if (ADAM == 1u) {
        value *= p.shrink;
        slope += p.decay * value;
        let mean = s[p.s_at + i] * p.keep1 + slope * p.add1;
        let square = v[p.v_at + i] * p.keep2 + slope * slope * p.add2;
        s[p.s_at + i] = mean;
        v[p.v_at + i] = square;
        x[p.x_at + i] = value - p.rate * mean / (sqrt(square) * p.root + p.eps);
        return;
    }
    slope += p.decay * value;
    if (MOMENTUM == 1u) {
        let moved = s[p.s_at + i] * p.keep1 + slope * p.add1;
        s[p.s_at + i] = moved;
        slope = select(moved, slope + p.keep2 * moved, p.nesterov == 1u);
    }
    x[p.x_at + i] = value - p.rate * slope;
}
