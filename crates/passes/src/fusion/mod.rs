//! Fusions: several ops become one that reads and writes memory once.

passes! {
    add_layer_norm: FuseAddLayerNorm,
    add_rms_norm: FuseAddRmsNorm,
    elementwise: FuseElementwise,
    linear_activation: FuseLinearActivation,
    linear_add: FuseLinearAdd,
    linear_quantize: FuseLinearQuantize,
    linear_swiglu: FuseLinearSwiglu,
    merge_linears: MergeLinears,
    norm_linear: FuseNormLinear,
    norm_quantize: FuseNormQuantize,
    rope_append_kv: FuseRopeAppendKv,
    rope_attention: FuseRopeAttention,
    silu_mul: FuseSiluMul,
    swiglu: FuseSwiglu,
}
