// The bias and the gelu are the product's epilogue: one kernel.
// RUN: fuse-kernels
!x = tensor<4x8xf32, {dims = ["seq", "embed"]}>
!w = tensor<6x8xf32, {dims = ["ffn", "embed"]}>
!b = tensor<6xf32, {dims = ["ffn"]}>
!y = tensor<4x6xf32, {dims = ["seq", "ffn"]}>
module attributes {neox.mesh = ["data=1"]} {
  func.func @eval_step(%x: !x, %w: !w, %b: !b) -> !y {
    %0 = "neox.matmul"(%x, %w) {contract = "embed"} : (!x, !w) -> !y
    %1 = "neox.add"(%0, %b) : (!y, !b) -> !y
    %2 = "neox.gelu"(%1) {approximate = "tanh"} : (!y) -> !y
    return %2 : !y
  }
}
// EXPECT:
//   module {mesh = ["data=1"]}
//   @matmul_0(%p0 [seq 4, embed 8], %p1 [ffn 6, embed 8], %p2 [ffn 6]) {kernel = "matmul"}
//     %0 = matmul(%p0, %p1) {contract = "embed"} [seq 4, ffn 6]
//     %1 = add(%0, %p2) [seq 4, ffn 6]
//     %2 = gelu(%1) {approximate = "tanh"} [seq 4, ffn 6]
//     return %2
//   @eval_step(%x [seq 4, embed 8], %w [ffn 6, embed 8], %b [ffn 6])
//     %0 = call(%x, %w, %b) {callee = @matmul_0} [seq 4, ffn 6]
//     return %0
