//! The cost of an op in a program, from its class, its types and its KV cache access: no op is named here, so new ops
//! are covered.

use ir::{DType, OpClass, TensorType};
use plan::{Dim, Work, context};

use crate::{KvUse, Site};

/// The cost of an op. `kv` is the part of the cache that its kernel accesses.
///
/// A matrix product, fused or not, has one multiply-add per element of each constant matrix that is as wide as its
/// first operand, for each row of that. Copies read as many elements as they write. Attention multiplies each query
/// (there are as many as results) with the cached keys, and the scores with the values. Everything else does one
/// operation per element of its results.
/// element of its results.
pub(crate) fn work(site: &Site<'_>, kv: Option<KvUse>) -> Work {
    let (graph, class) = (site.graph, site.graph.op(site.op).class());
    let mut operands = graph.operands(site.op);
    let first = operands.first().and_then(|value| graph.tensor(*value)).cloned();
    let rows = || first.as_ref().and_then(|ty| ty.shape.first().cloned()).unwrap_or_else(|| Dim::from(1));
    let results: Vec<&TensorType> = graph.results(site.op).filter_map(|value| graph.tensor(value)).collect();
    let mut written = sum(results.iter().map(|ty| bytes(ty)));
    let matrices = operands.iter().filter(|value| graph.is_constant(**value)).filter_map(|value| graph.tensor(*value));
    let width = first.as_ref().and_then(TensorType::width);
    let products = sum(matrices.filter(|ty| ty.shape.len() == 2 && ty.width() == width).map(elements));
    let mut flops = match class {
        OpClass::Source | OpClass::Movement => Dim::from(0),
        _ if products != Dim::from(0) => Dim::from(2) * rows() * products,
        _ => sum(results.iter().map(|ty| elements(ty))),
    };
    // an operand that is used twice is read once
    operands.sort();
    operands.dedup();
    let operands = operands.into_iter().filter_map(|value| graph.tensor(value));
    let mut read = match class {
        OpClass::Movement => sum(operands.filter(|ty| ty.dtype == DType::I32).map(bytes)) + written.clone(),
        _ => sum(operands.map(bytes)),
    };
    if let Some((kv, group)) = kv.and_then(|kv| Some((kv, graph.kv().get(kv.group as usize)?))) {
        // a key and a value
        let token = Dim::from(2 * u64::from(group.kv_heads) * u64::from(group.head_dim) * group.dtype.bytes());
        if kv.writes {
            written = written + rows() * token.clone();
        }
        if kv.reads {
            read = read + sequences(site) * Dim::symbol(&context()) * token;
            let queries = results.first().map_or_else(|| Dim::from(0), |ty| elements(ty));
            flops = Dim::from(4) * queries * Dim::symbol(&context());
        }
    }
    let dim = |dim: Dim| site.program.dim(&dim);
    Work { flops: dim(flops), read: dim(read), written: dim(written) }
}

/// The op in text form for a plan: a line of bounded length.
pub(crate) fn line(site: &Site<'_>) -> String {
    let text = ir::text::print_op(site.graph, site.op);
    let mut line: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    line.truncate(line.floor_char_boundary(plan::Launch::MAX_IR_BYTES));
    line
}

/// Number of sequences of a step: rows of the block table, the only matrix of indices.
fn sequences(site: &Site<'_>) -> Dim {
    let operands = site.graph.operands(site.op);
    let mut types = operands.iter().filter_map(|value| site.graph.tensor(*value));
    let table = types.find(|ty| ty.dtype == DType::I32 && ty.shape.len() == 2);
    table.map_or_else(|| Dim::from(1), |ty| ty.shape[0].clone())
}

fn elements(ty: &TensorType) -> Dim {
    ty.shape.iter().fold(Dim::from(1), |product, dim| product * dim.clone())
}

/// 4-bit values are weights, packed in pairs.
fn bytes(ty: &TensorType) -> Dim {
    match ty.dtype {
        DType::I4 => elements(ty).ceil_div(2),
        dtype => elements(ty) * Dim::from(dtype.bytes()),
    }
}

fn sum(dims: impl Iterator<Item = Dim>) -> Dim {
    dims.fold(Dim::from(0), |sum, dim| sum + dim)
}

#[cfg(test)]
mod tests {
    use plan::{Limits, SymbolValues};

    use super::*;
    use crate::ProgramShape;

