// Where the sums of a tile go, four of a row at a time: to `put_quad`, or, where k is cut, to `part`, in the matrix from
// `start` on.

fn write_quad(start: u32, m: u32, n: u32, quad: vec4<f32>) {
    if (m >= p.m || n >= p.n) {
        return;
    }
    if (p.splits == 1u) {
        put_quad(m, n, quad);
        return;
    }
    let at = start + m * p.n + n;
    part[at] = quad.x;
    if (n + 1u < p.n) { part[at + 1u] = quad.y; }
    if (n + 2u < p.n) { part[at + 2u] = quad.z; }
    if (n + 3u < p.n) { part[at + 3u] = quad.w; }
}
