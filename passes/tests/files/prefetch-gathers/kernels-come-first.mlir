// RUN: prefetch-gathers data=2
// FAILS: requires that every computation is inside a kernel function
!x = tensor<4xf32, {dims = ["embed"]}>
module attributes {neox.mesh = ["data=2"]} {
  func.func @train_step(%x: !x) -> !x {
    %0 = "neox.exp"(%x) : (!x) -> !x
    return %0 : !x
  }
}
