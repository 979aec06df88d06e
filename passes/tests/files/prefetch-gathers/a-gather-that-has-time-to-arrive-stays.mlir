// What the layer computes first needs no weights and takes longer than the gather: there is nothing to gain.
// RUN: prefetch-gathers data=2 zero_stage=3 within=1e12,1e-9 between=1e12,1e-9
!x = tensor<64x64xf32, {dims = ["seq", "embed"]}>
!v = tensor<64xf32, {dims = ["embed"]}>
!h = tensor<32xf32, {dims = ["embed"]}>
!w = tensor<4x32xf32, {dims = ["layer", "embed"]}>
module attributes {neox.mesh = ["data=2"]} {
  func.func @rowwise_0(%p0: !x, %p1: !v) -> !x attributes {neox.inplace = [0, 0], neox.kernel = "rowwise"} {
    %0 = "neox.mul"(%p0, %p1) : (!x, !v) -> !x
    return %0 : !x
  }
  func.func @rowwise_1(%p0: !x) -> !x attributes {neox.inplace = [0, 0], neox.kernel = "rowwise"} {
    %0 = "neox.tanh"(%p0) : (!x) -> !x
    return %0 : !x
  }
  func.func @train_step.block(%x: !x, %w: !h) -> !x {
    %0 = "neox.all_gather"(%w) {axis = "data", dim = "embed", ranks = 2} : (!h) -> !v
    %1 = "func.call"(%x) {callee = @rowwise_1} : (!x) -> !x
    %2 = "func.call"(%1, %0) {callee = @rowwise_0} : (!x, !v) -> !x
    return %2 : !x
  }
  func.func @train_step(%x: !x {neox.name = "x", neox.role = "batch"}, %w: !w {neox.param = "w.{layer}"}) -> !x {
    %0 = "neox_loop.repeat"(%x, %w) {callee = @train_step.block, carried = 1, count = 4, dim = "layer", sliced = 1} : (!x, !w) -> !x
    return %0 : !x
  }
}
// EXPECT:
//   module {mesh = ["data=2"]}
//   @rowwise_0(%p0 [seq 64, embed 64], %p1 [embed 64]) {inplace = [0, 0], kernel = "rowwise"}
//     %0 = mul(%p0, %p1) [seq 64, embed 64]
//     return %0
//   @rowwise_1(%p0 [seq 64, embed 64]) {inplace = [0, 0], kernel = "rowwise"}
//     %0 = tanh(%p0) [seq 64, embed 64]
//     return %0
//   @train_step.block(%x [seq 64, embed 64], %w [embed 32])
//     %0 = all_gather(%w) {axis = "data", dim = "embed", ranks = 2} [embed 64]
//     %1 = call(%x) {callee = @rowwise_1} [seq 64, embed 64]
//     %2 = call(%1, %0) {callee = @rowwise_0} [seq 64, embed 64]
//     return %2
//   @train_step(%x [seq 64, embed 64] {name = "x", role = "batch"}, %w [layer 4, embed 32] {param = "w.{layer}"})
//     %0 = repeat(%x, %w) {callee = @train_step.block, carried = 1, count = 4, dim = "layer", sliced = 1} [seq 64, embed 64]
//     return %0
