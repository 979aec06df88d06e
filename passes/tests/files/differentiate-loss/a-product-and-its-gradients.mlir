// The gradient of a weight starts as its accumulator and is added to; the loss's own gradient is 1.
// RUN: differentiate-loss
// UNEVALUATED: @micro_step is new; @eval_step is @loss under another name
!w = tensor<3xf32, {dims = ["embed"]}>
!s = tensor<f32>
module {
  func.func @loss(%w: !w {neox.param = "w"}, %x: !w {neox.name = "tokens", neox.role = "batch"}) -> !s {
    %0 = "neox.mul"(%w, %x) : (!w, !w) -> !w
    %1 = "neox.reduce_sum"(%0) {dims = ["embed"]} : (!w) -> !s
    return %1 : !s
  }
}
// EXPECT:
//   @eval_step(%w [embed 3] {param = "w"}, %x [embed 3] {name = "tokens", role = "batch"})
//     %0 = mul(%w, %x) [embed 3]
//     %1 = reduce_sum(%0) {dims = ["embed"]} []
//     return %1
//   @micro_step(%grad_w [embed 3], %x [embed 3] {name = "tokens", role = "batch"}, %w [embed 3] {param = "w"})
//     %0 = mul(%w, %x) [embed 3]
//     %1 = reduce_sum(%0) {dims = ["embed"]} []
//     %2 = fill() {dims = [], dtype = "f32", sizes = [], value = 1.0} []
//     %3 = fill() {dims = ["embed"], dtype = "f32", sizes = [3], value = 0.0} [embed 3]
//     %4 = add(%3, %2) [embed 3]
//     %5 = mul(%4, %x) [embed 3]
//     %6 = add(%grad_w, %5) [embed 3]
//     return %6, %1
