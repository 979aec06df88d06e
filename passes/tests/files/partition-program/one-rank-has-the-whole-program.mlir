// RUN: partition-program
!x = tensor<4x8xf32, {dims = ["seq", "embed"]}>
!w = tensor<6x8xf32, {dims = ["ffn", "embed"]}>
!y = tensor<4x6xf32, {dims = ["seq", "ffn"]}>
!b = tensor<6xf32, {dims = ["ffn"]}>
module {
  func.func @train_step(%x: !x {neox.name = "x", neox.role = "batch"}, %w: !w {neox.param = "w"}) -> !y {
    %0 = "neox.matmul"(%x, %w) {contract = "embed"} : (!x, !w) -> !y
    return %0 : !y
  }
}
// EXPECT:
//   module {mesh = ["pipe=1", "data=1", "expert=1", "context=1", "tensor=1"]}
//   @train_step(%x [seq 4, embed 8] {name = "x", role = "batch"}, %w [ffn 6, embed 8] {param = "w"})
//     %0 = matmul(%x, %w) {contract = "embed"} [seq 4, ffn 6]
//     return %0
