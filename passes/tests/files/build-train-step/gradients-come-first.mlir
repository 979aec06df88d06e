// RUN: build-train-step
// FAILS: requires that there are functions @micro_step and @eval_step: there is no @micro_step
!s = tensor<f32>
module {
  func.func @eval_step(%x: !s) -> !s {
    return %x : !s
  }
}
