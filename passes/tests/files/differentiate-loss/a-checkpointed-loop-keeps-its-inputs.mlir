// With `neox.checkpoint` a layer leaves its input only, and its backward runs the layer again.
// RUN: differentiate-loss
// SHOW: @block.fwd @block.bwd @micro_step
!x = tensor<2x3xf32, {dims = ["seq", "embed"]}>
!v = tensor<3xf32, {dims = ["embed"]}>
!w = tensor<2x3xf32, {dims = ["layer", "embed"]}>
!s = tensor<f32>
module {
  func.func @block(%x: !x, %w: !v) -> !x {
    %0 = "neox.softmax"(%x) {dim = "embed"} : (!x) -> !x
    %1 = "neox.mul"(%0, %w) : (!x, !v) -> !x
    return %1 : !x
  }
  func.func @loss(%w: !w {neox.param = "w.{layer}"}, %x: !x {neox.name = "tokens", neox.role = "batch"}) -> !s {
    %0 = "neox_loop.repeat"(%x, %w) {callee = @block, carried = 1, count = 2, dim = "layer", neox.checkpoint = 1, sliced = 1} : (!x, !w) -> !x
    %1 = "neox.reduce_sum"(%0) {dims = ["seq", "embed"]} : (!x) -> !s
    return %1 : !s
  }
}
// EXPECT:
//   @block.fwd(%x [seq 2, embed 3], %w [embed 3])
//     %0 = softmax(%x) {dim = "embed"} [seq 2, embed 3]
//     %1 = mul(%0, %w) [seq 2, embed 3]
//     return %1, %x
//   @block.bwd(%d0 [seq 2, embed 3], %w [embed 3], %x [seq 2, embed 3], %grad_w [embed 3])
//     %0 = softmax(%x) {dim = "embed"} [seq 2, embed 3]
//     %1 = mul(%d0, %w) [seq 2, embed 3]
//     %2 = mul(%d0, %0) [seq 2, embed 3]
//     %3 = reduce_sum(%2) {dims = ["seq"]} [embed 3]
//     %4 = add(%grad_w, %3) [embed 3]
//     %5 = mul(%0, %1) [seq 2, embed 3]
//     %6 = reduce_sum(%5) {dims = ["embed"]} [seq 2]
//     %7 = sub(%1, %6) [seq 2, embed 3]
//     %8 = mul(%0, %7) [seq 2, embed 3]
//     return %8, %4
//   @micro_step(%grad_w [layer 2, embed 3], %x [seq 2, embed 3] {name = "tokens", role = "batch"}, %w [layer 2, embed 3] {param = "w.{layer}"})
//     %0 = repeat(%x, %w) {callee = @block.fwd, carried = 1, count = 2, dim = "layer", sliced = 1} [seq 2, embed 3], [layer 2, seq 2, embed 3]
//     %1 = reduce_sum(%0#0) {dims = ["seq", "embed"]} []
//     %2 = fill() {dims = [], dtype = "f32", sizes = [], value = 1.0} []
//     %3 = fill() {dims = ["seq", "embed"], dtype = "f32", sizes = [2, 3], value = 0.0} [seq 2, embed 3]
//     %4 = add(%3, %2) [seq 2, embed 3]
//     %5 = repeat(%4, %w, %0#1, %grad_w) {callee = @block.bwd, carried = 1, count = 2, dim = "layer", reverse = true, sliced = 3} [seq 2, embed 3], [layer 2, embed 3]
//     return %5#1, %1
