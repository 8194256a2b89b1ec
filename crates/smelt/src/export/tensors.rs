//! The constants after passes, under their names in the checkpoint.

use std::collections::{BTreeMap, BTreeSet};

use codegen::Recipe;
use frontend::{EMBEDDING, HEAD};
use ir::ops::{Cast, Constant, Epilogue, Linear, LinearParts, Quantize, QuantizeBlocks, RopeFrequencies};
use ir::scale_block;
use ir::{Graph, OpId, TensorType, Value, WeightSource};
use plan::DType;

use super::result_name;
use super::scheme::{Inputs, Scales, Scheme, Schemes};
use crate::Error;

/// The tensor that an op of the imported graph reads: by the name of its result, and the operand index.
pub(super) struct Origins(BTreeMap<(String, usize), String>);

impl Origins {
    pub fn of(graph: &Graph) -> Origins {
        let mut origins = BTreeMap::new();
        for id in graph.ops() {
            for (place, operand) in graph.operands(id).into_iter().enumerate() {
                if let Some(constant) = constant(graph, operand) {
                    origins.insert((result_name(graph, id).to_owned(), place), constant.key.clone());
                }
            }
        }
        Origins(origins)
    }

    fn key(&self, graph: &Graph, id: OpId, place: usize) -> Result<&str, Error> {
        let name = result_name(graph, id);
        self.0
            .get(&(name.to_owned(), place))
            .map(String::as_str)
            .ok_or_else(|| Error::Unsupported(format!("`{name}` reads a constant that no checkpoint tensor holds")))
    }

    /// The module whose weight a linear layer reads. A tied table belongs to lm_head.
    fn module(&self, graph: &Graph, id: OpId) -> Result<String, Error> {
        let module = self.key(graph, id, 1)?.trim_end_matches(".weight");
        Ok(if module == EMBEDDING { HEAD } else { module }.to_owned())
    }
}

/// The checkpoint tensor of a value, perhaps in another dtype.
fn constant(graph: &Graph, value: Value) -> Option<&Constant> {
    let value = match graph.producer::<Cast>(value) {
        Some((cast, _)) => *graph.operands(cast).first()?,
        None => value,
    };
    graph.producer::<Constant>(value).map(|(_, constant)| constant)
}

/// A tensor to be written.
pub(super) struct Tensor {
    pub name: String,
    /// As safetensors names it.
    pub dtype: &'static str,
    pub shape: Vec<u64>,
    pub content: Content,
}

/// The source of a tensor's bytes.
pub(super) enum Content {
    /// A recipe, and bits to flip in each byte: packed values are unsigned.
    Recipe { recipe: Recipe, flip: u8 },
    /// Small literal bytes.
    Bytes(Vec<u8>),
}

impl Content {
    pub fn bytes(&self) -> u64 {
        match self {
            Content::Recipe { recipe, .. } => recipe.elements() * recipe.dtype().bytes(),
            Content::Bytes(bytes) => bytes.len() as u64,
        }
    }
}

/// All tensors of an exported model.
pub(super) struct Exported {
    pub tensors: Vec<Tensor>,
    pub schemes: Schemes,
    /// Whether lm_head became a tensor of its own.
    pub untied: bool,
}

impl Exported {
    /// `tied`: whether lm_head is the embedding table.
    pub fn of(graph: &Graph, origins: &Origins, tied: bool, weights: &dyn WeightSource) -> Result<Exported, Error> {
        let mut exported = Exported { tensors: Vec::new(), schemes: Schemes::default(), untied: false };
        let mut written: BTreeSet<String> = BTreeSet::new();
        for id in graph.ops().filter(|id| !graph.is_constant(graph.result(*id))) {
            let parts = LinearParts::of(graph, id);
            let mut tensors = match &parts {
                Some(parts) if parts.scales.weight.is_some() => {
                    let module = origins.module(graph, id)?;
                    exported.untied |= tied && module == HEAD;
                    let scheme = scheme(graph, parts).map_err(|reason| {
                        Error::Unsupported(format!(
                            "`{module}`: {reason}: expected another format for it in `precision.map`, or a line `{module} \
                             none`"
                        ))
                    })?;
                    exported.schemes.add(&module, Some(scheme));
                    let mut tensors = coded(graph, parts, &module, scheme, weights)?;
                    if let Some(bias) = parts.operand(Epilogue::Bias) {
                        tensors.push(plain(graph, bias, origins.key(graph, id, 2)?, weights)?);
                    }
                    tensors
                }
                // its scale belongs to the linear layer
                _ if graph.cast::<Quantize>(id).is_some() => Vec::new(),
                _ => {
                    if graph.cast::<Linear>(id).is_some() {
                        exported.schemes.add(&origins.module(graph, id)?, None);
                    }
                    let constants = graph.operands(id).into_iter().enumerate();
                    let constants = constants.filter(|(_, value)| {
                        graph.is_constant(*value) && graph.producer::<RopeFrequencies>(*value).is_none()
                    });
                    let tensors =
                        constants.map(|(place, value)| plain(graph, value, origins.key(graph, id, place)?, weights));
                    tensors.collect::<Result<Vec<_>, _>>()?
                }
            };
            // a table that is lm_head, too
            tensors.retain(|tensor| written.insert(tensor.name.clone()));
            exported.tensors.append(&mut tensors);
        }
        Ok(exported)
    }
}

