//! Gradients of lists of tensors, and fused optimizer steps over them.

use super::errors::raise;
use super::tensor::PyTensor;
use crate::arena::ledger::Category;
use crate::arena::{self, Context};
use crate::device::Device;
use crate::device::cpu::optim::{self, Adam, Sgd};
use crate::device::gpu::many::Operands;
use crate::device::gpu::optim::{self as on_gpu, Decay, Rule};
use crate::device::gpu::{self, clip};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::graph::Var;
use crate::ops::run::relaid;
use crate::shape::Layout;
use crate::tensor::{Meta, Tensor};
use pyo3::Borrowed;
use pyo3::prelude::*;
use pyo3::types::PyList;
use std::collections::BTreeMap;

/// The values of a list of tensors.
struct Tensors(Vec<Tensor>);

impl<'py> FromPyObject<'_, 'py> for Tensors {
    type Error = PyErr;

    fn extract(list: Borrowed<'_, 'py, PyAny>) -> PyResult<Tensors> {
        // Not collected: an iterator of Python's takes longer to guess its length than a tensor takes.
        let mut tensors = Vec::with_capacity(list.len().unwrap_or(0));
        for tensor in list.try_iter()? {
            tensors.push(tensor?.cast::<PyTensor>()?.get().tensor());
        }
        Ok(Tensors(tensors))
    }
}

/// All operands of one parameter share its dtype and number of elements; the state lies as the parameter does.
fn check(op: &str, x: &Tensor, others: &[&Tensor]) -> Result<()> {
    if !matches!(x.dtype(), DType::F32 | DType::F64) || !x.layout().is_dense() {
        return Err(Error::dtype(format!(
            "{op}: a parameter of dtype {} and strides {:?}; gapless float32 or float64 is needed",
            x.dtype().name(),
            x.layout().strides()
        )));
    }
    let same = |t: &&&Tensor| t.dtype() != x.dtype() || t.shape() != x.shape();
    match others.iter().find(same) {
        None if others.iter().any(|t| t.device() != x.device()) => Err(Error::device(format!(
            "{op}: a parameter on {} with a gradient or state on {}; move them to one device (help: model.to(device) \
             before the optimizer is made)",
            x.device().name(),
            others.iter().find(|t| t.device() != x.device()).map_or("", |t| t.device().name())
        ))),
        None => Ok(()),
        Some(t) => Err(Error::shape(format!(
            "{op}: {:?} {} beside a parameter of {:?} {}; the shapes and dtypes must be equal",
            t.shape(),
            t.dtype().name(),
            x.shape(),
            x.dtype().name()
        ))),
    }
}

/// The tensor in the memory order of `x`, copied when it lies otherwise.
fn like(t: &Tensor, x: &Tensor) -> Result<Tensor> {
    let same = t.layout().strides() == x.layout().strides();
    if same { Ok(t.clone()) } else { relaid(t, x.layout().clone(), Category::Workspace) }
}

fn state(op: &str, t: &Tensor, x: &Tensor) -> Result<()> {
    if t.layout().strides() == x.layout().strides() {
        return Ok(());
    }
    Err(Error::value(format!(
        "{op}: optimizer state with strides {:?} for a parameter with {:?}; they must be equal",
        t.layout().strides(),
        x.layout().strides()
    )))
}

/// Parameters on GPUs, each with its gradient and its states, by the number of the GPU.
#[derive(Default)]
struct There(BTreeMap<u8, Vec<Vec<Tensor>>>);

impl There {
    fn add(&mut self, number: u8, operands: &[&Tensor]) {
        self.0.entry(number).or_default().push(operands.iter().map(|t| (*t).clone()).collect());
    }

