// y [m, n] = a [m, k] · b [k, n] (+ bias [n]) for each matrix of a batch, any strides. A group makes a tile of 64 × 64, a
// thread 4 × 4 of it; 16 of k at a time pass through the group's memory.

@group(0) @binding(0) var<storage, read_write> a: array<f32>;
@group(0) @binding(1) var<storage, read_write> b: array<f32>;
@group(0) @binding(2) var<storage, read_write> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

const TILE: u32 = 64u;
const DEEP: u32 = 16u;

// A column more, so that threads of one row meet different banks.
var<workgroup> left: array<f32, 1040>;
var<workgroup> right: array<f32, 1024>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
    let tiles_n = (p.n + TILE - 1u) / TILE;
    let tiles_m = (p.m + TILE - 1u) / TILE;
    let tile = group(id, groups);
    if (tile >= tiles_n * tiles_m * p.batch) {
        return;
    }
    let batch = tile / (tiles_n * tiles_m);
    let in_matrix = tile % (tiles_n * tiles_m);
    let row = (in_matrix / tiles_n) * TILE;
    let column = (in_matrix % tiles_n) * TILE;
    let b2 = batch % p.size2;
    let b1 = (batch / p.size2) % p.size1;
    let b0 = batch / (p.size2 * p.size1);
    let a_at = i32(p.a_at) + i32(b0) * p.a_step0 + i32(b1) * p.a_step1 + i32(b2) * p.a_step2;
    let b_at = i32(p.b_at) + i32(b0) * p.b_step0 + i32(b1) * p.b_step1 + i32(b2) * p.b_step2;
    let y_at = p.y_at + batch * p.m * p.n;
    let tx = t % 16u;
    let ty = t / 16u;
    var sum: array<vec4<f32>, 4>;
    for (var k0 = 0u; k0 < p.k; k0 += DEEP) {
        for (var i = 0u; i < 4u; i++) {
            // Neighbouring threads take neighbours in memory, whichever axis that is.
            let e = t + i * 256u;
            let am = select(e / DEEP, e % TILE, A_BY_ROWS == 1u);
            let ak = select(e % DEEP, e / TILE, A_BY_ROWS == 1u);
            var value = 0.0f;
            if (row + am < p.m && k0 + ak < p.k) {
                value = a[u32(a_at + i32(row + am) * p.a_m + i32(k0 + ak) * p.a_k)];
            }
            left[ak * 65u + am] = value;
            let bn = select(e / DEEP, e % TILE, B_BY_ROWS == 1u);
            let bk = select(e % DEEP, e / TILE, B_BY_ROWS == 1u);
            value = 0.0f;
            if (column + bn < p.n && k0 + bk < p.k) {
                value = b[u32(b_at + i32(k0 + bk) * p.b_k + i32(column + bn) * p.b_n)];
            }
            right[bk * TILE + bn] = value;
        }
        workgroupBarrier();
        for (var k = 0u; k < DEEP; k++) {
            let at = k * TILE + tx * 4u;
            let r = vec4<f32>(right[at], right[at + 1u], right[at + 2u], right[at + 3u]);
            for (var i = 0u; i < 4u; i++) {
                sum[i] += left[k * 65u + ty * 4u + i] * r;
            }
        }
        workgroupBarrier();
    }
    for (var i = 0u; i < 4u; i++) {
        for (var j = 0u; j < 4u; j++) {
            let m = row + ty * 4u + i;
            let n = column + tx * 4u + j;
            if (m < p.m && n < p.n) {
                var value = sum[i][j];
                if (HAS_BIAS == 1u) {
                    value += bias[p.bias_at + n];
                }
                y[y_at + m * p.n + n] = value;
            }
        }
    }
}