/// An unquantized tensor; one that was only cast is written as it was read.
fn plain(graph: &Graph, value: Value, name: &str, weights: &dyn WeightSource) -> Result<Tensor, Error> {
    let stored = graph.producer::<Cast>(value).and_then(|(cast, _)| {
        let inner = *graph.operands(cast).first()?;
        graph.producer::<Constant>(inner).map(|_| inner)
    });
    let value = stored.unwrap_or(value);
    let recipe = recipe(graph, value, weights)?;
    let dtype = match recipe.dtype() {
        DType::F16 => "F16",
        DType::BF16 => "BF16",
        _ => "F32",
    };
    let shape = graph.tensor(value).and_then(TensorType::const_shape).unwrap_or_default();
    Ok(Tensor { name: name.to_owned(), dtype, shape, content: Content::Recipe { recipe, flip: 0 } })
}

fn recipe(graph: &Graph, value: Value, weights: &dyn WeightSource) -> Result<Recipe, Error> {
    Recipe::of(graph, value, weights).map_err(|error| codegen::CodegenError::Constant(error).into())
}

fn matrix(graph: &Graph, value: Value) -> Option<[u64; 2]> {
    graph.tensor(value)?.const_shape()?.try_into().ok()
}

/// How a quantized linear layer is stored; an error if compressed-tensors has no scheme for it.
fn scheme(graph: &Graph, parts: &LinearParts) -> Result<Scheme, String> {
    let other = || "compressed-tensors has no scheme for its format".to_owned();
    let matrix = |value: Option<Value>| value.and_then(|value| matrix(graph, value)).ok_or_else(other);
    let ([rows, cols], [scale_rows, scale_cols]) = (matrix(Some(parts.weight))?, matrix(parts.scales.weight)?);
    let dtype = |value: Value| graph.tensor(value).map(|ty| ty.dtype);
    let codes = dtype(parts.weight).ok_or_else(other)?;
    let float = codes == DType::F8E4M3;
    let whole = |group: u64| match cols % group {
        0 => Ok(group),
        _ => Err(format!("its {cols} columns are not a multiple of {group}, as compressed-tensors requires")),
    };
    let quantize = graph.producer::<QuantizeBlocks>(parts.weight).map(|(_, quantize)| quantize);
    let scales = match quantize.and_then(|quantize| Some([quantize.rows?.into(), quantize.cols?.into()])) {
        Some(block) => Scales::Block(block),
        None if scale_rows != rows => return Err(other()),
        None if scale_cols == 1 => Scales::Row,
        None => Scales::Group(whole(scale_block(cols, scale_cols).ok_or_else(other)?)?),
    };
    let inputs = match parts.scales.x {
        None => None,
        Some(_) if dtype(parts.x) != Some(codes) => return Err(other()),
        Some(_) => Some(match graph.producer::<QuantizeBlocks>(parts.x) {
            Some((_, quantize)) => match quantize.cols.map(u64::from).filter(|group| *group < cols) {
                None => Inputs::Token,
                Some(group) => Inputs::Group(whole(group)?),
            },
            None => graph.producer::<Quantize>(parts.x).map(|_| Inputs::Static).ok_or_else(other)?,
        }),
    };
    let scheme = Scheme { bits: if codes == DType::I4 { 4 } else { 8 }, float, scales, inputs };
    let per_word = 32 / u64::from(scheme.bits);
    if scheme.packed() && cols % per_word != 0 {
        let bits = scheme.bits;
        return Err(format!(
            "its rows of {cols} values of {bits} bits are not whole 32-bit words, as compressed-tensors requires"
        ));
    }
    let writable = parts.scales.zero_point.is_none() && (scheme.packed() || scheme.bits == 8);
    writable.then_some(scheme).ok_or_else(other)
}

/// The tensors of a quantized linear layer.
fn coded(
    graph: &Graph,
    parts: &LinearParts,
    module: &str,
    scheme: Scheme,
    weights: &dyn WeightSource,
) -> Result<Vec<Tensor>, Error> {
    let shape = |value: Value| matrix(graph, value).unwrap_or_default();
    let tensor = |suffix: &str, dtype, shape: &[u64], content| Tensor {
        name: format!("{module}.{suffix}"),
        dtype,
        shape: shape.to_vec(),
        content,
    };
    let numbers = |value: Value| -> Result<Content, Error> {
        let scales = recipe(graph, value, weights)?;
        let scales = if scales.dtype() == DType::F32 { scales } else { Recipe::Cast(Box::new(scales), DType::F32) };
        Ok(Content::Recipe { recipe: scales, flip: 0 })
    };
    let ([rows, cols], codes) = (shape(parts.weight), recipe(graph, parts.weight, weights)?);
    let mut tensors = if scheme.packed() {
        let words = [rows, cols * u64::from(scheme.bits) / 32];
        // packed values are unsigned: -8 is stored as 0
        let (recipe, flip) = if scheme.bits == 4 { (Recipe::Packed(Box::new(codes)), 0x88) } else { (codes, 0x80) };
        let sizes = [rows, cols].into_iter().flat_map(|size| (size as i64).to_le_bytes()).collect();
        vec![
            tensor("weight_packed", "I32", &words, Content::Recipe { recipe, flip }),
            tensor("weight_shape", "I64", &[2], Content::Bytes(sizes)),
        ]
    } else {
        let dtype = if scheme.float { "F8_E4M3" } else { "I8" };
        vec![tensor("weight", dtype, &[rows, cols], Content::Recipe { recipe: codes, flip: 0 })]
    };
    if let Some(scale) = parts.scales.weight {
        tensors.push(tensor("weight_scale", "F32", &shape(scale), numbers(scale)?));
    }
    if let (Some(Inputs::Static), Some(scale)) = (scheme.inputs, parts.scales.x) {
        tensors.push(tensor("input_scale", "F32", &[1], numbers(scale)?));
    }
    Ok(tensors)
}
