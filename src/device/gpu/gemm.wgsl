// Products in tiles of 16 · PER: a thread makes PER × PER sums, and 64 / PER of k at a time pass through the group's memory,
// fetched into registers while the ones before are multiplied. In front stand `begin` (the matrices of a batch), `left_at`
// (m, k), `right_at` (k, n) and `put` (m, n, value). LEFT_M and RIGHT_N say along which axis neighbouring threads fetch.
// Where k is cut into `splits`, each leaves its sums in `part`, [splits, batch, m, n].
// Lines with $i (a row of the thread's tile), $h or $j (four rows, four columns) stand for all of them; see gemm.rs.

const TILE: u32 = 16u * PER;
const DEEP: u32 = 64u / PER;
const QUADS: u32 = TILE / 4u;
// A quad more, so that threads of one k meet different banks.
const PITCH: u32 = QUADS + 1u;

var<workgroup> left: array<vec4<f32>, DEEP * PITCH>;
var<workgroup> right: array<vec4<f32>, DEEP * PITCH>;

var<private> k_end: u32;

fn left_quad(m: u32, k: u32) -> vec4<f32> {
    var quad = vec4<f32>(0.0f, 0.0f, 0.0f, 0.0f);
    if (k < k_end && m < p.m) {
        quad.x = left_at(m, k);
        if (m + 1u < p.m) { quad.y = left_at(m + 1u, k); }
        if (m + 2u < p.m) { quad.z = left_at(m + 2u, k); }
        if (m + 3u < p.m) { quad.w = left_at(m + 3u, k); }
    }
    return quad;
}

fn right_quad(k: u32, n: u32) -> vec4<f32> {
    var quad = vec4<f32>(0.0f, 0.0f, 0.0f, 0.0f);
    if (k < k_end && n < p.n) {
        quad.x = right_at(k, n);
        if (n + 1u < p.n) { quad.y = right_at(k, n + 1u); }
        if (n + 2u < p.n) { quad.z = right_at(k, n + 2u); }
        if (n + 3u < p.n) { quad.w = right_at(k, n + 3u); }
    }
    return quad;
}

fn write(start: u32, m: u32, n: u32, value: f32) {
    if (n >= p.n) {
        return;
    }
    if (p.splits > 1u) {
        part[start + m * p.n + n] = value;
    } else {
        put(m, n, value);
    }
}

fn write_quad(start: u32, m: u32, n: u32, quad: vec4<f32>) {
    if (m < p.m) {
        write(start, m, n, quad.x);
        write(start, m, n + 1u, quad.y);
        write(start, m, n + 2u, quad.z);
        write(start, m, n + 3u, quad.w);
    }
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
    let tiles_n = (p.n + TILE - 1u) / TILE;
    let tiles = (p.m + TILE - 1u) / TILE * tiles_n;
    let unit = group(wid, groups);
    if (unit >= tiles * p.batch * p.splits) {
        return;
    }
    let row = unit % tiles / tiles_n * TILE;
    let column = unit % tiles_n * TILE;
    let whole = unit / tiles;
    let split = whole / p.batch;
    begin(whole % p.batch);
    var k0 = split * p.run;
    k_end = min(k0 + p.run, p.k);
    let a_q = select(t / DEEP, t % QUADS, LEFT_M == 1u);
    let a_k = select(t % DEEP, t / QUADS, LEFT_M == 1u);
    let b_q = select(t / DEEP, t % QUADS, RIGHT_N == 1u);
    let b_k = select(t % DEEP, t / QUADS, RIGHT_N == 1u);
    let tx = t % 16u;
    let ty = t / 16u;
    var s$i_$j = vec4<f32>(0.0f, 0.0f, 0.0f, 0.0f);
    var next_left = left_quad(row + a_q * 4u, k0 + a_k);
    var next_right = right_quad(k0 + b_k, column + b_q * 4u);
    while (k0 < k_end) {
        workgroupBarrier();
        left[a_k * PITCH + a_q] = next_left;
        right[b_k * PITCH + b_q] = next_right;
        workgroupBarrier();
        k0 += DEEP;
        next_left = left_quad(row + a_q * 4u, k0 + a_k);
        next_right = right_quad(k0 + b_k, column + b_q * 4u);
        for (var k = 0u; k < DEEP; k++) {
            let a$h = left[k * PITCH + ty + $h * 16u];
            let b$j = right[k * PITCH + tx + $j * 16u];
            s$i_$j += a$q.$c * b$j;
        }
    }
    let start = whole * p.m * p.n;
    write_quad(start, row + ty * 4u + $mu, column + tx * 4u + $j * 64u, s$i_$j);
}
