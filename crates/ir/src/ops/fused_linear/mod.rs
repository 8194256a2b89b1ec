//! A linear layer with prologue and epilogue: the result of linear fusions. It is expanded again if a target has no
//! kernel for all of it.

mod pointwise;

use std::fmt;

use plan::{DType, Formula};

use super::layer_norm::layer_norm;
use super::linear::{add_bias, product};
use super::map::evaluate;
use super::norm::rms_norm;
use super::quantize::{check_scales, dequantize, expect_codes, expect_scale_of_all, quantize};
use super::{Add, Dequantize, LayerNorm, Linear, Map, Quantize, RmsNorm, Swiglu, gated};
use crate::{
    AttrValue, Attribute, Graph, HostTensor, KvState, OpClass, OpId, Patch, PatchValue, Semantics, TensorType, Type,
    TypeError, Value, expect_rank, expect_same, op, type_error,
};

pub use pointwise::Pointwise;

op! {
    /// The product `x * weight^T`, with a norm of `x` before it if `prologue` has one, then the `epilogue`, in f32
    /// without rounding in between: `[T, K]` and `[N, K]` to `[T, N]`, or `[T, N / 2]` after `swiglu`. Besides `bias`,
    /// `swiglu` and `add`, the epilogue may have elementwise functions such as `gelu_tanh` or `scale(0.5)`. Operands
    /// listed in `quantized` mean `(q - zero_point) * scale`, as in `dequantize`. The further operands are
    /// those of `prologue`, `quantized` and `epilogue`, in order: the weight of `rms_norm`, or weight and bias of
    /// `layer_norm`; the scales of `x` and `weight`, the zero points of the weight; the bias, the residual. The result
    /// has the dtype of `x`, or `to`; with `quantize_to` it is quantized to that dtype as by `quantize`, with a scale
    /// `[1, 1]` that is the last operand.
    pub struct FusedLinear = "fused_linear" (x, weight; more..) {
        prologue: Option<Prologue>, quantized: Quantized, epilogue: Epilogues, to: Option<DType>,
        quantize_to: Option<DType>
    }
}

/// The prologue: `rms_norm(eps, to)` or `layer_norm(eps, to)` of `x`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prologue {
    /// Which norm.
    pub norm: Norm,
    /// Added to the mean square.
    pub eps: f32,
    /// The dtype in which the product reads it.
    pub to: DType,
}

/// A norm before a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// `rms_norm`: has a weight.
    Rms,
    /// `layer_norm`: has a weight and a bias.
    Layer,
}

impl Norm {
    /// The name in text: that of the op.
    pub fn name(self) -> &'static str {
        match self {
            Norm::Rms => "rms_norm",
            Norm::Layer => "layer_norm",
        }
    }

    fn operands(self) -> usize {
        match self {
            Norm::Rms => 1,
            Norm::Layer => 2,
        }
    }
}

/// Which operands of the product are quantized: `x`, `weight`, and whether the weight has a `zero_point`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quantized {
    /// The activations.
    pub x: bool,
    /// The weight.
    pub weight: bool,
    /// The weight has a zero point per scale.
    pub zero_point: bool,
}

/// A part of the epilogue.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Epilogue {
    /// Adds a bias `[N]` to each row.
    Bias,
    /// `silu(left half) * right half` of each row.
    Swiglu,
    /// Adds a residual of the result's type.
    Add,
    /// An elementwise function.
    Apply(Pointwise),
}

impl Epilogue {
    fn takes_operand(self) -> bool {
        matches!(self, Epilogue::Bias | Epilogue::Add)
    }

    fn to_value(self) -> AttrValue {
        let word = |name: &str| AttrValue::Word(name.to_owned());
        match self {
            Epilogue::Bias => word("bias"),
            Epilogue::Swiglu => word("swiglu"),
            Epilogue::Add => word("add"),
            Epilogue::Apply(function) => function.to_value(),
        }
    }

