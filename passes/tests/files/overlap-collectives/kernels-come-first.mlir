// RUN: overlap-collectives tensor=2
// FAILS: requires that every computation is inside a kernel function: @eval_step has neox.exp
!x = tensor<3xf32, {dims = ["embed"]}>
module attributes {neox.mesh = ["tensor=2"]} {
  func.func @eval_step(%x: !x) -> !x {
    %0 = "neox.exp"(%x) : (!x) -> !x
    return %0 : !x
  }
}
