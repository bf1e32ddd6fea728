//! The registered ops and their samples, as the tests that run them all see them.

use backsweep::arena::ledger::{Category, Event, Recording};
use backsweep::device::Device;
use backsweep::dtype::DType;
use backsweep::graph::{self, Request, Var};
use backsweep::ops::laws::{Domain, Exact, Sample};
use backsweep::ops::registry::{self, Entry};
use backsweep::ops::run;
use backsweep::shape::Layout;
use backsweep::tensor::{Meta, Tensor};

pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x2545_F491_4F6C_DD1D)
    }
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }
    pub fn signed(&mut self) -> f64 {
        2.0 * self.unit() - 1.0
    }
}

/// Exactly representable in f32, so that every precision starts from the same numbers.
pub fn values(shape: &[usize], domain: Domain, random: &mut Random) -> Vec<f64> {
    let n: usize = shape.iter().product();
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        order.swap(i, (random.bits() % (i as u64 + 1)) as usize);
    }
    let last = shape.last().copied().unwrap_or(1).max(1);
    let mut list: Vec<f64> = (0..n)
        .map(|i| match domain {
            Domain::Any => 1.5 * random.signed() + 0.3 * random.signed(),
            Domain::Positive => 0.3 + 1.7 * random.unit(),
            // Distinct, and away from integers: whole part by rank, fraction in (0.2, 0.8).
            Domain::Apart => {
                let rank = order[i] as f64 - (n / 2) as f64;
                rank * 0.03125 * (32.0 / n.max(32) as f64) * 3.0 + 0.0078125
            }
            Domain::Divisor => (0.5 + random.unit()) * if random.bits() & 1 == 0 { 1.0 } else { -1.0 },
            Domain::Unit => 0.9 * random.signed(),
            Domain::AboveOne => 1.2 + 1.8 * random.unit(),
            Domain::Mask => (random.bits() & 1) as f64,
            Domain::Index(size) => (random.bits() % size.max(1) as u64) as f64,
            Domain::Shuffled => 0.0,
        } as f32 as f64)
        .collect();
    if domain == Domain::Shuffled {
        for row in list.chunks_mut(last) {
            let mut positions: Vec<usize> = (0..row.len()).collect();
            for i in (1..positions.len()).rev() {
                positions.swap(i, (random.bits() % (i as u64 + 1)) as usize);
            }
            row.iter_mut().zip(positions).for_each(|(v, p)| *v = p as f64);
        }
    }
    if domain == Domain::Apart {
        // Integers are kinks of floor and its kin.
        list.iter_mut().filter(|v| (**v - v.round()).abs() < 0.005).for_each(|v| *v += 0.0078125);
    }
    list
}

pub fn tensor(shape: &[usize], data: &[f64], dtype: DType) -> Tensor {
    let wide = Tensor::from_slice("law", shape, data, Category::Input).unwrap();
    let meta = Meta::contiguous("law", shape, dtype, Device::Cpu).unwrap();
    run::converted(&wide, meta, Category::Input).unwrap()
}

/// The inputs of a sample in a floating type; masks and indices keep their own.
pub fn inputs(sample: &Sample, dtype: DType, random: &mut Random) -> (Vec<Tensor>, Vec<Exact>) {
    let pairs = sample.inputs.iter().map(|(shape, domain)| {
        let data = values(shape, *domain, random);
        let t = tensor(shape, &data, domain.dtype().unwrap_or(dtype));
        // A narrow type rounds; the reference sees what the op sees.
        let exact = Exact::new(shape, t.to_f64());
        (t, exact)
    });
    pairs.unzip()
}

pub struct Case<'a> {
    pub entry: &'a Entry,
    pub at: usize,
    pub sample: Sample,
}

impl Case<'_> {
    pub fn name(&self) -> String {
        format!("{} sample {} {:?} {:?}", self.entry.name, self.at, self.sample.op, self.sample.inputs)
    }
    pub fn random(&self) -> Random {
        let seed =
            self.entry.name.bytes().fold(self.at as u64 + 1, |h, b| h.wrapping_mul(131).wrapping_add(u64::from(b)));
        Random::new(seed)
    }
}

pub fn cases() -> impl Iterator<Item = Case<'static>> {
    registry::entries()
        .iter()
        .flat_map(|entry| (entry.samples)().into_iter().enumerate().map(move |(at, sample)| Case { entry, at, sample }))
}

pub fn close(a: f64, b: f64, relative: f64, absolute: f64) -> bool {
    a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= absolute + relative * a.abs().max(b.abs())
}

pub fn assert_close(got: &[f64], want: &[f64], tolerance: (f64, f64), what: &str) {
    assert_eq!(got.len(), want.len(), "{what}: number of elements");
    let scale = want.iter().filter(|v| v.is_finite()).fold(1.0f64, |m, v| m.max(v.abs()));
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        assert!(close(g, w, tolerance.0, tolerance.1 * scale), "{what}: element {i} is {g}, the reference says {w}");
    }
}