    fn from_value(value: &AttrValue) -> Option<Epilogue> {
        let words = [Epilogue::Bias, Epilogue::Swiglu, Epilogue::Add];
        let word = words.into_iter().find(|epilogue| epilogue.to_value() == *value);
        word.or_else(|| Pointwise::from_value(value).map(Epilogue::Apply))
    }
}

impl fmt::Display for Epilogue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_value().fmt(f)
    }
}

/// The epilogue, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Epilogues(pub Vec<Epilogue>);

impl Attribute for Prologue {
    const EXPECTED: &'static str = "`rms_norm(EPS, DTYPE)` or `layer_norm(EPS, DTYPE)`";

    fn to_value(&self) -> AttrValue {
        AttrValue::Call(self.norm.name().to_owned(), vec![self.eps.to_value(), self.to.to_value()])
    }

    fn from_value(value: &AttrValue) -> Option<Prologue> {
        let AttrValue::Call(name, args) = value else { return None };
        let norm = [Norm::Rms, Norm::Layer].into_iter().find(|norm| norm.name() == name)?;
        let [eps, to] = args.as_slice() else { return None };
        Some(Prologue { norm, eps: f32::from_value(eps)?, to: DType::from_value(to)? })
    }
}

impl Attribute for Epilogues {
    const EXPECTED: &'static str =
        "a list of `bias`, `swiglu`, `add`, and elementwise functions such as `gelu_tanh` or `scale(0.5)`";

    fn to_value(&self) -> AttrValue {
        AttrValue::List(self.0.iter().map(|epilogue| epilogue.to_value()).collect())
    }

    fn from_value(value: &AttrValue) -> Option<Epilogues> {
        let AttrValue::List(items) = value else { return None };
        items.iter().map(Epilogue::from_value).collect::<Option<Vec<Epilogue>>>().map(Epilogues)
    }

    fn absent() -> Option<Epilogues> {
        Some(Epilogues::default())
    }

    fn is_absent(&self) -> bool {
        self.0.is_empty()
    }
}

impl Attribute for Quantized {
    const EXPECTED: &'static str = "a list of `x`, `weight` and `zero_point`";

    fn to_value(&self) -> AttrValue {
        let words = [("x", self.x), ("weight", self.weight), ("zero_point", self.zero_point)];
        AttrValue::List(words.iter().filter(|word| word.1).map(|word| AttrValue::Word(word.0.to_owned())).collect())
    }

    fn from_value(value: &AttrValue) -> Option<Quantized> {
        let AttrValue::List(items) = value else { return None };
        let mut quantized = Quantized::default();
        for item in items {
            match item {
                AttrValue::Word(word) if word == "x" => quantized.x = true,
                AttrValue::Word(word) if word == "weight" => quantized.weight = true,
                AttrValue::Word(word) if word == "zero_point" => quantized.zero_point = true,
                _ => return None,
            }
        }
        Some(quantized)
    }

    fn absent() -> Option<Quantized> {
        Some(Quantized::default())
    }

    fn is_absent(&self) -> bool {
        *self == Quantized::default()
    }
}

/// The scales and zero points of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scales<T> {
    /// The scales of the activations, if those are quantized.
    pub x: Option<T>,
    /// The scales of the weight, if it is quantized.
    pub weight: Option<T>,
    /// Zero points of the weight.
    pub zero_point: Option<T>,
}

impl<T> Default for Scales<T> {
    fn default() -> Scales<T> {
        Scales { x: None, weight: None, zero_point: None }
    }
}

impl<T: Copy> Scales<T> {
    /// Which of them exist.
    pub fn quantized(&self) -> Quantized {
        Quantized { x: self.x.is_some(), weight: self.weight.is_some(), zero_point: self.zero_point.is_some() }
    }

    /// The existing ones, in operand order.
    pub fn iter(&self) -> impl Iterator<Item = T> + use<T> {
        [self.x, self.weight, self.zero_point].into_iter().flatten()
    }
}

/// The operands after the weight.
struct More<T> {
    /// Those of the prologue.
    prologue: Vec<T>,
    scales: Scales<T>,
    /// The epilogue, with its operands.
    epilogues: Vec<(Epilogue, Option<T>)>,
    /// The scale of a quantized result.
    scale: Option<T>,
}

