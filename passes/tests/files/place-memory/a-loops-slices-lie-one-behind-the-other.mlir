// A layer reads its slice of the weights at `layer*256`, and the value that layers hand on stays in one place.
// RUN: place-memory
// SHOW: @eval_step.block @eval_step
!x = tensor<64xf32, {dims = ["embed"]}>
!w = tensor<3x64xf32, {dims = ["layer", "embed"]}>
module {
  func.func @rowwise_0(%p0: !x) -> !x attributes {neox.inplace = [0, 0], neox.kernel = "rowwise"} {
    %0 = "neox.exp"(%p0) : (!x) -> !x
    return %0 : !x
  }
  func.func @rowwise_1(%p0: !x, %p1: !x) -> !x attributes {neox.kernel = "rowwise"} {
    %0 = "neox.add"(%p0, %p1) : (!x, !x) -> !x
    return %0 : !x
  }
  func.func @eval_step.block(%x: !x, %w: !x) -> !x {
    %0 = "func.call"(%x, %w) {callee = @rowwise_1} : (!x, !x) -> !x
    return %0 : !x
  }
  func.func @eval_step(%x: !x {neox.name = "x", neox.role = "batch"}, %w: !w {neox.param = "w.{layer}"}) -> !x {
    %0 = "neox_loop.repeat"(%x, %w) {callee = @eval_step.block, carried = 1, count = 3, dim = "layer", sliced = 1} : (!x, !w) -> !x
    return %0 : !x
  }
}
// EXPECT:
//   @eval_step.block(%x [embed 64] {place = ["io+256"]}, %w [embed 64] {place = ["params+0+layer*256"]})
//     %0 = call(%x, %w) {callee = @rowwise_1, place = ["arena+0"]} [embed 64]
//     %1 = call(%0) {callee = @copy_64xembed64, place = ["io+256"]} [embed 64]
//     return %1
//   @eval_step(%x [embed 64] {name = "x", place = ["io+0"], role = "batch"}, %w [layer 3, embed 64] {param = "w.{layer}", place = ["params+0"]})
//     %0 = call(%x) {callee = @copy_64xembed64, place = ["io+256"]} [embed 64]
//     %1 = repeat(%0, %w) {callee = @eval_step.block, carried = 1, count = 3, dim = "layer", place = ["io+256"], sliced = 1} [embed 64]
//     return %1
