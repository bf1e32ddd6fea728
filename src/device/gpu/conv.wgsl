// Convolutions of channels-last images as products, one for each group of channels; the weight is [out, depth, kh, kw].
// HOW = 0: y [pixel of y, out] = x [.., (tap, channel)] · weight (+ bias). HOW = 1: dx [pixel of x, channel] = dy [.., (tap,
// out)] · weight. HOW = 2: dweight [out, (tap, channel)] = dy [out, pixel of y] · x [.., (tap, channel)].

@group(0) @binding(0) var<storage, read_write> a: array<f32>;
@group(0) @binding(1) var<storage, read_write> b: array<f32>;
@group(0) @binding(2) var<storage, read_write> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(0) @binding(4) var<storage, read_write> part: array<f32>;

var<private> own: u32;

fn begin(batch: u32) {
    own = batch;
}

// The element of x that a pixel of y meets at a tap, or 0 in the padding; x is shown by `a`, or by `b` where HOW = 2.
fn met(pixel: u32, tap: u32, channel: u32) -> f32 {
    let col = i32(pixel % p.out_w * p.stride_x + tap % p.kw * p.dilation_x) - i32(p.padding_x);
    let row = i32(pixel / p.out_w % p.out_h * p.stride_y + tap / p.kw * p.dilation_y) - i32(p.padding_y);
    if (row < 0 || col < 0 || row >= i32(p.h) || col >= i32(p.w)) {
        return 0.0f;
    }
    let image = pixel / (p.out_w * p.out_h);
    let at = ((image * p.h + u32(row)) * p.w + u32(col)) * p.c_in + own * p.depth + channel;
    if (HOW == 2u) {
        return b[p.b_at + at];
    }
    return a[p.a_at + at];
}

fn weight(out: u32, channel: u32, tap: u32) -> f32 {
    return b[p.b_at + ((own * p.width + out) * p.depth + channel) * p.taps + tap];
}

fn left_at(m: u32, k: u32) -> f32 {
    if (HOW == 0u) {
        return met(m, k / p.depth, k % p.depth);
    }
    if (HOW == 2u) {
        return a[p.a_at + k * p.c_out + own * p.width + m];
    }
    // The pixel of y, if there is one, that meets this one of x at a tap.
    let tap = k / p.width;
    let down = i32(m / p.w % p.h + p.padding_y) - i32(tap / p.kw * p.dilation_y);
    let across = i32(m % p.w + p.padding_x) - i32(tap % p.kw * p.dilation_x);
    let row = down / i32(p.stride_y);
    let col = across / i32(p.stride_x);
    if (down < 0 || across < 0 || row * i32(p.stride_y) != down || col * i32(p.stride_x) != across
        || row >= i32(p.out_h) || col >= i32(p.out_w)) {
        return 0.0f;
    }
    let image = m / (p.w * p.h);
    return a[p.a_at + ((image * p.out_h + u32(row)) * p.out_w + u32(col)) * p.c_out + own * p.width + k % p.width];
}

fn right_at(k: u32, n: u32) -> f32 {
    if (HOW == 0u) {
        return weight(n, k % p.depth, k / p.depth);
    }
    if (HOW == 1u) {
        return weight(k % p.width, n, k / p.width);
    }
    return met(k, n / p.depth, n % p.depth);
}

fn put(m: u32, n: u32, value: f32) {
    if (HOW == 2u) {
        y[p.y_at + ((own * p.width + m) * p.depth + n % p.depth) * p.taps + n / p.depth] = value;
        return;
    }
    let at = (m * p.batch + own) * p.n + n;
    if (HAS_BIAS == 1u) {
        y[p.y_at + at] = value + bias[p.bias_at + own * p.n + n];
    } else {
        y[p.y_at + at] = value;
    }
}
