//! Fused optimizer steps over lists of tensors.

use super::errors::raise;
use super::tensor::PyTensor;
use crate::arena::{self, Context};
use crate::device::Device;
use crate::device::cpu::optim::{self, Adam, Sgd};
use crate::device::gpu::{self, optim as on_gpu};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::run::relaid;
use crate::tensor::Tensor;
use pyo3::prelude::*;

type Tensors<'py> = Vec<PyRef<'py, PyTensor>>;

fn tensors(list: Tensors) -> Vec<Tensor> {
    list.iter().map(|t| t.var().tensor).collect()
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
    if same { Ok(t.clone()) } else { relaid(t, x.layout().clone(), crate::arena::ledger::Category::Workspace) }
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

#[pyfunction]
#[pyo3(signature = (params, grads, exp_avgs, exp_avg_sqs, step, lr, beta1, beta2, eps, weight_decay, decoupled, maximize))]
#[allow(clippy::too_many_arguments)]
fn adam_step(
    py: Python<'_>,
    params: Tensors<'_>,
    grads: Tensors<'_>,
    exp_avgs: Tensors<'_>,
    exp_avg_sqs: Tensors<'_>,
    step: i32,
    lr: f64,
    beta1: f64,
    beta2: f64,
    eps: f64,
    weight_decay: f64,
    decoupled: bool,
    maximize: bool,
) -> PyResult<()> {
    let lists = [tensors(params), tensors(grads), tensors(exp_avgs), tensors(exp_avg_sqs)];
    let how = Adam { rate: lr, beta1, beta2, eps, decay: weight_decay, decoupled, maximize, step };
    py.detach(|| {
        Context { op: "adam", ..Context::get() }.set();
        for (((x, g), m), v) in lists[0].iter().zip(&lists[1]).zip(&lists[2]).zip(&lists[3]) {
            check("adam", x, &[g, m, v])?;
            state("adam", m, x)?;
            state("adam", v, x)?;
            let g = like(g, x)?;
            if arena::on_paper() {
                continue;
            }
            if let Device::Gpu(number) = x.device() {
                on_gpu::adam(gpu::open(number)?, how, &x.buffer(), &g.buffer(), &m.buffer(), &v.buffer())?;
                [x, m, v].iter().for_each(|t| t.storage().bump());
                continue;
            }
            let (xv, gv, mv, vv) = (x.view(), g.view(), m.view(), v.view());
            match x.dtype() {
                DType::F64 => optim::adam_f64(how, xv.out(), gv.slice(), mv.out(), vv.out()),
                _ => optim::adam_f32(how, xv.out(), gv.slice(), mv.out(), vv.out()),
            }
            [x, m, v].iter().for_each(|t| t.storage().bump());
        }
        Ok(())
    })
    .map_err(raise)
}

#[pyfunction]
#[pyo3(signature = (params, grads, buffers, lr, momentum, dampening, weight_decay, nesterov, maximize, first))]
#[allow(clippy::too_many_arguments)]
fn sgd_step(
    py: Python<'_>,
    params: Tensors<'_>,
    grads: Tensors<'_>,
    buffers: Option<Tensors<'_>>,
    lr: f64,
    momentum: f64,
    dampening: f64,
    weight_decay: f64,
    nesterov: bool,
    maximize: bool,
    first: bool,
) -> PyResult<()> {
    let (params, grads, buffers) = (tensors(params), tensors(grads), buffers.map(tensors));
    let how = Sgd { rate: lr, momentum, dampening, decay: weight_decay, nesterov, maximize, first };
    py.detach(|| {
        Context { op: "sgd", ..Context::get() }.set();
        for (i, (x, g)) in params.iter().zip(&grads).enumerate() {
            let buffer = buffers.as_ref().map(|b| &b[i]);
            check("sgd", x, &[g])?;
            if let Some(b) = buffer {
                check("sgd", x, &[b])?;
                state("sgd", b, x)?;
                b.storage().bump();
            }
            let g = like(g, x)?;
            if arena::on_paper() {
                continue;
            }
            if let Device::Gpu(number) = x.device() {
                let momentum = buffer.map(Tensor::buffer);
                on_gpu::sgd(gpu::open(number)?, how, &x.buffer(), &g.buffer(), momentum.as_ref())?;
                x.storage().bump();
                continue;
            }
            let (xv, gv) = (x.view(), g.view());
            match x.dtype() {
                DType::F64 => optim::sgd_f64(how, xv.out(), gv.slice(), buffer.map(|b| b.view().out())),
                _ => optim::sgd_f32(how, xv.out(), gv.slice(), buffer.map(|b| b.view().out())),
            }
            x.storage().bump();
        }
        Ok(())
    })
    .map_err(raise)
}

/// Σ of the squares of all elements of all tensors, in float64.
#[pyfunction]
#[pyo3(name = "sum_of_squares")]
fn squares(py: Python<'_>, list: Tensors<'_>) -> PyResult<f64> {
    let list = tensors(list);
    py.detach(|| {
        let mut total = 0.0;
        for t in &list {
            let t = if t.layout().is_dense() {
                t.clone()
            } else {
                relaid(
                    t,
                    crate::shape::Layout::contiguous("clip", t.shape())?,
                    crate::arena::ledger::Category::Workspace,
                )?
            };
            if arena::on_paper() {
                continue;
            }
            if t.device() != Device::Cpu {
                let square = crate::ops::run::call("square", &[&t], &[])?;
                let flat = [crate::ops::args::signed(&[]), crate::ops::args::flag(false)];
                total += crate::ops::run::call("sum", &[&square], &flat)?.numbers()?[0];
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
fn scale_(py: Python<'_>, list: Tensors<'_>, factor: f64) -> PyResult<()> {
    let vars: Vec<_> = list.iter().map(|t| t.var().detach()).collect();
    py.detach(|| {
        for v in &vars {
            let factor = crate::graph::Var::constant(Tensor::scalar(factor, v.tensor.dtype())?);
            let mul = crate::ops::registry::build("mul", &[])?;
            crate::graph::apply_in_place(mul, v, &[&factor])?;
        }
        Ok(())
    })
    .map_err(raise)
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(adam_step, m)?)?;
    m.add_function(wrap_pyfunction!(sgd_step, m)?)?;
    m.add_function(wrap_pyfunction!(squares, m)?)?;
    m.add_function(wrap_pyfunction!(scale_, m)?)
}
