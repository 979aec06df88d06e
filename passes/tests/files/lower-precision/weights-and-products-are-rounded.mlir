// The product reads bf16; what it makes is kept in bf16. The parameter and the result of the entry stay f32.
// RUN: lower-precision
// TOLERANCE: 2e-2
!x = tensor<4x8xf32, {dims = ["seq", "embed"]}>
!w = tensor<6x8xf32, {dims = ["ffn", "embed"]}>
!y = tensor<4x6xf32, {dims = ["seq", "ffn"]}>
module attributes {neox.precision = "bf16"} {
  func.func @logits(%x: !x {neox.name = "x", neox.role = "batch"}, %w: !w {neox.param = "w"}) -> !y {
    %0 = "neox.exp"(%x) : (!x) -> !x
    %1 = "neox.matmul"(%0, %w) {contract = "embed"} : (!x, !w) -> !y
    %2 = "neox.gelu"(%1) {approximate = "none"} : (!y) -> !y
    return %2 : !y
  }
}
// EXPECT:
//   module {precision = "bf16"}
//   @logits(%x [seq 4, embed 8] {name = "x", role = "batch"}, %w [ffn 6, embed 8] {param = "w"})
//     %0 = exp(%x) [seq 4, embed 8]
//     %1 = cast(%0) {dtype = "bf16"} bf16[seq 4, embed 8]
//     %2 = cast(%w) {dtype = "bf16"} bf16[ffn 6, embed 8]
//     %3 = matmul(%1, %2) {contract = "embed"} [seq 4, ffn 6]
//     %4 = cast(%3) {dtype = "bf16"} bf16[seq 4, ffn 6]
//     %5 = cast(%4) {dtype = "f32"} [seq 4, ffn 6]
//     %6 = gelu(%5) {approximate = "none"} [seq 4, ffn 6]
//     return %6
