// The sum over micro-batches is one rank's shard: each contribution is scattered, and the scatter behind the loop goes.
// RUN: divide-state data=2 zero_stage=2
!w = tensor<4xf32, {dims = ["embed"]}>
!h = tensor<2xf32, {dims = ["embed"]}>
!t = tensor<2x4xf32, {dims = ["micro", "embed"]}>
module attributes {neox.mesh = ["data=2"]} {
  func.func @micro_step(%g: !w, %x: !w, %w: !w) -> !w {
    %0 = "neox.mul"(%w, %x) : (!w, !w) -> !w
    %1 = "neox.add"(%g, %0) : (!w, !w) -> !w
    return %1 : !w
  }
  func.func @train_step(%w: !w {neox.param = "w"}, %m: !h {neox.layout = ["data"], neox.name = "w", neox.role = "state", neox.slot = "exp_avg"}, %t: !t {neox.name = "tokens", neox.role = "batch"}) -> (!w, !h) attributes {neox.results = ["param w", "state exp_avg w"]} {
    %z = "neox.fill"() {dims = ["embed"], dtype = "f32", sizes = [4], value = 0.0 : f64} : () -> !w
    %0 = "neox_loop.repeat"(%z, %t, %w) {callee = @micro_step, carried = 1, count = 2, dim = "micro", sliced = 1} : (!w, !t, !w) -> !w
    %1 = "neox.reduce_scatter"(%0) {axis = "data", dim = "embed", ranks = 2} : (!w) -> !h
    %2 = "neox.add"(%m, %1) : (!h, !h) -> !h
    %3 = "neox.take_part"(%w) {axis = "data", dim = "embed", ranks = 2} : (!w) -> !h
    %4 = "neox.sub"(%3, %2) : (!h, !h) -> !h
    %5 = "neox.all_gather"(%4) {axis = "data", dim = "embed", ranks = 2} : (!h) -> !w
    return %5, %2 : !w, !h
  }
}
// EXPECT:
//   module {mesh = ["data=2"]}
//   @micro_step(%g [embed 2], %x [embed 4], %w [embed 4])
//     %0 = mul(%w, %x) [embed 4]
//     %1 = reduce_scatter(%0) {axis = "data", dim = "embed", ranks = 2} [embed 2]
//     %2 = add(%g, %1) [embed 2]
//     return %2
//   @train_step(%w [embed 4] {gradient_layout = ["data"], param = "w"}, %m [embed 2] {layout = ["data"], name = "w", role = "state", slot = "exp_avg"}, %t [micro 2, embed 4] {name = "tokens", role = "batch"}) {results = ["param w", "state exp_avg w"]}
//     %0 = fill() {dims = ["embed"], dtype = "f32", sizes = [2], value = 0.0} [embed 2]
//     %1 = repeat(%0, %t, %w) {callee = @micro_step, carried = 1, count = 2, dim = "micro", sliced = 1} [embed 2]
//     %2 = add(%m, %1) [embed 2]
//     %3 = take_part(%w) {axis = "data", dim = "embed", ranks = 2} [embed 2]
//     %4 = sub(%3, %2) [embed 2]
//     %5 = all_gather(%4) {axis = "data", dim = "embed", ranks = 2} [embed 4]
//     return %5, %2
