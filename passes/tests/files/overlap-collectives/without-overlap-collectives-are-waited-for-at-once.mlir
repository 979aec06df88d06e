// RUN: overlap-collectives tensor=2 overlap=false
!x = tensor<64x32xf32, {dims = ["seq", "embed"]}>
module attributes {neox.mesh = ["tensor=2"]} {
  func.func @rowwise_0(%p0: !x) -> !x attributes {neox.inplace = [0, 0], neox.kernel = "rowwise"} {
    %0 = "neox.exp"(%p0) : (!x) -> !x
    return %0 : !x
  }
  func.func @rowwise_1(%p0: !x, %p1: !x) -> !x attributes {neox.kernel = "rowwise"} {
    %0 = "neox.add"(%p0, %p1) : (!x, !x) -> !x
    return %0 : !x
  }
  func.func @eval_step(%x: !x {neox.name = "x", neox.role = "batch"}, %y: !x {neox.name = "y", neox.role = "batch"}) -> !x {
    %0 = "neox.all_reduce"(%x) {axis = "tensor", ranks = 2} : (!x) -> !x
    %1 = "func.call"(%0) {callee = @rowwise_0} : (!x) -> !x
    %2 = "func.call"(%y) {callee = @rowwise_0} : (!x) -> !x
    %3 = "func.call"(%1, %2) {callee = @rowwise_1} : (!x, !x) -> !x
    return %3 : !x
  }
}
// EXPECT:
//   module {mesh = ["tensor=2"]}
//   @rowwise_0(%p0 [seq 64, embed 32]) {inplace = [0, 0], kernel = "rowwise"}
//     %0 = exp(%p0) [seq 64, embed 32]
//     return %0
//   @rowwise_1(%p0 [seq 64, embed 32], %p1 [seq 64, embed 32]) {kernel = "rowwise"}
//     %0 = add(%p0, %p1) [seq 64, embed 32]
//     return %0
//   @eval_step(%x [seq 64, embed 32] {name = "x", role = "batch"}, %y [seq 64, embed 32] {name = "y", role = "batch"})
//     %0 = all_reduce(%x) {axis = "tensor", ranks = 2} [seq 64, embed 32]
//     %1 = call(%0) {callee = @rowwise_0} [seq 64, embed 32]
//     %2 = call(%y) {callee = @rowwise_0} [seq 64, embed 32]
//     %3 = call(%1, %2) {callee = @rowwise_1} [seq 64, embed 32]
//     return %3