impl FusedLinear {
    /// The operands after the weight; `None` if their number is wrong.
    fn more<T: Copy>(&self, operands: &[T]) -> Option<More<T>> {
        let mut more = operands.get(2..)?.iter().copied();
        let wanted = self.prologue.map_or(0, |prologue| prologue.norm.operands());
        let prologue: Vec<T> = more.by_ref().take(wanted).collect();
        (prologue.len() == wanted).then_some(())?;
        let mut scales = Scales::default();
        let places = [&mut scales.x, &mut scales.weight, &mut scales.zero_point];
        for (place, taken) in
            places.into_iter().zip([self.quantized.x, self.quantized.weight, self.quantized.zero_point])
        {
            *place = if taken { Some(more.next()?) } else { None };
        }
        let mut epilogues = Vec::new();
        for epilogue in &self.epilogue.0 {
            epilogues.push((*epilogue, if epilogue.takes_operand() { Some(more.next()?) } else { None }));
        }
        let scale = if self.quantize_to.is_some() { Some(more.next()?) } else { None };
        more.next().is_none().then_some(More { prologue, scales, epilogues, scale })
    }
}

impl Semantics for FusedLinear {
    const CLASS: OpClass = OpClass::Matmul;

    fn infer(&self, operands: &[&Type]) -> Result<Vec<Type>, TypeError> {
        let plain = self.prologue.is_none() && self.quantized == Quantized::default() && self.quantize_to.is_none();
        if plain && matches!(self.epilogue.0.as_slice(), [] | [Epilogue::Bias]) {
            return type_error(
                "expected a prologue, an epilogue or quantized operands, without which it is a `linear`",
            );
        }
        let expected = 2
            + self.prologue.map_or(0, |prologue| prologue.norm.operands())
            + [self.quantized.x, self.quantized.weight, self.quantized.zero_point]
                .into_iter()
                .filter(|taken| *taken)
                .count()
            + self.epilogue.0.iter().filter(|epilogue| epilogue.takes_operand()).count()
            + usize::from(self.quantize_to.is_some());
        let found = operands.len();
        let Some(More { prologue, scales, epilogues, scale }) = self.more(operands) else {
            return type_error(format!("expected {expected} operands, found {found}"));
        };
        let x = operands[0].tensor()?;
        if let Some(Prologue { norm, eps, to }) = self.prologue {
            let to = (to != x.dtype).then_some(to);
            let operands = [&operands[..1], &prologue].concat();
            match norm {
                Norm::Rms => RmsNorm { eps, head_dim: None, to }.infer(&operands)?,
                Norm::Layer => LayerNorm { eps, to }.infer(&operands)?,
            };
        }
        let mut ty = self.product(operands[0].tensor()?, operands[1].tensor()?, scales)?;
        for (epilogue, operand) in epilogues {
            ty = epilogue.infer(ty, operand)?;
        }
        if let Some((to, scale)) = self.quantize_to.zip(scale) {
            expect_scale_of_all(scale.tensor()?)?;
            return Quantize { to }.infer(&[&ty.into(), scale]);
        }
        Ok(vec![ty.into()])
    }

    fn eval(&self, operands: &[&HostTensor], _: &mut KvState) -> Result<Vec<HostTensor>, String> {
        let More { prologue, scales, epilogues, scale } = self.more(operands).ok_or("wrong number of operands")?;
        let normed = match (self.prologue, prologue.as_slice()) {
            (Some(Prologue { norm: Norm::Rms, eps, to }), [weight]) => {
                Some(rms_norm(operands[0], weight, eps).rounded(to))
            }
            (Some(Prologue { norm: Norm::Layer, eps, to }), more) => {
                Some(layer_norm(operands[0], more, eps).rounded(to))
            }
            _ => None,
        };
        let x = scales.x.map(|scale| dequantize(&[operands[0], scale]));
        let weight = scales.weight.map(|scale| match scales.zero_point {
            Some(zero) => dequantize(&[operands[1], scale, zero]),
            None => dequantize(&[operands[1], scale]),
        });
        let x = x.as_ref().or(normed.as_ref()).unwrap_or(operands[0]);
        let product = product(x, weight.as_ref().unwrap_or(operands[1]));
        let value = epilogues.into_iter().fold(product, |value, (epilogue, operand)| epilogue.eval(value, operand));
        Ok(vec![match self.quantize_to.zip(scale) {
            Some((to, scale)) => quantize(&[&value, scale], to),
            None => value,
        }])
    }

