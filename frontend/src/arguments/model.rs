//! Arguments of the model: sizes, norms, positions, activations, biases, start values, precision.

use super::{Argument, dict, flag, float, int, text, word};

const FUSED: &str = "the compiler decides what is fused; the mathematics is the same";
const INIT: &[&str] = &[
    "normal",
    "scaled_normal",
    "single_residual_scaled_normal",
    "small_init",
    "wang_init",
    "xavier_normal",
    "xavier_uniform",
];
const OTHER_INIT: &[&str] = &["orthogonal", "scaled_orthogonal"];

#[rustfmt::skip] // a table: an argument begins a line
pub(super) static ARGUMENTS: &[Argument] = &[
    word("precision", "", &["fp32", "bfloat16", "fp16"], &[]).unset()
        .doc("Dtype of matmuls and activations. `bfloat16` and `fp16` keep weights, sums of gradients and optimizer state in f32; `fp16` scales the loss as `fp16` says. Without it, `fp16` and `bf16` decide; without those, f32."),
    word("model_family", "", neoxc_config::FAMILIES, &[]).unset().ours()
        .doc("The family of models that this one belongs to: the names of its parameters, and the class of its Hugging Face export. Without it, the model's features decide. A model with a feature that the family has not is refused."),
    int("num_layers").between(1.0, 100_000.0).doc("Layers of the model. Required."),
    int("hidden_size").between(1.0, 1_048_576.0).doc("Width of the residual stream. Required; a multiple of `num_attention_heads` unless `head_dim` is given."),
    int("intermediate_size").between(1.0, 4_194_304.0).doc("Width of the MLP, or three times the width where the activation is a gate: GPT-NeoX takes a third of it. Without it, `expansion_factor` × `hidden_size`."),
    int("mlp_multiple_of").number(1.0).between(1.0, 1_048_576.0).doc("The width of the MLP is rounded up to a multiple of this, as GPT-NeoX rounds that of both projections."),
    float("expansion_factor").between(0.01, 1000.0).doc("Width of the MLP over `hidden_size`, where `intermediate_size` is not given; 4 without either."),
    int("num_attention_heads").between(1.0, 65_536.0).doc("Attention heads of a layer. Required."),
    int("head_dim").between(1.0, 65_536.0).ours().doc("Dims of an attention head; `hidden_size` / `num_attention_heads` without it."),
    int("num_kv_heads").between(1.0, 65_536.0)
        .doc("Heads of keys and values, each shared by a group of query heads (grouped-query attention); a divisor of `num_attention_heads`, which it is without this key."),
    int("seq_length").between(1.0, 16_777_216.0).doc("Tokens of a sequence. Required."),
    int("sliding_window_width").between(0.0, 16_777_216.0)
        .doc("A token sees itself and so many tokens before it, in every layer or, where `attention_config` has layers of the kind `sliding`, in those. Hugging Face's `sliding_window` counts the token itself, and is one more."),
    int("max_position_embeddings").between(1.0, 16_777_216.0).doc("Rows of the table of learned positions; at least `seq_length`, which it is without this key."),
    word("norm", "layernorm", &["layernorm", "rmsnorm", "scalenorm", "non_parametric_layernorm", "te_layernorm", "te_rmsnorm"], &[])
        .doc("Normalisation before attention, before the MLP and before the head. `scalenorm` divides by the Euclidean length and multiplies by one number; `non_parametric_layernorm` is a layer norm without weights. `te_layernorm` and `te_rmsnorm` are other names of the first two."),
    flag("zero_centred_norms", false).ours().doc("Norms multiply by 1 plus their weights, which start at 0 (Gemma's form)."),
    flag("layernorm_fusion", false).idle(FUSED).doc("Use a fused kernel for layer norms."),
    flag("rmsnorm_fusion", false).idle(FUSED).doc("Use a fused kernel for RMS norms."),
    word("norm_place", "before", &["before", "after", "around"], &[]).ours()
        .doc("Where a layer has norms: before attention and the MLP, after each of them (OLMo 2), or both (Gemma)."),
    word("qk_norm", "none", &["none", "head", "width"], &[]).ours()
        .doc("RMS norms of queries and of keys before rotary positions: over the dims of each `head` (Qwen 3), or over the `width` of all heads together (OLMo 2). Needs `norm: rmsnorm`, whose epsilon they have."),
    int("query_pre_attn_scalar").between(1.0, 1_048_576.0).ours()
        .doc("Attention scores are divided by the square root of this, by Hugging Face's name; without it by that of the dims of a head."),
    flag("use_qk_layernorm", false).not_yet("GPT-NeoX normalises queries and keys with one weight for the heads of a tensor rank, which is another model for each number of ranks", "`qk_norm: head` has a norm for queries and one for keys")
        .doc("Normalise queries and keys of each head before attention."),
    float("layernorm_epsilon").number(1e-5).between(0.0, 1.0).doc("Added to the variance in layer norms."),
    float("rms_norm_epsilon").number(1e-8).between(0.0, 1.0).doc("Added to the mean square in RMS norms."),
    float("scalenorm_epsilon").number(1e-8).between(1e-15, 1.0).doc("Least length that a scale norm divides by."),
    word("pos_emb", "learned", &["learned", "rotary", "sinusoidal", "none"], &["rpe", "alibi"])
        .doc("How tokens know their position: a learned table or sines and cosines added to the embedding, rotation of queries and keys, or not at all."),
    int("rpe_num_buckets").number(32.0).not_yet("there are no relative position biases", "use `pos_emb: rotary`")
        .doc("Buckets of distances in relative position biases (`pos_emb: rpe`)."),
    int("rpe_max_distance").number(128.0).not_yet("there are no relative position biases", "use `pos_emb: rotary`")
        .doc("Distance from which all share a bucket (`pos_emb: rpe`)."),
    int("opt_pos_emb_offset").number(0.0).between(0.0, 1_048_576.0).doc("Added to positions before the learned table is read, as OPT models want it (2); the table has so many rows more than a sequence has tokens."),
    float("embedding_scale").number(1.0).between(1e-6, 1e6).ours().doc("What the rows of the embedding are multiplied by before the first layer; the head is not scaled. Gemma's is √hidden_size."),
    flag("no_weight_tying", false).doc("Give the head weights of its own instead of the embedding's."),
    int("num_unique_layers").unread().doc("Layers with weights of their own; the others share them."),
    text("param_sharing_style").says("grouped").unread().doc("Which layers share weights where `num_unique_layers` is given."),
    int("make_vocab_size_divisible_by").number(128.0).between(1.0, 1_048_576.0).doc("The embedding has as many rows as the tokenizer has ids, rounded up to a multiple of this × tensor ranks."),
    word("activation", "gelu", &["gelu", "geglu", "geglu_tanh", "relu", "softsign", "swish", "mish", "silu", "reglu", "swiglu", "bilinear", "glu"], &[])
        .doc("Activation of the MLP. `gelu` is the exact form with the error function; with `bias_gelu_fusion` the tanh form. `geglu_tanh`, which GPT-NeoX does not have, is `geglu` with the tanh form. `swiglu`, `geglu`, `reglu`, `glu` and `bilinear` are gates: the MLP has one more projection, which is multiplied."),
    flag("use_flashattn_swiglu", false).idle(FUSED).doc("Use FlashAttention's kernel for SwiGLU."),
    flag("scaled_upper_triang_masked_softmax_fusion", false).idle(FUSED).doc("Use a fused kernel for the causal softmax."),
    flag("scaled_masked_softmax_fusion", false).idle(FUSED).doc("Use a fused kernel for a masked softmax."),
    flag("bias_gelu_fusion", false).doc("Compute GELU in its tanh form. In GPT-NeoX the fused kernel does so; here only the form is meant."),
    flag("bias_dropout_fusion", false).idle(FUSED).doc("Use a fused kernel for bias, dropout and residual."),
    flag("rope_fusion", false).idle(FUSED).doc("Use a fused kernel for rotary positions."),
    text("fused_kernels_build_path").idle("no kernel is built when a run starts").doc("Folder in which GPT-NeoX builds its CUDA kernels."),
    flag("fp16_lm_cross_entropy", false).idle("the loss is computed in f32, of which nothing is rounded to 16 bits").doc("Compute the loss in 16 bits."),
    float("init_method_std").number(0.02).between(0.0, 100.0).doc("Standard deviation of start values in `normal` and `scaled_normal`."),
    flag("apply_query_key_layer_scaling", false).idle("with these positions the two factors cancel")
        .doc("Divide attention scores by the layer's number, and multiply them again in the softmax."),
    flag("use_cpu_initialization", false).idle("start values are the same on every device and layout").doc("Make start values on the CPU."),
    flag("attention_softmax_in_fp32", false).idle("the softmax is always computed in f32").doc("Compute the softmax of attention in f32."),
    float("rotary_pct").number(1.0).between(0.0, 1.0).doc("The fraction of a head's dims that `pos_emb: rotary` rotates; what it gives is rounded down and must be even."),
    int("rotary_emb_base").number(10_000.0).between(1.0, 1e12).doc("Base of the frequencies of rotary positions."),
    int("sliding_rotary_emb_base").between(1.0, 1e12).ours().doc("Base of the frequencies of rotary positions in layers with a sliding window, where other layers have none (Gemma 3's `rope_local_base_freq`); `rope_scaling` leaves them alone then. Without it, all layers rotate alike."),
    dict("rope_scaling").ours().doc("Scaling of the frequencies of rotary positions for sequences that are longer than those of a first training, by Hugging Face's names."),
    flag("rotary_save_freqs_buffer", false).idle("frequencies are computed, and no checkpoint holds them").doc("Keep the frequencies of rotary positions in checkpoints."),
    word("init_method", "normal", INIT, OTHER_INIT)
        .doc("Start values of embeddings and of matrices that read the residual stream: `small_init` has σ = √(2/(5·hidden_size)), `wang_init` σ = 2/(num_layers·√hidden_size); `xavier_normal` and `xavier_uniform` have σ² = 2/(rows + columns) of the whole matrix, where GPT-NeoX takes those of a rank's part. Orthogonal matrices are made as a whole, and a start value here depends on seed, name and index alone, so that it is the same under every layout."),
    word("output_layer_init_method", "scaled_normal", INIT, OTHER_INIT)
        .doc("Start values of matrices that write into the residual stream: `scaled_normal` has σ = init_method_std/√(2·num_layers), `single_residual_scaled_normal`, for layers with one branch, σ = init_method_std/√num_layers."),
    flag("gpt_j_residual", false).doc("Attention and MLP both read the layer's input, and both are added to it (parallel residual)."),
    flag("gpt_j_tied", false).doc("With `gpt_j_residual`, attention and MLP read the same norm."),
    flag("use_bias_in_norms", true).doc("Norms have a bias."),
    flag("use_bias_in_attn_linear", true).doc("The projections of attention have biases."),
    flag("use_bias_in_attn_dense", true).unset().ours()
        .doc("The projection of attention's output has a bias. Without it, as `use_bias_in_attn_linear` says: Qwen 2 has biases of queries, keys and values only."),
    flag("use_bias_in_mlp", true).doc("The matrices of the MLP have biases."),
    word("output_layer_parallelism", "column", &["column"], &[])
        .idle("the vocabulary is what tensor ranks divide").doc("How tensor ranks divide the head; GPT-NeoX has this one way."),
    float("attention_dropout").number(0.0).below(0.0, 1.0).doc("The fraction of attention weights that training drops."),
    float("hidden_dropout").number(0.0).below(0.0, 1.0).doc("The fraction of the embedding and of both branches' outputs that training drops."),
    int("padded_vocab_size").between(1.0, 67_108_864.0).doc("Rows of the embedding. Without it they are the ids of the tokenizer's file, or of its kind where that has a published size (GPT-2's 50257, GPT-NeoX-20B's 50277), rounded up as `make_vocab_size_divisible_by` says."),
];
