// Nothing is rounded: nothing is kept.
// RUN: keep-weights
!w = tensor<3xf32, {dims = ["embed"]}>
!s = tensor<f32>
module {
  func.func @train_step(%w: !w {neox.param = "w"}, %m: !w {neox.name = "w", neox.role = "adam_m"}, %v: !w {neox.name = "w", neox.role = "adam_v"}, %lr: !s {neox.name = "lr", neox.role = "scalar"}) -> (!w, !w, !w, !s, !s) {
    %2:3 = "neox.adamw"(%w, %w, %m, %v, %lr, %lr, %lr, %lr) {beta1 = 0.9 : f64, beta2 = 0.95 : f64, eps = 1.0e-8 : f64, weight_decay = 0.0 : f64} : (!w, !w, !w, !w, !s, !s, !s, !s) -> (!w, !w, !w)
    %3 = "neox.sum_squares"(%w) : (!w) -> !s
    return %2#0, %2#1, %2#2, %3, %3 : !w, !w, !w, !s, !s
  }
}
// EXPECT:
//   @train_step(%w [embed 3] {param = "w"}, %m [embed 3] {name = "w", role = "adam_m"}, %v [embed 3] {name = "w", role = "adam_v"}, %lr [] {name = "lr", role = "scalar"})
//     %0 = adamw(%w, %w, %m, %v, %lr, %lr, %lr, %lr) {beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0.0} [embed 3], [embed 3], [embed 3]
//     %1 = sum_squares(%w) []
//     return %0#0, %0#1, %0#2, %1, %1