    fn expand(&self, graph: &Graph, id: OpId) -> Option<Patch> {
        let mut parts = LinearParts::of(graph, id)?;
        let mut patch = Patch::new();
        if let Some((Prologue { norm, eps, to }, more)) = parts.prologue.take() {
            let to = (graph.tensor(parts.x)?.dtype != to).then_some(to);
            let operands: Vec<PatchValue> = [parts.x].into_iter().chain(more).map(PatchValue::from).collect();
            let normed = match norm {
                Norm::Rms => patch.add(graph, RmsNorm { eps, head_dim: None, to }, &operands),
                Norm::Layer => patch.add(graph, LayerNorm { eps, to }, &operands),
            };
            let linear = parts.add(graph, &mut patch, normed)?;
            patch.replace(graph.result(id), linear);
            return Some(patch);
        }
        if let Some((to, scale)) = parts.quantize_to.take() {
            let linear = parts.add(graph, &mut patch, parts.x.into())?;
            let quantized = patch.add(graph, Quantize { to }, &[linear, scale.into()]);
            patch.replace(graph.result(id), quantized);
            return Some(patch);
        }
        if matches!(parts.epilogues().as_slice(), [] | [Epilogue::Bias]) {
            let linear = parts.widened(graph, &mut patch)?;
            patch.replace(graph.result(id), linear);
            return Some(patch);
        }
        let functions = parts.pop_functions();
        if let Some(f) = Pointwise::formula(&functions, parts.result) {
            let linear = parts.add(graph, &mut patch, parts.x.into())?;
            let region = patch.add(graph, Map { f }, &[linear]);
            patch.replace(graph.result(id), region);
            return Some(patch);
        }
        let (epilogue, operand) = parts.epilogue.pop()?;
        let linear = parts.add(graph, &mut patch, parts.x.into())?;
        let last = match (epilogue, operand) {
            (Epilogue::Add, Some(residual)) => patch.add(graph, Add {}, &[residual.into(), linear]),
            (Epilogue::Swiglu, _) => patch.add(graph, Swiglu {}, &[linear]),
            // a bias directly after the product is `linear`'s; elsewhere it has no op of its own
            _ => return None,
        };
        patch.replace(graph.result(id), last);
        Some(patch)
    }
}

impl FusedLinear {
    /// The type of the product, whose operands may be quantized.
    fn product(&self, x: &TensorType, weight: &TensorType, scales: Scales<&Type>) -> Result<TensorType, TypeError> {
        let zero = scales.zero_point.map(|zero| zero.tensor()).transpose()?;
        let mut types = Vec::new();
        for (name, ty, scale, zero) in [("x", x, scales.x, None), ("weight", weight, scales.weight, zero)] {
            types.push(match scale {
                Some(scale) => {
                    expect_codes(name, ty.dtype)?;
                    check_scales(ty, scale.tensor()?, zero)?;
                    Type::from(TensorType { dtype: DType::F32, ..ty.clone() })
                }
                None => ty.clone().into(),
            });
        }
        if scales.zero_point.is_some() && scales.weight.is_none() {
            return type_error("expected scales with the zero points of the weight");
        }
        if scales.x.is_some() && (self.prologue.is_some() || self.to.is_none()) {
            return type_error("expected `to`, and no prologue, since x is quantized");
        }
        let product = Linear { to: None }.infer(&[&types[0], &types[1]])?;
        TensorType { dtype: x.dtype, ..product[0].tensor()?.clone() }.rounded(self.to)
    }
}

