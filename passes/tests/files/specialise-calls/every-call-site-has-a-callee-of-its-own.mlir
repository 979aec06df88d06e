// @block is called from two entries, and twice from one of them: three copies.
// RUN: specialise-calls
!x = tensor<3xf32, {dims = ["embed"]}>
module {
  func.func @block(%x: !x) -> !x {
    %0 = "neox.exp"(%x) : (!x) -> !x
    return %0 : !x
  }
  func.func @train_step(%x: !x) -> !x {
    %0 = "func.call"(%x) {callee = @block} : (!x) -> !x
    %1 = "func.call"(%0) {callee = @block} : (!x) -> !x
    return %1 : !x
  }
  func.func @eval_step(%x: !x) -> !x {
    %0 = "func.call"(%x) {callee = @block} : (!x) -> !x
    return %0 : !x
  }
}
// EXPECT:
//   @train_step.block(%x [embed 3])
//     %0 = exp(%x) [embed 3]
//     return %0
//   @train_step.block_1(%x [embed 3])
//     %0 = exp(%x) [embed 3]
//     return %0
//   @train_step(%x [embed 3])
//     %0 = call(%x) {callee = @train_step.block} [embed 3]
//     %1 = call(%0) {callee = @train_step.block_1} [embed 3]
//     return %1
//   @eval_step.block(%x [embed 3])
//     %0 = exp(%x) [embed 3]
//     return %0
//   @eval_step(%x [embed 3])
//     %0 = call(%x) {callee = @eval_step.block} [embed 3]
//     return %0
