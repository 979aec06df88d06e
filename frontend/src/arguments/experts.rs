//! Arguments of mixture-of-experts layers: GPT-NeoX's, and DeepSpeed's for experts of limited capacity.

use super::{Argument, flag, float, int, word};

#[rustfmt::skip] // a table: an argument begins a line
pub(super) static ARGUMENTS: &[Argument] = &[
    int("moe_num_experts").number(1.0).between(1.0, 65_536.0).doc("Experts of a layer; with 1 every layer has a plain MLP."),
    int("moe_expert_interval").number(1.0).between(1.0, 100_000.0).doc("Every so many layers one has experts, from the first layer on; a divisor of `num_layers`."),
    int("moe_top_k").number(1.0).between(1.0, 65_536.0).doc("Experts that a token goes to."),
    flag("moe_norm_topk_prob", false).ours().doc("The weights of a token's experts are divided by their sum, as in Mixtral; with `moe_top_k` above 1 and a `topk` router."),
    int("moe_intermediate_size").between(1.0, 1e9).ours().doc("The width of an expert, also of a gated one; without it, that of the MLP of a layer without experts."),
    word("moe_router_type", "sinkhorn", &["sinkhorn", "topk"], &[]).doc("How a router chooses: by probability (`topk`), or in training so that experts get equal shares (`sinkhorn`)."),
    int("moe_sinkhorn_rounds").between(1.0, 256.0).ours().doc("Rounds of a `sinkhorn` router's iteration, made as GPT-NeoX's main branch makes its three; without it, as many as it takes to settle."),
    flag("moe_token_dropping", false).ours().doc("Experts have a limited number of slots; tokens beyond it are passed by."),
    float("moe_train_capacity_factor").number(1.0).between(1e-6, 1e6).ours().doc("Slots of an expert in training, over its share if tokens were spread evenly; with `moe_token_dropping`."),
    float("moe_eval_capacity_factor").number(1.0).between(1e-6, 1e6).ours().doc("The same in evaluation and generation."),
    int("moe_min_capacity").number(4.0).between(1.0, 1_073_741_824.0).ours().doc("Slots that an expert has at least; with `moe_token_dropping`."),
    float("moe_loss_coeff").number(0.0).between(0.0, 1e6).ours().doc("Weight of the load-balancing loss, which a `topk` router may have."),
    int("moe_expert_parallel_size").number(1.0).between(0.0, 65_536.0).ours().doc("Ranks that divide the experts of a layer; each has a micro-batch of its own."),
    flag("enable_expert_tensor_parallelism", false).ours().doc("Tensor ranks divide each expert, instead of all experts."),
    flag("moe_lbl_in_fp32", false).unread().doc("Compute the load-balancing loss in f32, as is done here anyway."),
    float("moe_jitter_eps").not_yet("a router's input is not multiplied by noise", "").doc("A `topk` router's input is multiplied by random numbers from 1 − ε to 1 + ε."),
];
