// Two entries need the same two kernels, which are made once. A softmax has a kernel of its own.
// RUN: fuse-kernels
!x = tensor<4x8xf32, {dims = ["seq", "embed"]}>
module attributes {neox.mesh = ["data=1"]} {
  func.func @eval_step(%x: !x) -> !x {
    %0 = "neox.exp"(%x) : (!x) -> !x
    %1 = "neox.softmax"(%0) {dim = "embed"} : (!x) -> !x
    return %1 : !x
  }
  func.func @logits(%y: !x) -> !x {
    %0 = "neox.exp"(%y) : (!x) -> !x
    %1 = "neox.softmax"(%0) {dim = "embed"} : (!x) -> !x
    return %1 : !x
  }
}
// EXPECT:
//   module {mesh = ["data=1"]}
//   @rowwise_0(%p0 [seq 4, embed 8]) {inplace = [0, 0], kernel = "rowwise"}
//     %0 = exp(%p0) [seq 4, embed 8]
//     return %0
//   @rowwise_1(%p0 [seq 4, embed 8]) {inplace = [0, 0], kernel = "rowwise"}
//     %0 = softmax(%p0) {dim = "embed"} [seq 4, embed 8]
//     return %0
//   @eval_step(%x [seq 4, embed 8])
//     %0 = call(%x) {callee = @rowwise_0} [seq 4, embed 8]
//     %1 = call(%0) {callee = @rowwise_1} [seq 4, embed 8]
//     return %1
//   @logits(%y [seq 4, embed 8])
//     %0 = call(%y) {callee = @rowwise_0} [seq 4, embed 8]
//     %1 = call(%0) {callee = @rowwise_1} [seq 4, embed 8]
//     return %1
