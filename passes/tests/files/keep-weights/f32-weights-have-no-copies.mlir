// Nothing is rounded: nothing is kept.
// RUN: keep-weights
!w = tensor<3xf32, {dims = ["embed"]}>
!s = tensor<f32>
module {
  func.func @update(%p: !s, %g: !s, %m: !s, %lr: !s) -> (!s, !s) {
    %0 = "neox.add"(%m, %g) : (!s, !s) -> !s
    %1 = "neox.mul"(%0, %lr) : (!s, !s) -> !s
    %2 = "neox.sub"(%p, %1) : (!s, !s) -> !s
    return %2, %0 : !s, !s
  }
  func.func @train_step(%w: !w {neox.param = "w"}, %m: !w {neox.name = "w", neox.role = "state", neox.slot = "exp_avg"}, %lr: !s {neox.name = "lr", neox.role = "scalar"}) -> (!w, !w, !s, !s) attributes {neox.results = ["param w", "state exp_avg w", "output loss", "output grad_norm"]} {
    %2:2 = "neox_loop.map"(%w, %w, %m, %lr) {callee = @update, results = 2} : (!w, !w, !w, !s) -> (!w, !w)
    %3 = "neox.sum_squares"(%w) : (!w) -> !s
    return %2#0, %2#1, %3, %3 : !w, !w, !s, !s
  }
}
// EXPECT:
//   @update(%p [], %g [], %m [], %lr [])
//     %0 = add(%m, %g) []
//     %1 = mul(%0, %lr) []
//     %2 = sub(%p, %1) []
//     return %2, %0
//   @train_step(%w [embed 3] {param = "w"}, %m [embed 3] {name = "w", role = "state", slot = "exp_avg"}, %lr [] {name = "lr", role = "scalar"}) {results = ["param w", "state exp_avg w", "output loss", "output grad_norm"]}
//     %0 = map(%w, %w, %m, %lr) {callee = @update, results = 2} [embed 3], [embed 3]
//     %1 = sum_squares(%w) []
//     return %0#0, %0#1, %1, %1
