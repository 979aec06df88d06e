//! Arguments of layers of other kinds than attention and MLP, and of Transformer Engine's layers.

use neoxc_base::codes::{
    gmlp_layers, mamba_layers, rwkv_layers, sparse_attention, transformer_engine,
};

use super::{Argument, dict, flag, int, list, text, word};

const NO_MAMBA: &str = "there are no Mamba layers";
const NO_RWKV: &str = "there are no RWKV layers";
const NO_TE: &str = "Transformer Engine is not used";
const LINEAR: &str = "the mathematics is that of the plain linear layers";
const NO_FP8: &str = "no target computes with fp8";
const BF16: &str = "use `precision: bfloat16`";
const ATTENTION: &str = "use attention layers: leave it out, and `attention_config` too";

#[rustfmt::skip] // a table: an argument begins a line
pub(super) static ARGUMENTS: &[Argument] = &[
    list("attention_config").doc("Kinds of layers with their counts, such as `[[[\"flash\"], \"all\"]]`, or the kind of each layer. `global` and `flash` are one thing here: causal attention over all tokens before. `sliding`, which GPT-NeoX does not have, sees the window of `sliding_window_width`."),
    dict("sparsity_config").waits(&sparse_attention::KIND, "there are no sparse kinds of attention", "use `attention_config: [[[\"flash\"], \"all\"]]`").doc("Blocks of sparse attention."),
    int("gmlp_attn_dim").number(64.0).waits(&gmlp_layers::KIND, "there are no gMLP layers", ATTENTION).doc("Width of the small attention in aMLP layers."),
    flag("mamba_selective_scan_fusion", false).waits(&mamba_layers::KIND, NO_MAMBA, ATTENTION).doc("Use a fused kernel for the selective scan."),
    flag("mamba_causal_conv_fusion", false).waits(&mamba_layers::KIND, NO_MAMBA, ATTENTION).doc("Use a fused kernel for the causal convolution."),
    flag("mamba_inner_func_fusion", false).waits(&mamba_layers::KIND, NO_MAMBA, ATTENTION).doc("Use one fused kernel for the inside of a Mamba layer."),
    flag("mamba_selective_fp32_params", true).waits(&mamba_layers::KIND, NO_MAMBA, ATTENTION).doc("Keep `A_log` and `D` of Mamba layers in f32."),
    flag("mamba_use_bias_in_conv", true).waits(&mamba_layers::KIND, NO_MAMBA, ATTENTION).doc("The convolution of Mamba layers has a bias."),
    flag("mamba_use_bias_in_linears", false).waits(&mamba_layers::KIND, NO_MAMBA, ATTENTION).doc("The projections of Mamba layers have biases."),
    int("dim_att").waits(&rwkv_layers::KIND, NO_RWKV, ATTENTION).doc("Width of the time mix of RWKV layers."),
    int("head_size").waits(&rwkv_layers::KIND, NO_RWKV, "a head has `hidden_size` / `num_attention_heads` dims").doc("Dims of a head of RWKV layers."),
    int("ffn_dim").waits(&rwkv_layers::KIND, NO_RWKV, "`intermediate_size` is the MLP's width").doc("Width of the channel mix of RWKV layers."),
    flag("te_columnparallel", false).idle(LINEAR).doc("Use Transformer Engine's linear layers where output columns are divided."),
    flag("te_rowparallel", false).idle(LINEAR).doc("Use Transformer Engine's linear layers where input rows are divided."),
    flag("te_layernorm_mlp", false).waits(&transformer_engine::KIND, NO_TE, "").doc("Use Transformer Engine's joint layer of norm and MLP."),
    flag("te_mha", false).waits(&transformer_engine::KIND, NO_TE, "").doc("Use Transformer Engine's attention."),
    word("te_fp8_format", "hybrid", &["hybrid"], &["e4m3"]).waits(&transformer_engine::KIND, NO_FP8, BF16).doc("Formats of fp8 values: e4m3 forward and e5m2 backward, or e4m3 for both."),
    flag("te_fp8_wgrad", true).waits(&transformer_engine::KIND, NO_FP8, BF16).doc("Compute gradients of weights in fp8."),
    int("te_fp8_amax_history_len").number(1.0).waits(&transformer_engine::KIND, NO_FP8, BF16).doc("Steps whose largest values set the scale of fp8."),
    text("te_fp8_amax_compute_algo").says("most_recent").waits(&transformer_engine::KIND, NO_FP8, BF16).doc("How the scale of fp8 follows from that history."),
    int("te_fp8_margin").number(0.0).unread().doc("Margin of the scale of fp8, in powers of two."),
    flag("te_fp8_mha", false).waits(&transformer_engine::KIND, NO_FP8, BF16).doc("Compute attention in fp8."),
];
