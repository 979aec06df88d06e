// The step takes the rounded weight as its last input, and hands the new one on in front of loss and norm; evaluation
// takes it too, and @round_weights makes it for both.
// RUN: keep-weights
// UNEVALUATED: the entries take one input more
!w = tensor<3xf32, {dims = ["embed"]}>
!h = tensor<3xbf16, {dims = ["embed"]}>
!s = tensor<f32>
module {
  func.func @train_step(%w: !w {neox.param = "w"}, %m: !w {neox.name = "w", neox.role = "adam_m"}, %v: !w {neox.name = "w", neox.role = "adam_v"}, %lr: !s {neox.name = "lr", neox.role = "scalar"}) -> (!w, !w, !w, !s, !s) {
    %0 = "neox.cast"(%w) {dtype = "bf16"} : (!w) -> !h
    %1 = "neox.cast"(%0) {dtype = "f32"} : (!h) -> !w
    %2:3 = "neox.adamw"(%w, %1, %m, %v, %lr, %lr, %lr, %lr) {beta1 = 0.9 : f64, beta2 = 0.95 : f64, eps = 1.0e-8 : f64, weight_decay = 0.0 : f64} : (!w, !w, !w, !w, !s, !s, !s, !s) -> (!w, !w, !w)
    %3 = "neox.sum_squares"(%1) : (!w) -> !s
    return %2#0, %2#1, %2#2, %3, %3 : !w, !w, !w, !s, !s
  }
  func.func @eval_step(%w: !w {neox.param = "w"}) -> !w {
    %0 = "neox.cast"(%w) {dtype = "bf16"} : (!w) -> !h
    %1 = "neox.cast"(%0) {dtype = "f32"} : (!h) -> !w
    return %1 : !w
  }
}
// EXPECT:
//   @train_step(%w [embed 3] {param = "w"}, %m [embed 3] {name = "w", role = "adam_m"}, %v [embed 3] {name = "w", role = "adam_v"}, %lr [] {name = "lr", role = "scalar"}, %arg4 bf16[embed 3] {role = "rounded"})
//     %0 = cast(%arg4) {dtype = "f32"} [embed 3]
//     %1 = adamw(%w, %0, %m, %v, %lr, %lr, %lr, %lr) {beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0.0} [embed 3], [embed 3], [embed 3]
//     %2 = sum_squares(%0) []
//     %3 = cast(%1#0) {dtype = "bf16"} bf16[embed 3]
//     return %1#0, %1#1, %1#2, %3, %2, %2
//   @eval_step(%w [embed 3] {param = "w"}, %arg1 bf16[embed 3] {role = "rounded"})
//     %0 = cast(%arg1) {dtype = "f32"} [embed 3]
//     return %0
//   @round_weights(%w [embed 3] {param = "w"})
//     %0 = cast(%w) {dtype = "bf16"} bf16[embed 3]
//     return %0
