// Adding what is whole to a part of a sum would count it on every rank: the all-reduce stands in front of the add; the
// product with a constant passes the part on.
// RUN: partition-program tensor=2
!x = tensor<4x8xf32, {dims = ["seq", "embed"]}>
!w = tensor<6x8xf32, {dims = ["ffn", "embed"]}>
!y = tensor<4x6xf32, {dims = ["seq", "ffn"]}>
!b = tensor<6xf32, {dims = ["ffn"]}>
module {
  func.func @train_step(%y: !y {neox.layout = ["", "tensor"], neox.name = "y", neox.role = "batch"}, %x: !x {neox.name = "x", neox.role = "batch"}, %w: !w {neox.layout = ["tensor", ""], neox.param = "w"}) -> !x {
    %0 = "neox.matmul"(%y, %w) {contract = "ffn"} : (!y, !w) -> !x
    %1 = "neox.neg"(%0) : (!x) -> !x
    %2 = "neox.add"(%1, %x) : (!x, !x) -> !x
    return %2 : !x
  }
}
// EXPECT:
//   module {mesh = ["pipe=1", "data=1", "expert=1", "context=1", "tensor=2"]}
//   @train_step(%y [seq 4, ffn 3] {layout = ["", "tensor"], name = "y", role = "batch"}, %x [seq 4, embed 8] {name = "x", role = "batch"}, %w [ffn 3, embed 8] {layout = ["tensor", ""], param = "w"})
//     %0 = matmul(%y, %w) {contract = "ffn"} [seq 4, embed 8]
//     %1 = neg(%0) [seq 4, embed 8]
//     %2 = all_reduce(%1) {axis = "tensor", ranks = 2} [seq 4, embed 8]
//     %3 = add(%2, %x) [seq 4, embed 8]
//     return %3
