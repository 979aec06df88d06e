// The gradient of a routing weight reads a token's gradient, which a matmul makes, and what an expert gave, which
// nothing else asks to be rounded: both are bf16, and their dot product is f32.
// RUN: lower-precision
// TOLERANCE: 2e-2
!x = tensor<1x4x8xf32, {dims = ["group", "token", "embed"]}>
!y = tensor<1x1x5x8xf32, {dims = ["owner", "group", "row", "embed"]}>
!w = tensor<6x8xf32, {dims = ["ffn", "embed"]}>
!p = tensor<1x4x2xi32, {dims = ["group", "token", "choice"]}>
!d = tensor<1x4x2xf32, {dims = ["group", "token", "choice"]}>
!m = tensor<1x4x6xf32, {dims = ["group", "token", "ffn"]}>
!n = tensor<1x1x5x6xf32, {dims = ["owner", "group", "row", "ffn"]}>
module attributes {neox.precision = "bf16"} {
  func.func @logits(%x: !x {neox.name = "x", neox.role = "batch"}, %y: !y {neox.name = "y", neox.role = "batch"}, %p: !p {neox.name = "p", neox.role = "batch"}, %w: !w {neox.param = "w"}) -> !d {
    %0 = "neox.matmul"(%x, %w) {contract = "embed"} : (!x, !w) -> !m
    %1 = "neox.matmul"(%y, %w) {contract = "embed"} : (!y, !w) -> !n
    %2 = "neox.add"(%1, %1) : (!n, !n) -> !n
    %3 = "neox.route_dot"(%0, %2, %p) : (!m, !n, !p) -> !d
    return %3 : !d
  }
}
// EXPECT:
//   module {precision = "bf16"}
//   @logits(%x [group 1, token 4, embed 8] {name = "x", role = "batch"}, %y [owner 1, group 1, row 5, embed 8] {name = "y", role = "batch"}, %p i32[group 1, token 4, choice 2] {name = "p", role = "batch"}, %w [ffn 6, embed 8] {param = "w"})
//     %0 = cast(%x) {dtype = "bf16"} bf16[group 1, token 4, embed 8]
//     %1 = cast(%w) {dtype = "bf16"} bf16[ffn 6, embed 8]
//     %2 = matmul(%0, %1) {contract = "embed"} [group 1, token 4, ffn 6]
//     %3 = cast(%2) {dtype = "bf16"} bf16[group 1, token 4, ffn 6]
//     %4 = cast(%y) {dtype = "bf16"} bf16[owner 1, group 1, row 5, embed 8]
//     %5 = matmul(%4, %1) {contract = "embed"} [owner 1, group 1, row 5, ffn 6]
//     %6 = cast(%5) {dtype = "bf16"} bf16[owner 1, group 1, row 5, ffn 6]
//     %7 = cast(%6) {dtype = "f32"} [owner 1, group 1, row 5, ffn 6]
//     %8 = add(%7, %7) [owner 1, group 1, row 5, ffn 6]
//     %9 = cast(%8) {dtype = "bf16"} bf16[owner 1, group 1, row 5, ffn 6]
//     %10 = route_dot(%3, %9, %p) [group 1, token 4, choice 2]
//     return %10
