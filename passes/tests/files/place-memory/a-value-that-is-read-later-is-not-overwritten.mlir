// %0 is read again behind %1: %1 may not be made in its place, though its kernel could.
// RUN: place-memory
// SHOW: @eval_step
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
  func.func @eval_step(%x: !x {neox.name = "x", neox.role = "batch"}) -> !x {
    %0 = "func.call"(%x) {callee = @rowwise_0} : (!x) -> !x
    %1 = "func.call"(%0) {callee = @rowwise_0} : (!x) -> !x
    %2 = "func.call"(%0, %1) {callee = @rowwise_1} : (!x, !x) -> !x
    return %2 : !x
  }
}
// EXPECT:
//   @eval_step(%x [embed 64] {name = "x", place = ["io+0"], role = "batch"})
//     %0 = call(%x) {callee = @rowwise_0, place = ["arena+0"]} [embed 64]
//     %1 = call(%0) {callee = @rowwise_0, place = ["arena+256"]} [embed 64]
//     %2 = call(%0, %1) {callee = @rowwise_1, place = ["io+256"]} [embed 64]
//     return %2
