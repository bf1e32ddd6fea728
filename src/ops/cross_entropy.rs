//! Cross-entropy of logits with class indices, row by row. Saves the logits, and one log-sum-exp a row unless rows are short.
//!
//! Returns the loss of each row; the mean over rows, weighted and without the ignored ones, is composed in Python.

use super::args::{Args, float, int};
use super::laws::{Domain, Exact, Sample};
use super::registry::Entry;
use super::{Back, Cost, Mask, Metas, Op, OpRef, Saves, expect_float, expect_index, output};
use crate::arena::ledger::Category;
use crate::arena::on_paper;
use crate::device::cpu::rows::{self, Entropy};
use crate::device::gpu::{Gpu, rows as on_gpu};
use crate::dtype::DType;
use crate::error::{self, Error, Result};
use crate::tensor::{Meta, Tensor};

pub fn register(list: &mut Vec<Entry>) {
    list.push(Entry { name: "cross_entropy", build: CrossEntropy::build, samples: CrossEntropy::samples });
}

/// Rows up to this many classes: their log-sum-exp is a tenth or so of what is kept, and soon computed again.
const SHORT: usize = 16;

/// logits [n, c], targets int64 [n], class weights [c] (optional) → [n]; 0 where the target is `ignore_index`.
#[derive(Clone, Debug)]
pub struct CrossEntropy {
    how: Entropy,
}

impl CrossEntropy {
    fn build(args: &mut Args) -> Result<OpRef> {
        let how = Entropy { ignore: args.int("ignore_index")?, smoothing: args.float("label_smoothing")? };
        if !(0.0..=1.0).contains(&how.smoothing) {
            return Err(Error::value(format!("cross_entropy: label_smoothing is {}; 0 to 1 is needed", how.smoothing)));
        }
        Ok(CrossEntropy { how }.into())
    }

    fn samples() -> Vec<Sample> {
        let of = |n: usize, c: usize, ignore: i64, smoothing: f64, weight: bool| {
            let (logits, target, classes) = ([n, c], [n], [c]);
            let mut inputs = vec![(logits.as_slice(), Domain::Any), (target.as_slice(), Domain::Index(c))];
            inputs.extend(weight.then_some((classes.as_slice(), Domain::Positive)));
            Sample::of(Self::build, &[int(ignore), float(smoothing)], &inputs)
        };
        vec![
            of(5, 4, -100, 0.0, false),
            of(7, 37, -100, 0.1, false),
            of(6, 5, 2, 0.0, true),
            of(6, 5, 1, 0.2, true),
            of(6, 20, 1, 0.2, true),
            of(0, 3, -100, 0.0, false),
        ]
    }

    fn check(&self, target: &[i64], classes: usize) -> Result<()> {
        let outside = |t: &&i64| **t != self.how.ignore && !(0..classes as i64).contains(*t);
        match target.iter().find(outside) {
            None => Ok(()),
            Some(&t) => Err(error::target_out_of_range("cross_entropy", t, classes, self.how.ignore)),
        }
    }
}

impl Op for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }
    fn infer(&self, x: &[&Meta], recording: bool) -> Result<Metas> {
        if x.len() != 2 && x.len() != 3 {
            return Err(error::arity("cross_entropy", x.len(), "2 or 3"));
        }
        expect_float("cross_entropy", x[0])?;
        expect_index("cross_entropy", x[1])?;
        let (logits, target) = (x[0].shape(), x[1].shape());
        if logits.len() != 2 || target != &logits[..1] {
            return Err(Error::shape(format!(
                "cross_entropy: logits {logits:?} with targets {target:?}; [n, c] with [n] is needed"
            )));
        }
        if let Some(weight) = x.get(2)
            && (weight.shape() != [logits[1]] || weight.dtype != x[0].dtype)
        {
            return Err(Error::shape(format!(
                "cross_entropy: class weights {:?} {} for logits {logits:?} {}; [{}] of the same dtype is needed",
                weight.shape(),
                weight.dtype.name(),
                x[0].dtype.name(),
                logits[1]
            )));
        }
        let mut y = output("cross_entropy", x, target, x[0].dtype)?;
        if recording && logits[1] > SHORT {
            let dtype = if x[0].dtype == DType::F64 { DType::F64 } else { DType::F32 };
            y.push(Meta::contiguous("cross_entropy", target, dtype, x[0].device)?);
        }
        Ok(y)
    }
    fn differentiable(&self) -> Mask {
        1
    }
    fn saves(&self, _needs: Mask) -> Saves {
        Saves::inputs(0b111).and_outputs(0b10)
    }
    fn cost(&self, x: &[&Meta], y: &[Meta]) -> Cost {
        Cost::streaming(x, y, 4.0)
    }
    fn allocates(&self) -> bool {
        true
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        fn go<E: rows::Float>(op: &CrossEntropy, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
            let target = x[1].view().slice::<i64>();
            if !on_paper() {
                op.check(target, x[0].shape()[1])?;
            }
            let spare;
            let lse = match y.get(1) {
                Some(lse) => lse.view().out::<E>(),
                None => {
                    spare = super::run::workspace::<E>(target.len())?;
                    spare.view().out::<E>()
                }
            };
            if on_paper() {
                return Ok(());
            }
            let weight = x.get(2).map(|w| w.view().slice::<E>());
            rows::cross_entropy(x[0].view().slice::<E>(), target, weight, op.how, y[0].view().out::<E>(), lse);
            Ok(())
        }
        if y[0].dtype() == DType::F64 { go::<f64>(self, x, y) } else { go::<f32>(self, x, y) }
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        if x[0].shape()[1] == 0 && y[0].numel() > 0 {
            return Err(Error::shape(format!("cross_entropy: logits {:?}; one class or more is needed", x[0].shape())));
        }
        let kernel = on_gpu::CrossEntropy {
            x: x[0].buffer(),
            target: x[1].buffer(),
            weight: x.get(2).map(|w| w.buffer()),
            lse: y.get(1).map(Tensor::buffer),
            slope: None,
            y: y[0].buffer(),
            ignore: self.how.ignore,
            smoothing: self.how.smoothing,
        };
        kernel.run(gpu)
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let (dy, x, target) = (back.dy(), back.input(0)?, back.input(1)?);
        let weighted = back.inputs() > 2;
        if back.records() {
            let weight = if weighted { Some(back.input(2)?) } else { None };
            return self.recorded(back, x, target, weight, dy);
        }
        let mut operands = vec![x, target, dy];
        let (weighted, lse) = (weighted.then_some(2), back.has_output(1));
        if let Some(weight) = weighted {
            operands.push(back.input(weight)?);
        }
        if lse {
            operands.push(back.output(1)?);
        }
        let dx = back.apply(CrossEntropyBack { how: self.how, lse }, &operands)?;
        back.give(0, dx);
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        let (n, c) = (x[0].shape[0], x[0].shape[1]);
        Some(vec![Exact::build(&[n], |i| {
            let row = &x[0].data[i[0] * c..(i[0] + 1) * c];
            let target = x[1].data[i[0]] as i64;
            if target == self.how.ignore {
                return 0.0;
            }
            let weight = |j: usize| x.get(2).map_or(1.0, |w| w.data[j]);
            let lse = row.iter().map(|v| v.exp()).sum::<f64>().ln();
            let smooth: f64 = (0..c).map(|j| weight(j) * (lse - row[j])).sum::<f64>() / c as f64;
            let own = weight(target as usize) * (lse - row[target as usize]);
            (1.0 - self.how.smoothing) * own + self.how.smoothing * smooth
        })])
    }
}