impl Epilogue {
    fn infer(self, ty: TensorType, operand: Option<&Type>) -> Result<TensorType, TypeError> {
        match (self, operand) {
            (Epilogue::Bias, Some(bias)) => {
                let bias = bias.tensor()?;
                expect_rank("bias", bias, 1)?;
                expect_same("the widths of the product and bias", &ty.shape[1], &bias.shape[0])?;
                match bias.dtype.is_float() {
                    true => Ok(ty),
                    false => type_error("expected a floating-point bias"),
                }
            }
            (Epilogue::Add, Some(residual)) => {
                expect_same("the types of the result and the residual", &ty, residual.tensor()?)?;
                Ok(ty)
            }
            (Epilogue::Swiglu, _) => Ok(Swiglu {}.infer(&[&ty.into()])?[0].tensor()?.clone()),
            (Epilogue::Apply(_), _) => Ok(ty),
            (_, None) => type_error(format!("expected an operand for `{self}`")),
        }
    }

    fn eval(self, value: HostTensor, operand: Option<&HostTensor>) -> HostTensor {
        match (self, operand) {
            (Epilogue::Bias, Some(bias)) => add_bias(&value, bias),
            (Epilogue::Add, Some(residual)) => value.zip(residual, |a, b| a + b),
            (Epilogue::Swiglu, _) => gated::swiglu(&value).pop().unwrap_or(value),
            (Epilogue::Apply(function), _) => match Pointwise::formula(&[function], DType::F32) {
                Some(formula) => evaluate(&formula, &[&value]).pop().unwrap_or(value),
                None => value,
            },
            (_, None) => value,
        }
    }
}

/// An epilogue in normal form: a bias, elementwise functions, a residual, in this order.
#[derive(Clone, Debug, PartialEq)]
pub struct OrderedEpilogue {
    /// The bias.
    pub bias: Option<Value>,
    /// The functions: an elementwise formula, in f32.
    pub formula: Option<Formula>,
    /// The residual.
    pub residual: Option<Value>,
}

/// The parts of a `linear` or `fused_linear`, for rules and kernels.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearParts {
    /// The prologue, with its operands.
    pub prologue: Option<(Prologue, Vec<Value>)>,
    /// The activations.
    pub x: Value,
    /// The weight.
    pub weight: Value,
    /// Scales and zero points of quantized operands.
    pub scales: Scales<Value>,
    /// The epilogue, with its operands.
    pub epilogue: Vec<(Epilogue, Option<Value>)>,
    /// The dtype of the result, before quantization if it is quantized.
    pub result: DType,
    /// The dtype of a quantized result, with its scale.
    pub quantize_to: Option<(DType, Value)>,
}

impl LinearParts {
    /// The parts of an op; `None` if it is neither.
    pub fn of(graph: &Graph, id: OpId) -> Option<LinearParts> {
        let operands = graph.operands(id);
        let (x, weight) = (*operands.first()?, *operands.get(1)?);
        let result = graph.tensor(graph.result(id))?.dtype;
        if graph.cast::<Linear>(id).is_some() {
            let epilogue = operands.get(2).map(|bias| (Epilogue::Bias, Some(*bias))).into_iter().collect();
            let scales = Scales::default();
            return Some(LinearParts { prologue: None, x, weight, scales, epilogue, result, quantize_to: None });
        }
        let fused = graph.cast::<FusedLinear>(id)?;
        let More { prologue: more, scales, epilogues: epilogue, scale } = fused.more(&operands)?;
        let prologue = fused.prologue.map(|prologue| (prologue, more));
        let quantize_to = fused.quantize_to.zip(scale);
        let result = if quantize_to.is_some() { fused.to.unwrap_or(graph.tensor(x)?.dtype) } else { result };
        Some(LinearParts { prologue, x, weight, scales, epilogue, result, quantize_to })
    }

    /// The epilogue, in order.
    pub fn epilogues(&self) -> Vec<Epilogue> {
        self.epilogue.iter().map(|(epilogue, _)| *epilogue).collect()
    }

    /// The operand of an epilogue part, if it exists.
    pub fn operand(&self, wanted: Epilogue) -> Option<Value> {
        self.epilogue.iter().find(|(epilogue, _)| *epilogue == wanted)?.1
    }

