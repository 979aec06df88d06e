//! What a layer is made of: norms, activations, what attention sees.

use serde::{Deserialize, Serialize};

/// The families of models, by the names that `model_family` may have: those of Hugging Face's `model_type`.
pub const FAMILIES: &[&str] = &[
    "gpt_neox",
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "olmo2",
    "gemma3_text",
    "mixtral",
    "qwen3_moe",
    "falcon",
    "palm",
];

/// A kind of norm.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Norm {
    /// Less the mean, divided by the deviation.
    #[default]
    LayerNorm,
    /// Divided by the root of the mean square (Zhang and Sennrich 2019, arXiv:1910.07467).
    RmsNorm,
    /// Divided by the Euclidean length, times one number (Nguyen and Salazar 2019, arXiv:1910.05895).
    ScaleNorm,
    /// A layer norm without weights (OLMo, arXiv:2402.00838).
    NonParametric,
}

crate::words!(
    Norm: LayerNorm = "layernorm",
    RmsNorm = "rmsnorm",
    ScaleNorm = "scalenorm",
    NonParametric = "non_parametric_layernorm",
);

/// Where a layer has norms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum NormPlace {
    /// Before each branch.
    #[default]
    Before,
    /// After each branch, before its sum with the stream (OLMo 2, arXiv:2501.00656).
    After,
    /// Both before and after (Gemma 2, arXiv:2408.00118).
    Around,
}

crate::words!(NormPlace: Before = "before", After = "after", Around = "around");

impl NormPlace {
    /// Whether there is a norm before each branch.
    pub fn before(self) -> bool {
        self != NormPlace::After
    }

    /// Whether there is a norm after each branch.
    pub fn after(self) -> bool {
        self != NormPlace::Before
    }
}

/// The norms of queries and keys, which have weights of their own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum QkNorm {
    /// None.
    #[default]
    None,
    /// Over the dims of each head, with one weight for all heads (Qwen 3, arXiv:2505.09388).
    Head,
    /// Over all heads together (OLMo 2, arXiv:2501.00656).
    Width,
}

crate::words!(QkNorm: None = "none", Head = "head", Width = "width");

/// What a layer attends to. GPT-NeoX's `global` and `flash` are one kind here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Attention {
    /// All tokens before, and the token itself.
    #[default]
    Global,
    /// The token itself and a window of tokens before it.
    Sliding,
}

crate::words!(Attention: Global = "global", Sliding = "sliding");

/// The activation of an MLP, by GPT-NeoX's names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Activation {
    /// x · Φ(x).
    #[default]
    Gelu,
    /// max(x, 0).
    Relu,
    /// x · σ(x); GPT-NeoX also calls it `swish`.
    Silu,
    /// x / (1 + |x|).
    Softsign,
    /// x · tanh(log(1 + eˣ)).
    Mish,
    /// The gate x · σ(x).
    SwiGlu,
    /// The gate x · Φ(x).
    GeGlu,
    /// The same by tanh.
    GeGluTanh,
    /// The gate max(x, 0).
    ReGlu,
    /// The gate σ(x).
    Glu,
    /// The gate x.
    Bilinear,
}

crate::words!(
    Activation: Gelu = "gelu",
    Relu = "relu",
    Silu = "silu",
    Softsign = "softsign",
    Mish = "mish",
    SwiGlu = "swiglu",
    GeGlu = "geglu",
    GeGluTanh = "geglu_tanh",
    ReGlu = "reglu",
    Glu = "glu",
    Bilinear = "bilinear",
);

impl Activation {
    /// Whether it is the activation of a gate: the MLP has one more projection.
    pub fn gated(self) -> bool {
        use Activation::{Bilinear, GeGlu, GeGluTanh, Glu, ReGlu, SwiGlu};
        matches!(self, SwiGlu | GeGlu | GeGluTanh | ReGlu | Glu | Bilinear)
    }
}