impl CrossEntropy {
    /// The gradient in ops that have gradients: softmax · (Σ of the weights in play) - the weights in play.
    fn recorded(
        &self,
        back: &mut Back,
        x: super::V,
        target: super::V,
        weight: Option<super::V>,
        dy: super::V,
    ) -> Result<()> {
        let (rows, classes) = (back.input_meta(0).shape()[0], back.input_meta(0).shape()[1]);
        let dtype = back.input_meta(0).dtype;
        let s = self.how.smoothing;
        let numbers: Vec<i64> = (0..classes as i64).collect();
        let numbers = Tensor::from_slice("cross_entropy", &[classes], &numbers, Category::Temporary)?;
        let (numbers, target) = (back.beside(numbers, x)?, back.reshape(target, &[rows, 1])?);
        let own = back.call("eq", &[target, numbers], &[])?;
        let own = back.cast(own, dtype)?;
        let (own, even) = (back.scale(own, 1.0 - s)?, back.number(s / classes as f64, dtype)?);
        let mut play = back.add(own, even)?;
        if let Some(weight) = weight {
            play = back.mul(play, weight)?;
        }
        let ignored = back.number(self.how.ignore as f64, DType::I64)?;
        let known = back.call("ne", &[target, ignored], &[])?;
        let known = back.cast(known, dtype)?;
        let play = back.mul(play, known)?;
        let total = back.sum(play, &[1], true)?;
        let p = back.call("softmax", &[x], &[int(1)])?;
        let share = back.mul(p, total)?;
        let slope = back.sub(share, play)?;
        let dy = back.reshape(dy, &[rows, 1])?;
        let dx = back.mul(slope, dy)?;
        back.give(0, dx);
        Ok(())
    }
}

/// The fused gradient; not recorded.
#[derive(Debug)]
struct CrossEntropyBack {
    how: Entropy,
    /// The last operand is each row's log-sum-exp.
    lse: bool,
}

impl Op for CrossEntropyBack {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        output("cross_entropy", x, x[0].shape(), x[0].dtype)
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        fn go<E: rows::Float>(op: &CrossEntropyBack, x: &[&Tensor], y: &[Tensor]) {
            let (lse, x) = if op.lse { (x.last(), &x[..x.len() - 1]) } else { (None, x) };
            let lse = lse.map(|lse| lse.view().slice::<E>());
            let weight = x.get(3).map(|w| w.view().slice::<E>());
            let (target, dy) = (x[1].view().slice::<i64>(), x[2].view().slice::<E>());
            rows::cross_entropy_back(x[0].view().slice::<E>(), target, weight, lse, dy, op.how, y[0].view().out::<E>());
        }
        if y[0].dtype() == DType::F64 {
            go::<f64>(self, x, y)
        } else {
            go::<f32>(self, x, y)
        }
        Ok(())
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        let (lse, x) = if self.lse { (x.last(), &x[..x.len() - 1]) } else { (None, x) };
        let kernel = on_gpu::CrossEntropy {
            x: x[0].buffer(),
            target: x[1].buffer(),
            weight: x.get(3).map(|w| w.buffer()),
            lse: lse.map(|lse| lse.buffer()),
            slope: Some(x[2].buffer()),
            y: y[0].buffer(),
            ignore: self.how.ignore,
            smoothing: self.how.smoothing,
        };
        kernel.run(gpu)
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }
    fn vjp(&self, _back: &mut Back) -> Result<()> {
        Err(super::fused_was_recorded("cross_entropy"))
    }
    fn reference(&self, _x: &[Exact]) -> Option<Vec<Exact>> {
        None
    }
}
