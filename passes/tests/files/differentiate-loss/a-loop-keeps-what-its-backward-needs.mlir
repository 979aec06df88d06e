// @block.fwd leaves exp(x), which both gradients need, for each layer; @block.bwd runs from the last layer to the first.
// RUN: differentiate-loss
!x = tensor<3xf32, {dims = ["embed"]}>
!w = tensor<2x3xf32, {dims = ["layer", "embed"]}>
!s = tensor<f32>
module {
  func.func @block(%x: !x, %w: !x) -> !x {
    %0 = "neox.exp"(%x) : (!x) -> !x
    %1 = "neox.mul"(%0, %w) : (!x, !x) -> !x
    return %1 : !x
  }
  func.func @loss(%w: !w {neox.param = "w.{layer}"}, %x: !x {neox.name = "tokens", neox.role = "batch"}) -> !s {
    %0 = "neox_loop.repeat"(%x, %w) {callee = @block, carried = 1, count = 2, dim = "layer", sliced = 1} : (!x, !w) -> !x
    %1 = "neox.reduce_sum"(%0) {dims = ["embed"]} : (!x) -> !s
    return %1 : !s
  }
}
// EXPECT:
//   @block(%x [embed 3], %w [embed 3])
//     %0 = exp(%x) [embed 3]
//     %1 = mul(%0, %w) [embed 3]
//     return %1
//   @eval_step(%w [layer 2, embed 3] {param = "w.{layer}"}, %x [embed 3] {name = "tokens", role = "batch"})
//     %0 = repeat(%x, %w) {callee = @block, carried = 1, count = 2, dim = "layer", sliced = 1} [embed 3]
//     %1 = reduce_sum(%0) {dims = ["embed"]} []
//     return %1
//   @block.fwd(%x [embed 3], %w [embed 3])
//     %0 = exp(%x) [embed 3]
//     %1 = mul(%0, %w) [embed 3]
//     return %1, %0
//   @block.bwd(%d0 [embed 3], %w [embed 3], %saved2 [embed 3], %grad_w [embed 3])
//     %0 = mul(%d0, %w) [embed 3]
//     %1 = mul(%d0, %saved2) [embed 3]
//     %2 = add(%grad_w, %1) [embed 3]
//     %3 = mul(%0, %saved2) [embed 3]
//     return %3, %2
//   @micro_step(%grad_w [layer 2, embed 3], %x [embed 3] {name = "tokens", role = "batch"}, %w [layer 2, embed 3] {param = "w.{layer}"})
//     %0 = repeat(%x, %w) {callee = @block.fwd, carried = 1, count = 2, dim = "layer", sliced = 1} [embed 3], [layer 2, embed 3]
//     %1 = reduce_sum(%0#0) {dims = ["embed"]} []
//     %2 = fill() {dims = [], dtype = "f32", sizes = [], value = 1.0} []
//     %3 = fill() {dims = ["embed"], dtype = "f32", sizes = [3], value = 0.0} [embed 3]
//     %4 = add(%3, %2) [embed 3]
//     %5 = repeat(%4, %w, %0#1, %grad_w) {callee = @block.bwd, carried = 1, count = 2, dim = "layer", reverse = true, sliced = 3} [embed 3], [layer 2, embed 3]
//     return %5#1, %1
