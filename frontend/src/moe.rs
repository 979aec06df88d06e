//! Mixture-of-experts arguments: GPT-NeoX's, and DeepSpeed's for experts of limited capacity.

use neoxc_base::codes::without_effect;

use crate::config::{Capacity, Moe, Router};
use crate::reader::Reader;
use crate::yaml::Value;

/// Keys that only say something of experts.
const KEYS: [&str; 11] = [
    "moe_expert_interval",
    "moe_top_k",
    "moe_router_type",
    "moe_token_dropping",
    "moe_train_capacity_factor",
    "moe_eval_capacity_factor",
    "moe_min_capacity",
    "moe_loss_coeff",
    "moe_sinkhorn_rounds",
    "moe_norm_topk_prob",
    "moe_intermediate_size",
];

impl Reader<'_> {
    /// Layers with experts, where there are any.
    pub(crate) fn moe(&mut self, layers: usize) -> Option<Moe> {
        let experts = self.whole("moe_num_experts");
        let interval = self.whole("moe_expert_interval");
        let top_k = self.whole("moe_top_k");
        let router = Router::parse(&self.word("moe_router_type")).unwrap_or(Router::Sinkhorn);
        let dropping = self.bool("moe_token_dropping");
        let loss_coeff = self.float("moe_loss_coeff");
        let capacity = Capacity {
            train_factor: self.float("moe_train_capacity_factor"),
            eval_factor: self.float("moe_eval_capacity_factor"),
            minimum: self.whole("moe_min_capacity"),
        };
        if experts == 1 {
            self.without_experts();
            return None;
        }
        if top_k > experts {
            let message = format!("a token cannot go to {top_k} experts of {experts}");
            self.both(message, "moe_top_k", "moe_num_experts", "choose fewer");
        }
        if !layers.is_multiple_of(interval) {
            let message = format!(
                "every {interval}th layer has experts, which does not divide {layers} layers"
            );
            self.both(message, "moe_expert_interval", "num_layers", "choose a divisor");
            return None;
        }
        if !dropping {
            for key in &KEYS[4..7] {
                if self.find(key).is_some() {
                    let message = format!("`{key}` limits experts that drop nothing");
                    let hint = "`--set moe_token_dropping=true`, or remove it";
                    self.both(message, key, "moe_token_dropping", hint);
                }
            }
        }
        if loss_coeff > 0.0 && router == Router::Sinkhorn {
            let message = "a router of type sinkhorn balances experts without a loss".to_string();
            let hint = "`--set moe_router_type=topk`, or `--set moe_loss_coeff=0`";
            self.both(message, "moe_loss_coeff", "moe_router_type", hint);
        }
        let capacity = dropping.then_some(capacity);
        let sinkhorn_rounds = self.int("moe_sinkhorn_rounds");
        if sinkhorn_rounds.is_some() && router != Router::Sinkhorn {
            let message = "a router of type topk makes no rounds".to_string();
            let hint = "`--set moe_router_type=sinkhorn`, or remove it";
            self.both(message, "moe_sinkhorn_rounds", "moe_router_type", hint);
        }
        Some(Moe {
            experts,
            interval,
            top_k,
            router,
            capacity,
            loss_coeff,
            sinkhorn_rounds,
            normalize: self.normalized_weights(router, top_k),
            ffn: self.int("moe_intermediate_size"),
        })
    }

    /// Whether the weights of a token's experts are made to sum to 1.
    fn normalized_weights(&mut self, router: Router, top_k: usize) -> bool {
        let normalize = self.bool("moe_norm_topk_prob");
        if normalize && router == Router::Sinkhorn {
            let message =
                "a router of type sinkhorn does not divide weights by their sum".to_string();
            let hint = "`--set moe_router_type=topk`, or `--set moe_norm_topk_prob=false`";
            self.both(message, "moe_norm_topk_prob", "moe_router_type", hint);
        } else if normalize && top_k == 1 {
            let message =
                "the weight of a token's only expert would always be 1, and its router never learn"
                    .to_string();
            let hint = "`--set moe_top_k=2`, or `--set moe_norm_topk_prob=false`";
            self.both(message, "moe_norm_topk_prob", "moe_top_k", hint);
        }
        normalize
    }

    /// Warns of keys that need experts.
    fn without_experts(&mut self) {
        let given = |key: &&&str| {
            self.find(key).is_some_and(|(_, n)| !matches!(n.value, Value::Bool(false)))
        };
        let names: Vec<&str> = KEYS.iter().filter(given).copied().collect();
        let Some((key, _)) = names.first().and_then(|n| self.find(n)).cloned() else { return };
        let message = format!("without effect as there is one expert: {}", names.join(", "));
        let d = without_effect::without_effect(&message, &key.span, "this needs experts");
        self.tell(d.hint("`--set moe_num_experts=8`"));
    }
}
