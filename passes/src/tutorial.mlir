module {
  func.func @loss(%w: tensor<8x4xf32, {dims = ["ffn", "embed"]}> {neox.param = "layer.weight"}, %x: tensor<6x4xf32, {dims = ["seq", "embed"]}> {neox.role = "batch"}) -> tensor<f32> {
    %0 = "neox.matmul"(%x, %w) {contract = "embed"} : (tensor<6x4xf32, {dims = ["seq", "embed"]}>, tensor<8x4xf32, {dims = ["ffn", "embed"]}>) -> tensor<6x8xf32, {dims = ["seq", "ffn"]}>
    %1 = "neox.reduce_max"(%0) {dims = ["ffn"]} : (tensor<6x8xf32, {dims = ["seq", "ffn"]}>) -> tensor<6xf32, {dims = ["seq"]}>
    %2 = "neox.sub"(%0, %1) : (tensor<6x8xf32, {dims = ["seq", "ffn"]}>, tensor<6xf32, {dims = ["seq"]}>) -> tensor<6x8xf32, {dims = ["seq", "ffn"]}>
    %3 = "neox.exp"(%2) : (tensor<6x8xf32, {dims = ["seq", "ffn"]}>) -> tensor<6x8xf32, {dims = ["seq", "ffn"]}>
    %4 = "neox.reduce_sum"(%3) {dims = ["ffn"]} : (tensor<6x8xf32, {dims = ["seq", "ffn"]}>) -> tensor<6xf32, {dims = ["seq"]}>
    %5 = "neox.div"(%3, %4) : (tensor<6x8xf32, {dims = ["seq", "ffn"]}>, tensor<6xf32, {dims = ["seq"]}>) -> tensor<6x8xf32, {dims = ["seq", "ffn"]}>
    %6 = "neox.mul"(%5, %5) : (tensor<6x8xf32, {dims = ["seq", "ffn"]}>, tensor<6x8xf32, {dims = ["seq", "ffn"]}>) -> tensor<6x8xf32, {dims = ["seq", "ffn"]}>
    %7 = "neox.reduce_sum"(%6) {dims = ["seq", "ffn"]} : (tensor<6x8xf32, {dims = ["seq", "ffn"]}>) -> tensor<f32>
    return %7 : tensor<f32>
  }
}
