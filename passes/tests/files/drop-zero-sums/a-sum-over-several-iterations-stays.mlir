// The sum is carried: the second iteration adds to what the first one left.
// RUN: drop-zero-sums
!x = tensor<3xf32, {dims = ["embed"]}>
!w = tensor<2x3xf32, {dims = ["micro", "embed"]}>
module {
  func.func @micro(%g: !x, %x: !x) -> !x {
    %0 = "neox.exp"(%x) : (!x) -> !x
    %1 = "neox.add"(%g, %0) : (!x, !x) -> !x
    return %1 : !x
  }
  func.func @train_step(%x: !w) -> !x {
    %z = "neox.fill"() {dims = ["embed"], dtype = "f32", sizes = [3], value = 0.0 : f64} : () -> !x
    %0 = "neox_loop.repeat"(%z, %x) {callee = @micro, carried = 1, count = 2, dim = "micro", sliced = 1} : (!x, !w) -> !x
    return %0 : !x
  }
}
// EXPECT:
//   @micro(%g [embed 3], %x [embed 3])
//     %0 = exp(%x) [embed 3]
//     %1 = add(%g, %0) [embed 3]
//     return %1
//   @train_step(%x [micro 2, embed 3])
//     %0 = fill() {dims = ["embed"], dtype = "f32", sizes = [3], value = 0.0} [embed 3]
//     %1 = repeat(%0, %x) {callee = @micro, carried = 1, count = 2, dim = "micro", sliced = 1} [embed 3]
//     return %1
