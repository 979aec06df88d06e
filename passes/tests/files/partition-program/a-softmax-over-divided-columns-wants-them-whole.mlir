// A softmax needs whole rows: the shards are gathered.
// RUN: partition-program tensor=2
!x = tensor<4x8xf32, {dims = ["seq", "embed"]}>
!w = tensor<6x8xf32, {dims = ["ffn", "embed"]}>
!y = tensor<4x6xf32, {dims = ["seq", "ffn"]}>
!b = tensor<6xf32, {dims = ["ffn"]}>
module {
  func.func @train_step(%x: !x {neox.name = "x", neox.role = "batch"}, %w: !w {neox.layout = ["tensor", ""], neox.param = "w"}) -> !y {
    %0 = "neox.matmul"(%x, %w) {contract = "embed"} : (!x, !w) -> !y
    %1 = "neox.softmax"(%0) {dim = "ffn"} : (!y) -> !y
    return %1 : !y
  }
}
// EXPECT:
//   module {mesh = ["pipe=1", "data=1", "expert=1", "context=1", "tensor=2"]}
//   @train_step(%x [seq 4, embed 8] {name = "x", role = "batch"}, %w [ffn 3, embed 8] {layout = ["tensor", ""], param = "w"})
//     %0 = matmul(%x, %w) {contract = "embed"} [seq 4, ffn 3]
//     %1 = all_gather(%0) {axis = "tensor", dim = "ffn", ranks = 2} [seq 4, ffn 6]
//     %2 = softmax(%1) {dim = "ffn"} [seq 4, ffn 6]
//     return %2