    /// One op of each kind, with odd sizes, so that no two products agree by chance.
    const GRAPH: &str = "\
graph @g<T in 1..64, B in 1..4>(%tokens: i32[T], %positions: i32[T], %starts: i32[B + 1], %table: i32[B, 2]) {
  kv 0 : bf16 {layers = 1, kv_heads = 2, head_dim = 4, block_tokens = 64}
  %rows = constant @\"rows\" : bf16[100, 24]
  %embedding = embedding %tokens, %rows : bf16[T, 24]
  %x = cast %embedding {to = f32} : f32[T, 24]
  %norm_weight = constant @\"norm_weight\" : bf16[24]
  %normed = rms_norm %x, %norm_weight {eps = 1e-5, to = bf16} : bf16[T, 24]
  %weight = constant @\"weight\" : bf16[40, 24]
  %bias = constant @\"bias\" : bf16[40]
  %qkv = linear %normed, %weight, %bias : bf16[T, 40]
  %frequencies = rope_frequencies {dim = 4, theta = 10000.0, scaling = default} : f32[2]
  %q, %cache = rope_append_kv %qkv, %positions, %starts, %table, %frequencies \
{group = 0, layer = 0, head_dim = 4, heads = 6, kv_heads = 2} : bf16[T, 24], effect
  %mixed = paged_attention %q, %cache, %positions, %starts, %table \
{group = 0, layer = 0, head_dim = 4, kv_heads = 2, scale = 0.5} : bf16[T, 24]
  %sum = add %x, %x : f32[T, 24]
  return %mixed, %sum
}
";

    /// The cost of the op that computes a value, as text: flops, bytes read, bytes written.
    fn work_of(name: &str, program: usize) -> [String; 3] {
        let graph = ir::text::parse(GRAPH, &ir::OpSet::standard()).unwrap().graph;
        let limits =
            Limits { max_batch_size: 2, max_input_len: 64, max_seq_len: 64, max_num_tokens: 64, max_logit_rows: 1 };
        let programs = ProgramShape::all(&graph, &limits);
        let site = Site { graph: &graph, op: graph.find(name).unwrap().op, program: &programs[program] };
        let kv = match graph.op(site.op).mnemonic() {
            "rope_append_kv" => Some(KvUse { group: 0, layer: 0, writes: true, reads: false }),
            "paged_attention" => Some(KvUse { group: 0, layer: 0, writes: false, reads: true }),
            _ => None,
        };
        let work = work(&site, kv);
        [work.flops, work.read, work.written].map(|dim| dim.to_string())
    }

    #[test]
    fn each_class_of_op_has_its_work() {
        for (name, flops, read, written) in [
            // a row of 24 for each token, and its index
            ("embedding", "0", "52 * T", "48 * T"),
            ("x", "24 * T", "48 * T", "96 * T"),
            ("normed", "24 * T", "96 * T + 48", "48 * T"),
            // 2 * 40 * 24 for each row; weight and bias once
            ("qkv", "1920 * T", "48 * T + 2000", "80 * T"),
            // queries of 6 heads, keys and values of 2; three step inputs and the frequencies
            ("q", "24 * T", "84 * T + 12 * B + 12", "80 * T"),
            ("mixed", "96 * T * context", "32 * B * context + 52 * T + 12 * B + 4", "48 * T"),
            ("sum", "24 * T", "96 * T", "96 * T"),
        ] {
            let mixed = work_of(name, 2);
            let wanted = [flops, read, written].map(|text| text.parse::<Dim>().unwrap().to_string());
            assert_eq!(mixed, wanted, "{name}");
        }
    }

    #[test]
    fn a_decode_program_leaves_only_the_context_open() {
        assert_eq!(work_of("mixed", 1), ["192 * context", "64 * context + 132", "96"]);
        let context = SymbolValues::from([(context(), 100)]);
        let flops: Dim = work_of("mixed", 0)[0].parse().unwrap();
        assert_eq!(flops.eval(&context), Ok(4 * 24 * 100));
    }

    #[test]
    fn an_op_is_one_line() {
        let graph = ir::text::parse(GRAPH, &ir::OpSet::standard()).unwrap().graph;
        let limits =
            Limits { max_batch_size: 1, max_input_len: 64, max_seq_len: 64, max_num_tokens: 64, max_logit_rows: 1 };
        let programs = ProgramShape::all(&graph, &limits);
        let site = Site { graph: &graph, op: graph.find("sum").unwrap().op, program: &programs[0] };
        assert_eq!(line(&site), "%sum = add %x, %x : f32[T, 24]");
    }
}
