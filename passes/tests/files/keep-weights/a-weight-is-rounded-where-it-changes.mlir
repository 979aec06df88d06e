// The step takes the rounded weight as its last input, and hands the new one on in front of loss and norm; evaluation
// takes it too, and @round_weights makes it for both.
// RUN: keep-weights
!w = tensor<3xf32, {dims = ["embed"]}>
!h = tensor<3xbf16, {dims = ["embed"]}>
!s = tensor<f32>
module {
  func.func @update(%p: !s, %g: !s, %m: !s, %lr: !s) -> (!s, !s) {
    %0 = "neox.add"(%m, %g) : (!s, !s) -> !s
    %1 = "neox.mul"(%0, %lr) : (!s, !s) -> !s
    %2 = "neox.sub"(%p, %1) : (!s, !s) -> !s
    return %2, %0 : !s, !s
  }
  func.func @train_step(%w: !w {neox.param = "w"}, %m: !w {neox.name = "w", neox.role = "state", neox.slot = "exp_avg"}, %lr: !s {neox.name = "lr", neox.role = "scalar"}) -> (!w, !w, !s, !s) attributes {neox.results = ["param w", "state exp_avg w", "output loss", "output grad_norm"]} {
    %0 = "neox.cast"(%w) {dtype = "bf16"} : (!w) -> !h
    %1 = "neox.cast"(%0) {dtype = "f32"} : (!h) -> !w
    %2:2 = "neox_loop.map"(%w, %1, %m, %lr) {callee = @update, results = 2} : (!w, !w, !w, !s) -> (!w, !w)
    %3 = "neox.sum_squares"(%1) : (!w) -> !s
    return %2#0, %2#1, %3, %3 : !w, !w, !s, !s
  }
  func.func @eval_step(%w: !w {neox.param = "w"}) -> !w {
    %0 = "neox.cast"(%w) {dtype = "bf16"} : (!w) -> !h
    %1 = "neox.cast"(%0) {dtype = "f32"} : (!h) -> !w
    return %1 : !w
  }
}
// EXPECT:
//   @update(%p [], %g [], %m [], %lr [])
//     %0 = add(%m, %g) []
//     %1 = mul(%0, %lr) []
//     %2 = sub(%p, %1) []
//     return %2, %0
//   @train_step(%w [embed 3] {param = "w"}, %m [embed 3] {name = "w", role = "state", slot = "exp_avg"}, %lr [] {name = "lr", role = "scalar"}, %arg3 bf16[embed 3] {name = "w", role = "rounded"}) {results = ["param w", "state exp_avg w", "output loss", "output grad_norm", "rounded w"]}
//     %0 = cast(%arg3) {dtype = "f32"} [embed 3]
//     %1 = map(%w, %0, %m, %lr) {callee = @update, results = 2} [embed 3], [embed 3]
//     %2 = sum_squares(%0) []
//     %3 = cast(%1#0) {dtype = "bf16"} bf16[embed 3]
//     return %1#0, %1#1, %2, %2, %3
//   @eval_step(%w [embed 3] {param = "w"}, %arg1 bf16[embed 3] {name = "w", role = "rounded"})
//     %0 = cast(%arg1) {dtype = "f32"} [embed 3]
//     return %0
//   @round_weights(%w [embed 3] {param = "w"}) {results = ["rounded w"]}
//     %0 = cast(%w) {dtype = "bf16"} bf16[embed 3]
//     return %0