    /// Removes the elementwise functions at the end: together they are one region.
    fn pop_functions(&mut self) -> Vec<Pointwise> {
        let mut functions = Vec::new();
        while let Some((Epilogue::Apply(function), _)) = self.epilogue.last() {
            if functions.len() == Formula::MAX_STEPS {
                break;
            }
            functions.insert(0, *function);
            self.epilogue.pop();
        }
        functions
    }

    /// The epilogue in the normal form of kernels; `None` if it has another form or order.
    pub fn in_order(&self) -> Option<OrderedEpilogue> {
        let mut parts = self.epilogue.iter().peekable();
        let bias = parts.next_if(|(epilogue, _)| *epilogue == Epilogue::Bias).and_then(|(_, bias)| *bias);
        let mut functions = Vec::new();
        while let Some((Epilogue::Apply(function), _)) = parts.peek() {
            functions.push(*function);
            parts.next();
        }
        let residual = parts.next_if(|(epilogue, _)| *epilogue == Epilogue::Add).and_then(|(_, residual)| *residual);
        let formula = Pointwise::formula(&functions, DType::F32);
        // too many functions for one formula
        let whole = parts.next().is_none() && formula.is_some() != functions.is_empty();
        whole.then_some(OrderedEpilogue { bias, formula, residual })
    }

    /// The dtype in which the product reads `x`.
    pub fn product_dtype(&self, graph: &Graph) -> Option<DType> {
        match self.prologue {
            Some((Prologue { to, .. }, _)) => Some(to),
            None => Some(graph.tensor(self.x)?.dtype),
        }
    }

    /// Adds the linear layer over dequantized operands, in f32, to a patch.
    fn widened(&self, graph: &Graph, patch: &mut Patch) -> Option<PatchValue> {
        let mut dequantized = |value: Value, scales: &[Option<Value>]| match scales {
            [None, ..] => PatchValue::from(value),
            scales => {
                let operands = std::iter::once(value).chain(scales.iter().copied().flatten());
                patch.add(graph, Dequantize { to: DType::F32 }, &operands.map(PatchValue::from).collect::<Vec<_>>())
            }
        };
        let x = dequantized(self.x, &[self.scales.x]);
        let weight = dequantized(self.weight, &[self.scales.weight, self.scales.zero_point]);
        let to = (patch.tensor(graph, x)?.dtype != self.result).then_some(self.result);
        let bias = self.operand(Epilogue::Bias).map(PatchValue::from);
        Some(patch.add(graph, Linear { to }, &[Some(x), Some(weight), bias].into_iter().flatten().collect::<Vec<_>>()))
    }

    /// Adds the op of all parts to a patch, over an `x` that may be new: a `linear` if that is enough.
    pub fn add(&self, graph: &Graph, patch: &mut Patch, x: PatchValue) -> Option<PatchValue> {
        let x_dtype = patch.tensor(graph, x)?.dtype;
        let to = (x_dtype != self.result).then_some(self.result);
        let mut operands = vec![x, self.weight.into()];
        operands.extend(self.prologue.iter().flat_map(|(_, more)| more).copied().map(PatchValue::from));
        operands.extend(self.scales.iter().map(PatchValue::from));
        operands.extend(self.epilogue.iter().filter_map(|(_, operand)| operand.map(PatchValue::from)));
        operands.extend(self.quantize_to.map(|(_, scale)| PatchValue::from(scale)));
        let (epilogue, quantized) = (self.epilogues(), self.scales.quantized());
        let plain = self.prologue.is_none() && quantized == Quantized::default() && self.quantize_to.is_none();
        if plain && matches!(epilogue.as_slice(), [] | [Epilogue::Bias]) {
            return Some(patch.add(graph, Linear { to }, &operands));
        }
        let prologue = self.prologue.as_ref().map(|(prologue, _)| *prologue);
        let quantize_to = self.quantize_to.map(|(dtype, _)| dtype);
        let fused = FusedLinear { prologue, quantized, epilogue: Epilogues(epilogue), to, quantize_to };
        Some(patch.add(graph, fused, &operands))
    }
}
