// RUN: peel-last-step data=2
// FAILS: there is no loop over micro-batches
!x = tensor<3xf32, {dims = ["embed"]}>
module attributes {neox.mesh = ["data=2"]} {
  func.func @train_step(%x: !x) -> !x {
    return %x : !x
  }
}