    /// One kernel for all that are on one GPU.
    fn step(self, op: &'static str, rule: Rule, decay: Decay) -> Result<()> {
        for (number, rows) in self.0 {
            let list: Vec<Operands> = rows.iter().map(|row| row.iter().map(Tensor::buffer).collect()).collect();
            on_gpu::step(gpu::open(number)?, op, rule, decay, &list)?;
            // All but the gradients.
            rows.iter().for_each(|row| row[..1].iter().chain(&row[2..]).for_each(|t| t.storage().bump()));
        }
        Ok(())
    }
}

/// Those of the tensors that have a gradient, and their gradients.
#[pyfunction]
fn with_gradients<'py>(
    py: Python<'py>,
    tensors: &Bound<'py, PyAny>,
) -> PyResult<(Bound<'py, PyList>, Bound<'py, PyList>)> {
    let (params, grads) = (PyList::empty(py), PyList::empty(py));
    for param in tensors.try_iter()? {
        let param = param?.cast_into::<PyTensor>()?;
        if let Some(grad) = param.get().gradient() {
            params.append(param)?;
            grads.append(grad)?;
        }
    }
    Ok((params, grads))
}

/// Drops the gradients of tensors.
#[pyfunction]
fn drop_gradients(tensors: &Bound<'_, PyAny>) -> PyResult<()> {
    for tensor in tensors.try_iter()? {
        tensor?.cast::<PyTensor>()?.get().drop_gradient().map_err(raise)?;
    }
    Ok(())
}

#[pyfunction]
#[pyo3(signature = (params, grads, exp_avgs, exp_avg_sqs, step, lr, beta1, beta2, eps, weight_decay, decoupled, maximize))]
#[allow(clippy::too_many_arguments)]
fn adam_step(
    py: Python<'_>,
    params: Tensors,
    grads: Tensors,
    exp_avgs: Tensors,
    exp_avg_sqs: Tensors,
    step: i32,
    lr: f64,
    beta1: f64,
    beta2: f64,
    eps: f64,
    weight_decay: f64,
    decoupled: bool,
    maximize: bool,
) -> PyResult<()> {
    let lists = [params.0, grads.0, exp_avgs.0, exp_avg_sqs.0];
    let how = Adam { rate: lr, beta1, beta2, eps, decay: weight_decay, decoupled, maximize, step };
    py.detach(|| {
        Context { op: "adam", ..Context::get() }.set();
        let mut there = There::default();
        for (((x, g), m), v) in lists[0].iter().zip(&lists[1]).zip(&lists[2]).zip(&lists[3]) {
            check("adam", x, &[g, m, v])?;
            state("adam", m, x)?;
            state("adam", v, x)?;
            let g = like(g, x)?;
            if let Device::Gpu(number) = x.device() {
                there.add(number, &[x, &g, m, v]);
                continue;
            }
            if arena::on_paper() {
                continue;
            }
            let (xv, gv, mv, vv) = (x.view(), g.view(), m.view(), v.view());
            match x.dtype() {
                DType::F64 => optim::adam::<f64>(how, xv.out(), gv.slice(), mv.out(), vv.out()),
                _ => optim::adam::<f32>(how, xv.out(), gv.slice(), mv.out(), vv.out()),
            }
            [x, m, v].iter().for_each(|t| t.storage().bump());
        }
        there.step("adam", Rule::Adam { how, amsgrad: false }, Decay { weight_decay, maximize })
    })
    .map_err(raise)
}

