//! The op registry: the one list of ops. An op is one file here with all of its rules.
//!
//! To add an op, write its file and add one line to `registry!` (see `docs/howto/add-an-op.md`).

use crate::op::OpDef;

pub mod docs;
pub mod pointwise;

mod collective;
pub(crate) mod decomposed;
mod norms;
mod part;
mod prelude;
mod routing;
mod rows;

mod add;
mod all_gather;
mod all_reduce;
mod all_to_all;
pub mod attention;
pub mod attention_grad;
mod aux_loss;
mod cached_attention;
pub mod call;
pub mod cast;
pub mod causal_mask;
mod combine;
mod cross_entropy;
mod cross_entropy_grad;
mod cross_entropy_join;
mod cross_entropy_part;
mod dispatch;
mod div;
pub mod dropout;
mod dropout_attention;
mod dropout_attention_grad;
pub mod erf;
mod exp;
mod expand_rows;
mod expert_load;
mod expert_rows;
mod expert_slots;
pub mod fill;
mod gather;
pub mod gelu;
mod gelu_grad;
pub mod grouped_matmul;
mod grouped_weight;
mod iota;
mod layer_norm;
mod layer_norm_grad;
mod linear_cross_entropy;
mod linear_cross_entropy_grad;
mod linear_cross_entropy_train;
mod log;
mod logistic;
mod map;
pub mod matmul;
mod maximum;
mod minimum;
mod mul;
mod neg;
mod pad;
mod put_choices;
mod qkv_merge;
pub mod qkv_split;
mod reduce_max;
mod reduce_scatter;
mod reduce_sum;
mod rename;
pub mod repeat;
mod reshape;
mod rms_norm;
mod rms_norm_grad;
mod rotary;
mod rotary_table;
mod route_dot;
mod rsqrt;
mod scatter_add;
pub mod sinkhorn;
mod slice;
mod softmax;
mod sqrt;
mod step;
mod sub;
mod sum_rows;
pub mod sum_runs;
mod sum_squares;
mod take_choices;
mod take_part;
mod tanh;
mod top_k;
mod transpose;
mod wait;

/// Makes [`OpKind`] and the list of all ops of one line per op: the op's file, and its type there.
macro_rules! registry {
    ($($file:ident::$ty:ident),+ $(,)?) => {
        /// A registered op: a name that code can compare, match and build with, and that knows its rules.
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub enum OpKind {
            $(#[doc = concat!("`neox.", stringify!($file), "`.")] $ty),+
        }

        impl OpKind {
            /// Every op, by name.
            pub const ALL: &'static [OpKind] = &[$(OpKind::$ty),+];

            /// The op's rules.
            pub fn def(self) -> &'static dyn OpDef {
                match self {
                    $(OpKind::$ty => &$file::$ty),+
                }
            }
        }
    };
}

registry! {
    add::Add,
    all_gather::AllGather,
    all_reduce::AllReduce,
    all_to_all::AllToAll,
    attention::Attention,
    attention_grad::AttentionGrad,
    aux_loss::AuxLoss,
    cached_attention::CachedAttention,
    call::Call,
    cast::Cast,
    causal_mask::CausalMask,
    combine::Combine,
    cross_entropy::CrossEntropy,
    cross_entropy_grad::CrossEntropyGrad,
    cross_entropy_join::CrossEntropyJoin,
    cross_entropy_part::CrossEntropyPart,
    dispatch::Dispatch,
    div::Div,
    dropout::Dropout,
    dropout_attention::DropoutAttention,
    dropout_attention_grad::DropoutAttentionGrad,
    erf::Erf,
    exp::Exp,
    expand_rows::ExpandRows,
    expert_load::ExpertLoad,
    expert_rows::ExpertRows,
    expert_slots::ExpertSlots,
    fill::Fill,
    gather::Gather,
    gelu::Gelu,
    gelu_grad::GeluGrad,
    grouped_matmul::GroupedMatmul,
    grouped_weight::GroupedWeight,
    iota::Iota,
    layer_norm::LayerNorm,
    layer_norm_grad::LayerNormGrad,
    linear_cross_entropy::LinearCrossEntropy,
    linear_cross_entropy_grad::LinearCrossEntropyGrad,
    linear_cross_entropy_train::LinearCrossEntropyTrain,
    log::Log,
    logistic::Logistic,
    map::Map,
    matmul::Matmul,
    maximum::Maximum,
    minimum::Minimum,
    mul::Mul,
    neg::Neg,
    pad::Pad,
    put_choices::PutChoices,
    qkv_merge::QkvMerge,
    qkv_split::QkvSplit,
    reduce_max::ReduceMax,
    reduce_scatter::ReduceScatter,
    reduce_sum::ReduceSum,
    rename::Rename,
    repeat::Repeat,
    reshape::Reshape,
    rms_norm::RmsNorm,
    rms_norm_grad::RmsNormGrad,
    rotary::Rotary,
    rotary_table::RotaryTable,
    route_dot::RouteDot,
    rsqrt::Rsqrt,
    scatter_add::ScatterAdd,
    sinkhorn::Sinkhorn,
    slice::Slice,
    softmax::Softmax,
    sqrt::Sqrt,
    step::Step,
    sub::Sub,
    sum_rows::SumRows,
    sum_runs::SumRuns,
    sum_squares::SumSquares,
    take_choices::TakeChoices,
    take_part::TakePart,
    tanh::Tanh,
    top_k::TopK,
    transpose::Transpose,
    wait::Wait,
}

/// The op called `name` (without dialect).
pub fn find(name: &str) -> Option<OpKind> {
    OpKind::ALL.iter().copied().find(|op| op.name() == name)
}
