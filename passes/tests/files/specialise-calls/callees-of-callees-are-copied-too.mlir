// @row is below @block: its copies are named after the entry. What nobody calls goes.
// RUN: specialise-calls
!x = tensor<3xf32, {dims = ["embed"]}>
module {
  func.func @row(%x: !x) -> !x {
    %0 = "neox.exp"(%x) : (!x) -> !x
    return %0 : !x
  }
  func.func @block(%x: !x) -> !x {
    %0 = "func.call"(%x) {callee = @row} : (!x) -> !x
    return %0 : !x
  }
  func.func @idle(%x: !x) -> !x {
    return %x : !x
  }
  func.func @train_step(%x: !x) -> !x {
    %0 = "func.call"(%x) {callee = @block} : (!x) -> !x
    return %0 : !x
  }
}
// EXPECT:
//   @train_step.row(%x [embed 3])
//     %0 = exp(%x) [embed 3]
//     return %0
//   @train_step.block(%x [embed 3])
//     %0 = call(%x) {callee = @train_step.row} [embed 3]
//     return %0
//   @train_step(%x [embed 3])
//     %0 = call(%x) {callee = @train_step.block} [embed 3]
//     return %0
