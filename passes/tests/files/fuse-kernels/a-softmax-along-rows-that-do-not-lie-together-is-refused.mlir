// The family `rowwise` reads rows that lie together in memory; no kernel computes this one.
// RUN: fuse-kernels
// FAILS: `neox.softmax` along `seq`, which is not the innermost dim
!x = tensor<4x8xf32, {dims = ["seq", "embed"]}>
module attributes {neox.mesh = ["data=1"]} {
  func.func @eval_step(%x: !x) -> !x {
    %0 = "neox.softmax"(%x) {dim = "seq"} : (!x) -> !x
    return %0 : !x
  }
}