#[pyfunction]
#[pyo3(signature = (params, grads, buffers, lr, momentum, dampening, weight_decay, nesterov, maximize, first))]
#[allow(clippy::too_many_arguments)]
fn sgd_step(
    py: Python<'_>,
    params: Tensors,
    grads: Tensors,
    buffers: Option<Tensors>,
    lr: f64,
    momentum: f64,
    dampening: f64,
    weight_decay: f64,
    nesterov: bool,
    maximize: bool,
    first: bool,
) -> PyResult<()> {
    let (params, grads, buffers) = (params.0, grads.0, buffers.map(|list| list.0));
    let how = Sgd { rate: lr, momentum, dampening, decay: weight_decay, nesterov, maximize, first };
    py.detach(|| {
        Context { op: "sgd", ..Context::get() }.set();
        let mut there = There::default();
        for (i, (x, g)) in params.iter().zip(&grads).enumerate() {
            let buffer = buffers.as_ref().map(|b| &b[i]);
            check("sgd", x, &[g])?;
            if let Some(b) = buffer {
                check("sgd", x, &[b])?;
                state("sgd", b, x)?;
            }
            let g = like(g, x)?;
            if let Device::Gpu(number) = x.device() {
                let operands: Vec<&Tensor> = [x, &g].into_iter().chain(buffer).collect();
                there.add(number, &operands);
                continue;
            }
            if arena::on_paper() {
                continue;
            }
            let (xv, gv) = (x.view(), g.view());
            match x.dtype() {
                DType::F64 => optim::sgd::<f64>(how, xv.out(), gv.slice(), buffer.map(|b| b.view().out())),
                _ => optim::sgd::<f32>(how, xv.out(), gv.slice(), buffer.map(|b| b.view().out())),
            }
            [x].into_iter().chain(buffer).for_each(|t| t.storage().bump());
        }
        there.step("sgd", Rule::Sgd(how), Decay { weight_decay, maximize })
    })
    .map_err(raise)
}

/// The rules that are compositions on the CPU, for parameters on GPUs: `lists` are the parameters, their gradients, and their
/// states in the order that `Rule` names.
#[pyfunction]
fn fused_step(
    py: Python<'_>,
    rule: &str,
    lists: Vec<Tensors>,
    numbers: Vec<f64>,
    weight_decay: f64,
    maximize: bool,
) -> PyResult<()> {
    let (op, rule) = match (rule, numbers.as_slice()) {
        ("amsgrad", &[rate, beta1, beta2, eps, step, decoupled]) => {
            let (step, decoupled) = (step as i32, decoupled != 0.0);
            let how = Adam { rate, beta1, beta2, eps, decay: weight_decay, decoupled, maximize, step };
            ("adam", Rule::Adam { how, amsgrad: true })
        }
        ("adagrad", &[rate, eps]) => ("adagrad", Rule::Adagrad { rate, eps }),
        ("rmsprop", &[rate, alpha, eps, momentum, centered]) => {
            ("rmsprop", Rule::RmsProp { rate, alpha, eps, momentum, centered: centered != 0.0 })
        }
        ("adadelta", &[rate, rho, eps]) => ("adadelta", Rule::Adadelta { rate, rho, eps }),
        ("lion", &[rate, beta1, beta2]) => ("lion", Rule::Lion { rate, beta1, beta2 }),
        _ => return Err(raise(Error::internal(format!("bug: no rule '{rule}' with {} numbers", numbers.len())))),
    };
    let lists: Vec<Vec<Tensor>> = lists.into_iter().map(|list| list.0).collect();
    py.detach(|| {
        Context { op, ..Context::get() }.set();
        let mut there = There::default();
        for i in 0..lists[0].len() {
            let row: Vec<&Tensor> = lists.iter().map(|list| &list[i]).collect();
            let (x, rest) = row.split_first().expect("bug: a step of nothing");
            check(op, x, rest)?;
            rest[1..].iter().try_for_each(|t| state(op, t, x))?;
            let Device::Gpu(number) = x.device() else {
                return Err(Error::internal(format!("bug: {op} is a composition on the CPU")));
            };
            let g = like(rest[0], x)?;
            let operands: Vec<&Tensor> = [*x, &g].into_iter().chain(rest[1..].iter().copied()).collect();
            there.add(number, &operands);
        }
        there.step(op, rule, Decay { weight_decay, maximize })
    })
    .map_err(raise)
}

