// A stage's weights are updated by @train_finish, which other programs do not hand rounded weights to: they round.
// RUN: keep-weights
!w = tensor<3xf32, {dims = ["embed"]}>
!h = tensor<3xbf16, {dims = ["embed"]}>
module {
  func.func @eval_forward(%w: !w {neox.param = "w"}) -> !h {
    %0 = "neox.cast"(%w) {dtype = "bf16"} : (!w) -> !h
    return %0 : !h
  }
}
// EXPECT:
//   @eval_forward(%w [embed 3] {param = "w"})
//     %0 = cast(%w) {dtype = "bf16"} bf16[embed 3]
//     return %0