pub fn run_op(sample: &Sample, x: &[Var]) -> Vec<Var> {
    graph::apply(sample.op.clone(), &x.iter().collect::<Vec<_>>())
        .unwrap_or_else(|e| panic!("{:?}: {e}", sample.op))
        .into_vec()
}

pub fn leaves(tensors: &[Tensor]) -> Vec<Var> {
    let leaf = |t: &Tensor| if t.dtype().is_float() { Var::leaf(t.clone()) } else { Var::constant(t.clone()) };
    tensors.iter().map(leaf).collect()
}

/// Gradients of Σ ⟨y, dy⟩ by the inputs; `None` where there is none.
pub fn gradients(y: &[Var], dy: &[Tensor], x: &[Var], retain: bool, create: bool) -> Vec<Option<Var>> {
    let roots: Vec<(Var, Var)> = y
        .iter()
        .zip(dy)
        .filter(|(y, _)| y.requires_grad())
        .map(|(y, dy)| (y.clone(), Var::constant(dy.clone())))
        .collect();
    if roots.is_empty() {
        return vec![None; x.len()];
    }
    let mut check = || Ok(());
    let request =
        Request { roots: &roots, targets: Some(x), retain_graph: retain, create_graph: create, check: &mut check };
    graph::sweep(request).unwrap_or_else(|e| panic!("sweep: {e}"))
}

pub fn cotangents(y: &[Var], random: &mut Random) -> Vec<Tensor> {
    y.iter()
        .map(|v| {
            let data: Vec<f64> = (0..v.tensor.numel()).map(|_| random.signed() as f32 as f64).collect();
            tensor(v.tensor.shape(), &data, v.tensor.dtype())
        })
        .collect()
}

/// The same elements laid out in eight ways.
pub const STRIDINGS: [&str; 8] = [
    "contiguous",
    "transposed",
    "every other",
    "backwards",
    "with an offset",
    "permuted",
    "in a wider row",
    "broadcast",
];

pub fn laid_out(t: &Tensor, how: usize) -> Tensor {
    let shape = t.shape();
    let rank = shape.len();
    let zeros = |shape: &[usize]| {
        let meta = Meta::contiguous("law", shape, t.dtype(), t.device()).unwrap();
        run::converted(&Tensor::scalar(7.0, t.dtype()).unwrap(), meta, Category::Input).unwrap()
    };
    if rank == 0 || t.numel() == 0 {
        return t.clone();
    }
    let (storage_shape, order, step, offset): (Vec<usize>, Vec<usize>, Vec<isize>, Vec<usize>) = match how {
        1 if rank >= 2 => {
            let mut order: Vec<usize> = (0..rank).collect();
            order.swap(rank - 1, rank - 2);
            (order.iter().map(|&i| shape[i]).collect(), order, vec![1; rank], vec![0; rank])
        }
        2 => (shape.iter().map(|d| d * 2).collect(), (0..rank).collect(), vec![2; rank], vec![0; rank]),
        3 => (shape.to_vec(), (0..rank).collect(), vec![-1; rank], shape.iter().map(|d| d - 1).collect()),
        4 => (shape.iter().map(|d| d + 1).collect(), (0..rank).collect(), vec![1; rank], vec![1; rank]),
        5 => {
            let order: Vec<usize> = (1..rank).chain([0]).collect();
            (order.iter().map(|&i| shape[i]).collect(), order, vec![1; rank], vec![0; rank])
        }
        6 => {
            let mut wide = shape.to_vec();
            wide[rank - 1] += 3;
            (wide, (0..rank).collect(), vec![1; rank], vec![0; rank])
        }
        _ => return t.clone(),
    };
    let base = zeros(&storage_shape);
    let mut strides = vec![0isize; rank];
    let mut start = 0isize;
    for (k, &axis) in order.iter().enumerate() {
        let own = base.layout().strides()[k];
        strides[axis] = own * step[axis];
        start += offset[axis] as isize * own;
    }
    let window = base.with_layout(Layout::strided(shape, &strides), start as usize);
    backsweep::ops::pointwise::copy_into(t, &window).unwrap();
    window
}

/// Bytes and roles of all that comes and goes in a recording, in order. Block ids are named by the order of their coming,
/// because freed ids are used again.
pub fn told(recording: &Recording) -> Vec<String> {
    let (mut names, mut count) = (std::collections::HashMap::new(), 0);
    let text = recording.events.iter().map(|event| match event {
        Event::Alloc { id, record } => {
            names.insert(*id, count);
            count += 1;
            format!("+{} {}", record.bytes, record.tag.category.name())
        }
        Event::Free { id } => format!("-{:?}", names.get(id)),
        Event::Retag { id, category } => format!("{:?} is {}", names.get(id), category.name()),
    });
    text.collect()
}