/// The norm of all tensors of one GPU taken as one vector, as a tensor there; with `most` they are scaled so that it is at
/// most that. Nothing is read back.
#[pyfunction]
#[pyo3(signature = (list, most=None))]
fn clip_norm(py: Python<'_>, list: Tensors, most: Option<f64>) -> PyResult<PyTensor> {
    let list = list.0;
    py.detach(|| {
        Context { op: "clip_grad_norm_", ..Context::get() }.set();
        let Some(Device::Gpu(number)) = list.first().map(Tensor::device) else {
            return Err(Error::internal("bug: clip_norm without a tensor of a GPU"));
        };
        let meta = Meta { layout: crate::tensor::scalar_layout(), dtype: DType::F32, device: Device::Gpu(number) };
        let norm = Tensor::empty(meta, Category::Temporary)?;
        // Those with gaps are clipped as copies.
        let dense = |t: &Tensor| -> Result<Tensor> {
            if t.layout().is_dense() {
                return Ok(t.clone());
            }
            relaid(t, Layout::contiguous("clip", t.shape())?, Category::Workspace)
        };
        let laid = list.iter().map(dense).collect::<Result<Vec<Tensor>>>()?;
        let gpu = gpu::open(number)?;
        let operands: Vec<Operands> = laid.iter().map(|t| Operands::from_iter([t.buffer()])).collect();
        clip::norm(gpu, &operands, most, &norm.buffer())?;
        for (t, laid) in list.iter().zip(&laid).filter(|_| most.is_some()) {
            if !t.shares_storage(laid) {
                crate::ops::pointwise::copy_on(gpu, laid, t)?;
            }
            t.storage().bump();
        }
        Ok(norm)
    })
    .map(|norm| PyTensor::new(Var::constant(norm)))
    .map_err(raise)
}

/// Σ of the squares of all elements of all tensors, in float64.
#[pyfunction]
#[pyo3(name = "sum_of_squares")]
fn squares(py: Python<'_>, list: Tensors) -> PyResult<f64> {
    let list = list.0;
    py.detach(|| {
        let mut total = 0.0;
        for t in &list {
            let t = if t.layout().is_dense() {
                t.clone()
            } else {
                relaid(t, Layout::contiguous("clip", t.shape())?, Category::Workspace)?
            };
            if t.device() != Device::Cpu {
                let square = crate::ops::run::call("square", &[&t], &[])?;
                let flat = [crate::ops::args::signed(&[]), crate::ops::args::flag(false)];
                let sum = crate::ops::run::call("sum", &[&square], &flat)?;
                total += if arena::on_paper() { 0.0 } else { sum.numbers()?[0] };
                continue;
            }
            if arena::on_paper() {
                continue;
            }
            total += match t.dtype() {
                DType::F32 => optim::sum_of_squares(t.view().slice::<f32>()),
                DType::F64 => optim::sum_of_squares(t.view().slice::<f64>()),
                _ => t.to_f64().iter().map(|v| v * v).sum(),
            };
        }
        Ok(total)
    })
    .map_err(raise)
}

/// Every tensor times a number, in place.
#[pyfunction]
fn scale_(py: Python<'_>, list: Tensors, factor: f64) -> PyResult<()> {
    py.detach(|| {
        for tensor in list.0 {
            let factor = Var::constant(Tensor::scalar(factor, tensor.dtype())?);
            let mul = crate::ops::registry::build("mul", &[])?;
            crate::graph::apply_in_place(mul, &Var::constant(tensor), &[&factor])?;
        }
        Ok(())
    })
    .map_err(raise)
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(with_gradients, m)?)?;
    m.add_function(wrap_pyfunction!(drop_gradients, m)?)?;
    m.add_function(wrap_pyfunction!(adam_step, m)?)?;
    m.add_function(wrap_pyfunction!(sgd_step, m)?)?;
    m.add_function(wrap_pyfunction!(fused_step, m)?)?;
    m.add_function(wrap_pyfunction!(clip_norm, m)?)?;
    m.add_function(wrap_pyfunction!(squares, m)?)?;
    m.add_function(wrap_pyfunction!(scale_, m)?)
}
