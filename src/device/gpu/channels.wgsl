// A map of each channel of images, all in one order of memory: the channel of element i is i / inner % channels.
// HOW = 0: y = x · weight + shift. HOW = 1: y = (x - mean) / √(variance + eps) · weight + shift. HOW = 2, the gradient of
// that: y = (dy - shift / n - (x - mean) / √(variance + eps) · product / n) / √(variance + eps) · weight, where shift holds
// Σ dy and product Σ dy · (x - mean) / √(variance + eps).

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> dy: array<f32>;
@group(0) @binding(2) var<storage, read_write> mean: array<f32>;
@group(0) @binding(3) var<storage, read_write> variance: array<f32>;
@group(0) @binding(4) var<storage, read_write> weight: array<f32>;
@group(0) @binding(5) var<storage, read_write> shift: array<f32>;
@group(0) @binding(6) var<storage, read_write> product: array<f32>;
@group(0) @binding(7) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = thread(id, groups);
    if (i >= p.n) {
        return;
    }
    let c = i / p.inner % p.channels;
    var value = x[p.x_at + i];
    if (HOW > 0u) {
        value = (value - mean[p.mean_at + c]) / sqrt(variance[p.variance_at + c] + p.eps);
    }
    if (HOW == 2u) {
        value = dy[p.dy_at + i] - (shift[p.shift_at + c] + value * product[p.product_at + c]) * p.share;
        value = value / sqrt(variance[p.variance_at + c] + p.eps);
    }
    if (WEIGHT == 1u) {
        value *= weight[p.weight_at + c];
    }
    if (SHIFT == 1u && HOW < 2u) {
        value += shift[p.shift_at + c];
    }
    y[p.y_at + i] = value;
}
