// The first matmul makes a shard of the columns, the activation is each rank's own, the second one makes parts of a sum.
// RUN: partition-program tensor=2
!x = tensor<4x8xf32, {dims = ["seq", "embed"]}>
!w = tensor<6x8xf32, {dims = ["ffn", "embed"]}>
!y = tensor<4x6xf32, {dims = ["seq", "ffn"]}>
!b = tensor<6xf32, {dims = ["ffn"]}>
module {
  func.func @train_step(%x: !x {neox.name = "x", neox.role = "batch"}, %w: !w {neox.layout = ["tensor", ""], neox.param = "w"}, %b: !b {neox.layout = ["tensor"], neox.param = "b"}) -> !x {
    %0 = "neox.matmul"(%x, %w) {contract = "embed"} : (!x, !w) -> !y
    %1 = "neox.add"(%0, %b) : (!y, !b) -> !y
    %2 = "neox.gelu"(%1) {approximate = "none"} : (!y) -> !y
    %3 = "neox.matmul"(%2, %w) {contract = "ffn"} : (!y, !w) -> !x
    return %3 : !x
  }
}
// EXPECT:
//   module {mesh = ["pipe=1", "data=1", "expert=1", "context=1", "tensor=2"]}
//   @train_step(%x [seq 4, embed 8] {name = "x", role = "batch"}, %w [ffn 3, embed 8] {layout = ["tensor", ""], param = "w"}, %b [ffn 3] {layout = ["tensor"], param = "b"})
//     %0 = matmul(%x, %w) {contract = "embed"} [seq 4, ffn 3]
//     %1 = add(%0, %b) [seq 4, ffn 3]
//     %2 = gelu(%1) {approximate = "none"} [seq 4, ffn 3]
//     %3 = matmul(%2, %w) {contract = "ffn"} [seq 4, embed 8]
//     %4 = all_reduce(%3) {axis = "tensor", ranks = 2} [seq 4, embed 8]
//     return %4
