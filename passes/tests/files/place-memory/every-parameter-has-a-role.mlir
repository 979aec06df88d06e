// An input that is neither weight nor batch nor anything else has no segment.
// RUN: place-memory
// FAILS: @eval_step: a parameter has no role
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
  func.func @eval_step(%x: !x) -> !x {
    %0 = "func.call"(%x) {callee = @rowwise_0} : (!x) -> !x
    return %0 : !x
  }
}
