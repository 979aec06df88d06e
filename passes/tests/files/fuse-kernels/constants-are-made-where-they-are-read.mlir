// The constant is no kernel of its own: the kernel that reads it has it. Calls stay what they are.
// RUN: fuse-kernels
!x = tensor<4x8xf32, {dims = ["seq", "embed"]}>
!c = tensor<8xf32, {dims = ["embed"]}>
!s = tensor<f32>
module attributes {neox.mesh = ["data=1"]} {
  func.func @half(%x: !x) -> !x {
    %0 = "neox.fill"() {dims = [], dtype = "f32", sizes = [], value = 0.5 : f64} : () -> !s
    %1 = "neox.mul"(%x, %0) : (!x, !s) -> !x
    return %1 : !x
  }
  func.func @eval_step(%x: !x) -> !c {
    %0 = "func.call"(%x) {callee = @half} : (!x) -> !x
    %1 = "neox.reduce_sum"(%0) {dims = ["seq"]} : (!x) -> !c
    return %1 : !c
  }
}
// EXPECT:
//   module {mesh = ["data=1"]}
//   @rowwise_0(%p0 [seq 4, embed 8]) {inplace = [0, 0], kernel = "rowwise"}
//     %0 = fill() {dims = [], dtype = "f32", sizes = [], value = 0.5} []
//     %1 = mul(%p0, %0) [seq 4, embed 8]
//     return %1
//   @columnwise_0(%p0 [seq 4, embed 8]) {kernel = "columnwise"}
//     %0 = reduce_sum(%p0) {dims = ["seq"]} [embed 8]
//     return %0
//   @half(%x [seq 4, embed 8])
//     %0 = call(%x) {callee = @rowwise_0} [seq 4, embed 8]
//     return %0
//   @eval_step(%x [seq 4, embed 8])
//     %0 = call(%x) {callee = @half} [seq 4, embed 8]
//     %1 = call(%0) {callee = @columnwise_0} [embed 8]
//     return %1
